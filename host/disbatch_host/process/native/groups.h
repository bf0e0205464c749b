/* Control groups (cgroup v2) of the runs, where this supervisor may divide its own among them.
 *
 * Responsible for: which groups there are, and which a run gets. Must not know: when a run is stopped, how a process is
 * started in one.
 *
 * Below the delegated group each supervisor has one of its own, which it holds locked as long as it lives, and in that
 * one for each place. Where memory is to be limited, no process may be in the delegated group itself: then the node and
 * what started it are moved into one below. Another supervisor's groups are only removed, and only if that is dead.
 */
#ifndef DISBATCH_GROUPS_H
#define DISBATCH_GROUPS_H

#include "group.h"
#include "supervisor.h"

enum { FILES_OF_A_GROUP = 2, DESCRIPTION_SIZE = 8192 };

/* Before anything else of them. Whether there may be groups once a node is here. */
bool groups_open(struct supervisor *all);

/* A node is here, as process `node` (0: it is not known): have groups if they may be had, and say so in the log. */
void groups_meet(struct supervisor *all, pid_t node);

/* It has gone, and the runs go on: a service manager must be able to start it again in the delegated group. */
void groups_leave(struct supervisor *all);

/* This supervisor ends. */
void groups_close(struct supervisor *all);

/* A group for a run that is about to be started, with the limit of memory that its plugin names; NULL: it has none. */
struct group *groups_take(struct supervisor *all, const struct plugin *plugin);

/* The run has ended, and another may have it. One that is still populated waits until it is not. */
void groups_give_back(struct supervisor *all, struct group *group);

/* No run could be started in it. */
void groups_discard(struct supervisor *all, struct group *group);

/* The number of the group of this supervisor that a process is in; 0: none. `may_stay`: it is one of those whose
 * processes may go on (PLUGIN_LEAVE_RUNNING). */
uint64_t groups_number_of(const struct supervisor *all, pid_t pid, bool *may_stay);

/* In words, for people: what a supervisor started here and now would use. Changes nothing. */
void groups_describe(char *words, size_t size);

#endif
