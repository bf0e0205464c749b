/* Which processes belong to a run, and signals to them.
 *
 * Responsible for: /proc, marks, never hitting a process that only has the number of one of ours. Must not know: why one
 * is signalled.
 */
#ifndef DISBATCH_FIND_H
#define DISBATCH_FIND_H

#include "supervisor.h"

enum { NAME_SIZE = 16 };

struct process {
    pid_t pid;
    pid_t parent;
    pid_t session;
    pid_t group;
    uint64_t started; /* clock ticks since boot */
    unsigned threads;
    bool is_alive;    /* not only a zombie */
    char name[NAME_SIZE];
};

struct processes {
    struct process *items;
    size_t count;
    size_t capacity;
};

/* False: there is no such process, or /proc does not tell. */
bool process_read(pid_t pid, struct process *process);
uint32_t process_uid(pid_t pid);

/* The living processes of a run: its first process, everything that descends from it, orphans that belong to it. */
void find_run(const struct run *run, struct processes *found);

/* The living orphans that belong to no run that there is, or only to one that has ended. */
void find_ownerless(struct supervisor *all, struct processes *found);
void processes_free(struct processes *processes);

/* 0, or the error that the kernel gave; ESRCH: it has ended. */
int process_signal(const struct process *process, int number);

/* Reap the orphans that have ended, and count what they used for their runs; once a round, which is enough where more of
 * them may end at any moment. */
void reap_orphans(struct supervisor *all);
void reap_orphans_now(struct supervisor *all);

/* The run of an orphan; NULL: none that there is. `number` is that of its mark, 0 without one. */
struct run *find_owner(struct supervisor *all, pid_t pid, uint64_t *number);

/* Whether a process, orphan or not, carries the mark of a run that there is. */
bool is_of_a_run(struct supervisor *all, pid_t pid);

/* Where the marks of the runs of the supervisor with this id begin: no other has the same, and they are below those that
 * it carries itself. 0: it cannot have any. */
uint64_t mark_base(const uint8_t id[SUPERVISOR_ID_SIZE]);

/* CPU time (microseconds) and memory (bytes) of a process. */
uint64_t process_cpu(pid_t pid);
void process_memory(pid_t pid, uint64_t *now, uint64_t *peak);

#endif
