/* The control group (cgroup v2) of a place, which one run after another has.
 *
 * Responsible for: its directory, its limit of memory, whom it holds. Must not know: runs, which others there are.
 */
#ifndef DISBATCH_GROUP_H
#define DISBATCH_GROUP_H

#include "buffer.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct group {
    struct group *next;
    uint64_t number;
    bool may_stay;          /* it is for runs whose processes may go on after them */
    int directory;
    int events;
    uint64_t limit;         /* of memory; 0: none */
    uint64_t times_full;    /* when the run began: how often its memory was at the limit and none could be had */
    uint64_t kills;         /* and how many of its processes were killed for want of memory */
};

/* A new one in the directory `above`. NULL, with errno. */
struct group *group_new(int above, uint64_t number, bool may_stay);

/* Forget it, and remove it if it is empty. */
void group_discard(struct group *group, int above);

/* Remove a group with those below it, as far as they are empty. */
void group_remove(int above, const char *name);

/* What all of it may use in bytes, without the disk; one process that asks for more ends all of them. 0: no limit. False,
 * with errno. */
bool group_set_limit(struct group *group, uint64_t limit);

/* Whether that has ended processes since it was set. */
bool group_hit_limit(const struct group *group);

/* Whether earlier runs have left so much in files of memory that it is not for another run with such a limit. */
bool group_holds_too_much(const struct group *group, uint64_t limit);
bool group_is_populated(const struct group *group);

/* Sends SIGKILL to every process in it, of any user. False: the kernel cannot (before Linux 5.14). */
bool group_kill(const struct group *group);

/* Call for each process in it, those in groups below included. */
void group_each_below(const struct group *group, bool (*call)(pid_t pid, void *with), void *with);

#endif
