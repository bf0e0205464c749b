/* Reading what a run writes, as it comes and at its end.
 *
 * Responsible for: the order in which the three streams are read, which says what was written before an event. Must not
 * know: what becomes of the bytes.
 */
#ifndef DISBATCH_READING_H
#define DISBATCH_READING_H

#include "supervisor.h"

/* Watch its output from now on. */
void run_watch(struct run *run);

/* Read what is in its pipes now, but no more than they hold. */
void run_read_rest(struct run *run);

/* Read again what was not read for want of room. */
void run_read_on(struct run *run);

/* What rested is read now. */
void run_rest_is_over(struct run *run);

/* Whether the program may have to wait in its writes, since what it says cannot be kept now. */
bool run_is_held(const struct run *run);

/* Whether it has said something on descriptor 3 that cannot be read for want of room. */
bool run_has_unread_events(const struct run *run);

/* Its first process has ended. */
void run_read_end(struct run *run);

static inline bool run_is_open(const struct run *run)
{
    return run->streams[0].source.fd >= 0 || run->streams[1].source.fd >= 0 || run->streams[2].source.fd >= 0;
}

#endif
