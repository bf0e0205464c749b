/* The life of the supervisor: when it ends, and what becomes of its runs then.
 *
 * Responsible for: keeping runs without a node, shutting down, signals, the main loop. Must not know: frames.
 */
#ifndef DISBATCH_LIFE_H
#define DISBATCH_LIFE_H

#include "supervisor.h"

/* Fill in what does not change; false, with errno. To be called before anything else, with no other thread there. */
bool life_open(struct supervisor *all);

void life_node_came(struct supervisor *all);
void life_node_left(struct supervisor *all);

/* It has left, and needs this one no more. The next node is to have one of its own version, with its own limits. */
void life_node_ended(struct supervisor *all);

/* Serve until it is over. Returns the exit code. */
int life_run(struct supervisor *all);

#endif
