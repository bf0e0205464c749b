/* The runs: their table, and the life of each from START to the last acknowledgment.
 *
 * Responsible for: what happens to a run and when. Must not know: connections; it only puts a run in the queue of those
 * that a node is to be told of.
 */
#ifndef DISBATCH_RUNS_H
#define DISBATCH_RUNS_H

#include "supervisor.h"

struct run *runs_find(const struct supervisor *all, uint64_t number);

/* The run whose first process leads a session or a group. */
struct run *runs_find_session(const struct supervisor *all, pid_t session, pid_t group);

/* Whether the processes of a run that is over may go on (PLUGIN_LEAVE_RUNNING). */
bool runs_left_running(const struct supervisor *all, uint64_t number);
void runs_may_go_on(struct supervisor *all, uint64_t number);

/* In the order of their numbers; NULL ends them. Free it. */
struct run **runs_sorted(const struct supervisor *all);

/* A new run, in the table. */
struct run *run_new(struct supervisor *all, uint64_t number, struct plugin *plugin);

/* Take a run out of the table; its memory lives until the end of the round. */
void run_release(struct run *run);
void runs_free_released(struct supervisor *all);

/* Hand it to the starters. */
void run_launch(struct run *run);

/* Runs that the starters are done with go on here. */
void runs_take_launched(struct supervisor *all);

/* It was not started: the node is told, and nothing of it is left. */
void run_not_started(struct run *run, int error, enum step step);

/* Set what is due next. */
void run_schedule(struct run *run);
void run_watch(struct run *run);
void run_set_limits(struct run *run, uint64_t from, uint64_t timeout, uint64_t idle_timeout);
void run_count_usage(struct run *run, const struct rusage *usage);

/* Nothing of it is left but what `left_over` names: make its END. */
void run_finish(struct run *run);

/* A node is to be told something of it. */
void run_has_news(struct run *run);

static inline bool run_is_active(const struct run *run)
{
    return run->phase < RUN_ENDED;
}

#endif
