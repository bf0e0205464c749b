#define _GNU_SOURCE
#include "init.h"

#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { WRONG_USE = 2, NOT_FOUND = 127, BY_SIGNAL = 128, FIRST_PAUSE = 1, LONGEST_PAUSE = 30, LIVED_WELL = 60 };

static const int PASSED_ON[] = {SIGTERM, SIGINT, SIGQUIT, SIGHUP, SIGUSR1, SIGUSR2, SIGCONT, SIGWINCH};
enum { PASSED_ON_COUNT = sizeof(PASSED_ON) / sizeof(*PASSED_ON) };

struct kept {
    char **command;
    pid_t pid;      /* 0: it has ended */
    int status;     /* then, as waitpid gives it */
    bool is_asked;  /* to stop */
};

static sigset_t all_signals(void)
{
    sigset_t set;
    (void)sigemptyset(&set);
    (void)sigaddset(&set, SIGCHLD);
    for (int i = 0; i < PASSED_ON_COUNT; i++)
        (void)sigaddset(&set, PASSED_ON[i]);
    return set;
}

static int complain(const char *what, const char *why)
{
    (void)fprintf(stderr, "disbatch-supervisor: cannot %s: %s\n", what, why);
    return NOT_FOUND;
}

/* False: there is no room for a process. */
static bool start(struct kept *kept, const sigset_t *before)
{
    kept->pid = fork();
    if (kept->pid != 0)
        return kept->pid > 0;
    (void)sigprocmask(SIG_SETMASK, before, NULL);
    (void)execvp(kept->command[0], kept->command);
    _exit(complain("execute the command", strerror(errno)));
}

static void reap(struct kept *kept)
{
    int status;
    for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG | __WALL)) > 0;)
        if (pid == kept->pid) {
            kept->pid = 0;
            kept->status = status;
        }
}

/* A terminal's signals go to the command as well, which is in the same process group: twice would be another request. */
static void take(struct kept *kept, int number, bool is_of_terminal)
{
    if (number == SIGCHLD) {
        reap(kept);
        return;
    }
    kept->is_asked = kept->is_asked || number == SIGTERM || number == SIGINT;
    if (kept->pid > 0 && !is_of_terminal)
        (void)kill(kept->pid, number);
}

/* Take signals for so many seconds at most, or until the command has ended, or is not there and was asked to stop. */
static void wait_for(struct kept *kept, const sigset_t *set, time_t seconds)
{
    bool is_there = kept->pid > 0;
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    time_t until = now.tv_sec + seconds;
    while (is_there ? kept->pid > 0 : now.tv_sec < until && !kept->is_asked) {
        struct timespec left = {until - now.tv_sec, 0};
        siginfo_t info = {0};
        int number = is_there ? sigwaitinfo(set, &info) : sigtimedwait(set, &info, &left);
        if (number > 0)
            take(kept, number, info.si_code == SI_KERNEL);
        (void)clock_gettime(CLOCK_MONOTONIC, &now);
    }
}

static int code_of(int status)
{
    return WIFSIGNALED(status) ? BY_SIGNAL + WTERMSIG(status) : WEXITSTATUS(status);
}

static bool is_final(const struct kept *kept)
{
    return kept->is_asked || code_of(kept->status) == 0 || code_of(kept->status) == WRONG_USE ||
           code_of(kept->status) == NOT_FOUND;
}

int init_run(char **command)
{
    struct kept kept = {.command = command, .status = NOT_FOUND << 8};
    sigset_t set = all_signals();
    sigset_t before;
    (void)sigprocmask(SIG_BLOCK, &set, &before);
    (void)prctl(PR_SET_CHILD_SUBREAPER, 1); /* where it is not the first process */
    time_t pause = FIRST_PAUSE;
    for (;;) {
        struct timespec began;
        struct timespec ended;
        (void)clock_gettime(CLOCK_MONOTONIC, &began);
        if (start(&kept, &before)) {
            wait_for(&kept, &set, 0);
            if (is_final(&kept))
                return code_of(kept.status);
            (void)clock_gettime(CLOCK_MONOTONIC, &ended);
            pause = ended.tv_sec - began.tv_sec >= LIVED_WELL ? FIRST_PAUSE : pause;
            (void)fprintf(stderr, "disbatch-supervisor: %s ended with %d; it is started again in %d s\n", command[0],
                          code_of(kept.status), (int)pause);
        } else { /* runs of an earlier life may take up all that there is: they are not to end with this process */
            kept.pid = 0;
            (void)complain("start the command now", strerror(errno));
        }
        wait_for(&kept, &set, pause);
        if (kept.is_asked)
            return code_of(kept.status);
        pause = pause * 2 < LONGEST_PAUSE ? pause * 2 : LONGEST_PAUSE;
    }
}
