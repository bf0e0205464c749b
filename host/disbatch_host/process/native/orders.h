/* What a node orders.
 *
 * Responsible for: the effect of each frame of a node but HELLO. Must not know: how it came.
 */
#ifndef DISBATCH_ORDERS_H
#define DISBATCH_ORDERS_H

#include "connection.h"

/* Carry out a frame. Returns NULL, or the rule that it breaks. */
const char *order(struct connection *connection, const struct frame *frame);

/* The connection is closed: starts and tasks whose input has not come whole are void. */
void orders_void(struct supervisor *all);

/* A process can be written to again. */
void run_input_is_writable(struct run *run);

/* Its process has ended: the task that still waited for it is told as one of which nothing was written. */
void run_refuse_next_task(struct run *run);

#endif
