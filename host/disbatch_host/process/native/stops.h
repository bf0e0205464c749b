/* Stopping runs, and ending what is left of them.
 *
 * Responsible for: who is signalled with what and when, from the stop signal to the last pass of SIGKILL. Must not know:
 * why a node wants it.
 */
#ifndef DISBATCH_STOPS_H
#define DISBATCH_STOPS_H

#include "supervisor.h"

/* The stop signal now, SIGKILL after the grace. The first reason stays. */
void run_stop(struct run *run, enum stop_reason reason);
void run_kill(struct run *run, enum stop_reason reason);

/* Go on with a run whose first process has ended. */
void run_end_rest(struct run *run);

/* One pass of SIGKILL is due. */
void run_kill_pass(struct run *run);

/* Go on with every run that waits for the end of its processes. */
void runs_look_at_rest(struct supervisor *all);

#endif
