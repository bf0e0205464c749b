/* Going into the background.
 *
 * Responsible for: two forks, and telling the one who started it whether it listens. Must not know: what it does then.
 */
#ifndef DISBATCH_DAEMON_H
#define DISBATCH_DAEMON_H

/* Returns the exit code of the process that the caller started; the supervisor itself never returns from it. */
int daemon_start(const char *directory);

#endif
