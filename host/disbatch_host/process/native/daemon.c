#define _GNU_SOURCE
#include "daemon.h"

#include "home.h"
#include "life.h"
#include "machine.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { WORDS = 512 };

/* What could not be done, for the one who started it; it waits for the end of this pipe. */
static int give_up(int pipe, const char *what, const char *why)
{
    (void)dprintf(pipe, "%s: %s", what, why);
    return 1;
}

static int serve(struct home *home, int pipe)
{
    (void)umask(077);
    if (chdir("/") < 0)
        return give_up(pipe, "/", strerror(errno));
    pipe = machine_settle_descriptors(pipe);
    const char *why = machine_self_test();
    if (why != NULL)
        return give_up(pipe, "cannot work here", why);
    struct supervisor *all = must_allocate(sizeof(*all));
    all->home = home;
    if (pipe < 0 || !machine_take_signals() || !life_open(all))
        return give_up(pipe, "cannot begin", strerror(errno));
    all->spools.directory = home_directory(home);
    /* Its memory holds what programs read: no other process of this user may look at it. */
    if (prctl(PR_SET_DUMPABLE, 0) < 0)
        return give_up(pipe, "cannot begin", strerror(errno));
    /* Where it is allowed: a file system that goes away with its program's file must not end it. */
    (void)mlockall(MCL_CURRENT);
    if (!home_listen(home, all))
        return give_up(pipe, "cannot listen", strerror(errno));
    (void)dup2(0, 2); /* /dev/null; the log is in its directory */
    (void)close(pipe);
    return life_run(all);
}

/* Wait until it listens, or has said why not. */
static int wait_for(int pipe, pid_t child)
{
    char words[WORDS];
    size_t size = 0;
    ssize_t got;
    while ((got = read(pipe, words + size, sizeof(words) - 1 - size)) > 0 || (got < 0 && errno == EINTR))
        size += got > 0 ? (size_t)got : 0;
    words[size] = '\0';
    int status;
    if (waitpid(child, &status, 0) != child || !WIFEXITED(status) || WEXITSTATUS(status) != 0)
        return 1;
    if (size == 0)
        return 0;
    (void)fprintf(stderr, "disbatch-supervisor: %s\n", words);
    return 1;
}

int daemon_start(const char *directory)
{
    const char *why = "no /dev/null";
    struct home *home = machine_reserve_descriptors() ? home_open(directory, &why) : NULL;
    int ends[2];
    if (home == NULL || pipe2(ends, O_CLOEXEC) < 0) {
        (void)fprintf(stderr, "disbatch-supervisor: %s: %s\n", directory, home == NULL ? why : strerror(errno));
        return 1;
    }
    pid_t child = fork();
    if (child < 0) {
        (void)fprintf(stderr, "disbatch-supervisor: %s\n", strerror(errno));
        return 1;
    }
    if (child > 0) {
        (void)close(ends[1]);
        return wait_for(ends[0], child);
    }
    (void)close(ends[0]);
    if (setsid() < 0)
        _exit(1);
    child = fork(); /* not a leader of its session any more: no terminal can become its own */
    if (child != 0)
        _exit(child < 0);
    _exit(serve(home, ends[1]));
}
