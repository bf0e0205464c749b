/* Starting programs: threads that fork and wait until exec has succeeded.
 *
 * Responsible for: pipes, everything between fork and exec, and saying at which step it failed. Must not know: what
 * happens to the process afterwards.
 *
 * The main thread never forks, so its only children are orphans of the runs. The threads never end: the children of one
 * that ends would become the main thread's.
 */
#ifndef DISBATCH_START_H
#define DISBATCH_START_H

#include "supervisor.h"

/* One start: what it needs, all of it made before, and what came of it. The main thread may look at `pidfd` while a
 * thread has it, and at the rest once `starters_take` returned it. */
struct launch {
    struct launch *next;
    struct run *run;
    const struct plugin *plugin;
    const struct supervisor *all;
    const char *directory;
    char **argv;               /* the plugin's, or the copy below */
    char **own_argv;           /* with the words that the run adds; NULL: it adds none */
    char **environment;
    uint8_t *bytes;            /* of the variables and words that the run adds */
    size_t size;
    const uint8_t *input;      /* the first part, to be written before the fork */
    size_t input_size;
    uint64_t asked_at;
    uint64_t trusted;
    uint64_t queued_at;
    uint64_t run_number;
    uint8_t flags;             /* see enum input_flags */
    int group;                 /* the directory of its control group; below 0: it has none */
    bool limits_memory;        /* that group does it */
    bool enters;               /* its process goes there by itself, since the kernel does not make it there */
    bool is_outside;           /* it could not: it has neither the group nor its limit */
    bool is_begun;             /* by the starters' lock: a thread has it */
    bool is_done;
    bool wakes;                /* the main thread is told of it at once */
    bool is_named;             /* in the log, since it takes so long */

    pid_t pid;
    uint64_t started_at;
    atomic_int pidfd;          /* the kernel writes it while the thread waits */
    bool is_watched;           /* the epoll knows it */
    int ends[4];               /* of stdin (to write), stdout, stderr, events */
    int unread;                /* the end of stdin that is read, once the other is closed */
    size_t written;            /* of `input` */
    atomic_int step;
    int error;                 /* 0: it runs */
};

bool starters_open(struct supervisor *all);

/* Hand a start over. It is returned by `starters_take` sooner or later. */
void starters_give(struct starters *starters, struct launch *launch);

/* Take it back. False: a thread has it already. */
bool starters_withdraw(struct starters *starters, struct launch *launch);

/* Tell the main thread of this one as soon as it is done. True: it is done. */
bool starters_hurry(struct starters *starters, struct launch *launch);

/* SIGKILL to its process, if a thread has it and there is one. */
void starters_kill(struct starters *starters, struct launch *launch);

/* Another thread, for those that wait behind starts that hang. False: there are as many as there may be. */
bool starters_grow(struct starters *starters);

/* All that are done. */
struct launch *starters_take(struct starters *starters);

/* Of the thread that asks. */
void start_program(struct launch *launch, char *stack, size_t stack_size);

#endif
