/* Telling a node what there is to tell.
 *
 * Responsible for: which frame of which run comes next, made from the run only when there is room for it: what a node
 * does not read costs no memory. Must not know: how bytes are sent.
 */
#ifndef DISBATCH_TELL_H
#define DISBATCH_TELL_H

#include "supervisor.h"

/* As Python's logging has them. */
enum log_level { LOG_DEBUG = 10, LOG_INFO = 20, LOG_WARNING = 30, LOG_ERROR = 40 };

/* Put a run in the queue, or take it out. */
void tell_later(struct run *run);
void tell_forget(struct run *run);

/* Tell of the runs in the queue as far as there is room. */
void tell_news(struct supervisor *all);

/* All that a new connection hears first, up to READY; ENDs among it follow by `tell_news`. */
void tell_everything(struct supervisor *all);

/* The runs, to somebody who only looks. */
void tell_runs(struct supervisor *all, struct connection *visitor);

void tell_not_started(struct run *run, int error, enum step step);

/* Output was lost since no file can be written. */
void tell_no_room(struct run *run, int error);
void tell_lost(struct run *run, int error);
__attribute__((format(printf, 3, 4))) void tell_log(struct supervisor *all, enum log_level level, const char *format,
                                                     ...);

#endif
