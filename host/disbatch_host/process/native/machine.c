#define _GNU_SOURCE
#include "machine.h"

#include "find.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SIGNALS = 64, SIGNAL_BYTES = 8, LESS_PROTECTED = 100 };

bool machine_random(uint8_t *bytes, size_t size)
{
    return getrandom(bytes, size, 0) == (ssize_t)size;
}

void machine_mark_name(char *to, const uint8_t id[SUPERVISOR_ID_SIZE])
{
    char *at = stpcpy(to, "DISBATCH_RUN=");
    for (int i = 0; i < SUPERVISOR_ID_SIZE; i++)
        at += sprintf(at, "%02x", id[i]);
    (void)strcpy(at, "-");
}

void machine_program_protection(char *to, size_t size)
{
    int score = 0;
    FILE *file = fopen("/proc/self/oom_score_adj", "re");
    *to = '\0';
    if (file == NULL)
        return;
    if (fscanf(file, "%d", &score) == 1 && score < 0)
        (void)snprintf(to, size, "%d", score + LESS_PROTECTED);
    (void)fclose(file);
}

uint64_t machine_mount_namespace(void)
{
    struct stat status;
    return stat("/proc/self/ns/mnt", &status) == 0 ? status.st_ino : 0;
}

bool machine_take_signals(void)
{
    /* By system calls: the C library keeps two signals for itself, and would leave them ignored if they were. */
    static const uint8_t default_action[4 * sizeof(long) + SIGNAL_BYTES];
    uint8_t every[SIGNAL_BYTES];
    memset(every, 0xff, sizeof(every));
    for (int number = 1; number <= SIGNALS; number++)
        if (number != SIGKILL && number != SIGSTOP &&
            syscall(SYS_rt_sigaction, number, default_action, NULL, SIGNAL_BYTES) < 0)
            return false;
    return syscall(SYS_rt_sigprocmask, SIG_SETMASK, every, NULL, SIGNAL_BYTES) == 0;
}

enum { LOWEST = 4 }; /* descriptors 0 to 3 are those of programs: none of ours is one of them */

bool machine_reserve_descriptors(void)
{
    int fd;
    do
        fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    while (fd >= 0 && fd < LOWEST);
    if (fd >= 0)
        (void)close(fd);
    return fd >= 0;
}

int machine_settle_descriptors(int kept)
{
    int moved = fcntl(kept, F_DUPFD_CLOEXEC, LOWEST);
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    int high = fcntl(null, F_DUPFD_CLOEXEC, LOWEST);
    if (moved < 0 || high < 0)
        return -1;
    for (int fd = 0; fd < LOWEST; fd++)
        if ((fd != STDERR_FILENO || fcntl(fd, F_GETFD) < 0) && dup2(high, fd) < 0)
            return -1;
    (void)close(high);
    if (kept >= LOWEST)
        (void)close(kept);
    if (syscall(SYS_close_range, LOWEST, ~0U, 1U << 2 /* CLOSE_RANGE_CLOEXEC */) < 0)
        return -1;
    return moved;
}

struct text {
    char *at;
    size_t left;
};

static void add_text(struct text *text, const char *part, size_t size)
{
    if (size >= text->left)
        size = text->left - 1;
    memcpy(text->at, part, size);
    text->at += size;
    text->left -= size;
    *text->at = '\0';
}

/* The lines of a file that begin with one of some names; all of them without names. */
static void add_lines(struct text *text, const char *path, const char *const *names)
{
    FILE *file = fopen(path, "re");
    char *line = NULL;
    size_t capacity = 0;
    ssize_t size;
    if (file == NULL)
        return;
    while ((size = getline(&line, &capacity, file)) > 0) {
        bool is_wanted = names == NULL;
        for (const char *const *name = names; !is_wanted && *name != NULL; name++)
            is_wanted = strncmp(line, *name, strlen(*name)) == 0;
        if (is_wanted)
            add_text(text, line, (size_t)size);
    }
    free(line);
    (void)fclose(file);
}

static void add_rights(struct text *text, pid_t pid)
{
    static const char *const STATUS[] = {"Uid:", "Gid:", "Groups:", "Cap", "NoNewPrivs:", "Seccomp:", "Cpus_allowed:",
                                         NULL};
    char path[32];
    (void)snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
    add_lines(text, path, STATUS);
}

static void add_nice(struct text *text, pid_t pid)
{
    char nice[32];
    errno = 0;
    int value = getpriority(PRIO_PROCESS, (id_t)pid);
    if (errno == 0)
        add_text(text, nice, (size_t)snprintf(nice, sizeof(nice), "nice %d\n", value));
}

char *machine_fingerprint(size_t *size)
{
    static const char *const SPACES[] = {"mnt", "net", "pid", "cgroup", "user", "ipc", "uts", NULL};
    char *fingerprint = must_allocate(WORDS_MAX);
    struct text text = {fingerprint, WORDS_MAX};
    add_rights(&text, getpid());
    for (const char *const *space = SPACES; *space != NULL; space++) {
        char path[32];
        char target[64];
        (void)snprintf(path, sizeof(path), "/proc/self/ns/%s", *space);
        ssize_t length = readlink(path, target, sizeof(target) - 1);
        if (length <= 0)
            continue;
        target[length] = '\n';
        add_text(&text, target, (size_t)length + 1);
    }
    add_nice(&text, getpid());
    add_lines(&text, "/proc/self/cgroup", NULL);
    add_lines(&text, "/proc/self/limits", NULL);
    *size = (size_t)(text.at - fingerprint);
    return fingerprint;
}

static bool has_line(const char *lines, const char *line, size_t size)
{
    while (lines != NULL && *lines != '\0') {
        if (strncmp(lines, line, size) == 0)
            return true;
        lines = strchr(lines, '\n');
        lines = lines == NULL ? NULL : lines + 1;
    }
    return false;
}

/* Of a line: "Groups" of "Groups:", "Max open files" of what has two spaces behind that. */
static size_t name_size(const char *line)
{
    const char *end = strpbrk(line, ":\n0123456789");
    size_t size = end == NULL ? strlen(line) : (size_t)(end - line);
    const char *gap = strstr(line, "  ");
    if (gap != NULL && (size_t)(gap - line) < size)
        size = (size_t)(gap - line);
    while (size > 0 && line[size - 1] == ' ')
        size--;
    return size;
}

bool machine_differs(const char *fingerprint, pid_t pid, char *names, size_t size)
{
    char *lines = must_allocate(WORDS_MAX);
    struct text text = {lines, WORDS_MAX};
    struct text found = {names, size};
    char path[32];
    (void)snprintf(path, sizeof(path), "/proc/%d/limits", (int)pid);
    add_rights(&text, pid);
    add_nice(&text, pid);
    add_lines(&text, path, NULL);
    *names = '\0';
    for (const char *line = lines, *end; (end = strchr(line, '\n')) != NULL; line = end + 1) {
        if (has_line(fingerprint, line, (size_t)(end - line) + 1))
            continue;
        if (*names != '\0')
            add_text(&found, ", ", 2);
        add_text(&found, line, name_size(line));
    }
    free(lines);
    return *names != '\0';
}

__attribute__((no_sanitize("address"))) static int write_to_parent(void *argument)
{
    *(volatile int *)argument = 1;
    _exit(0);
}

/* Whether CLONE_VFORK with CLONE_VM shares memory and waits (some emulators fork instead), and gives a pidfd. */
static const char *test_clone(void)
{
    static _Alignas(16) char stack[16384];
    volatile int was_here = 0;
    int pidfd = -1;
    pid_t pid = clone(write_to_parent, stack + sizeof(stack), CLONE_VM | CLONE_VFORK | CLONE_PIDFD | SIGCHLD,
                      (void *)&was_here, &pidfd);
    if (pid < 0)
        return "the kernel does not give a pidfd with a new process (Linux 5.2)";
    if (waitpid(pid, NULL, __WALL) != pid)
        return "a child cannot be waited for";
    if (was_here == 0)
        return "a child does not share its parent's memory until exec (an emulator?)";
    if (pidfd < 0 || (syscall(SYS_pidfd_send_signal, pidfd, 0, NULL, 0) < 0 && errno != ESRCH))
        return "the kernel does not take signals by pidfd (Linux 5.1)";
    (void)close(pidfd);
    pidfd = (int)syscall(SYS_pidfd_open, getpid(), 0);
    if (pidfd < 0)
        return "the kernel does not open pidfds (Linux 5.3)";
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN};
    bool can_wait = epoll >= 0 && epoll_ctl(epoll, EPOLL_CTL_ADD, pidfd, &event) == 0;
    (void)close(epoll);
    (void)close(pidfd);
    return can_wait ? NULL : "a pidfd cannot be waited for";
}

const char *machine_self_test(void)
{
    siginfo_t info;
    char path[64];
    struct process self;
    if (syscall(SYS_close_range, ~0U, ~0U, 0) < 0)
        return "the kernel has no close_range (Linux 5.9), or does not permit it";
    const char *why = test_clone();
    if (why != NULL)
        return why;
    if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT | __WNOTHREAD) == 0 || errno != ECHILD)
        return "the kernel does not tell a thread's children apart (Linux 4.7)";
    (void)snprintf(path, sizeof(path), "/proc/%d/task/%d/children", (int)getpid(), (int)getpid());
    if (!process_read(getpid(), &self) || access(path, R_OK) < 0)
        return "/proc is not mounted, or does not list the children of a process (CONFIG_PROC_CHILDREN)";
    if (prctl(PR_SET_CHILD_SUBREAPER, 1) < 0)
        return "the kernel has no subreapers (Linux 3.4)";
    return NULL;
}
