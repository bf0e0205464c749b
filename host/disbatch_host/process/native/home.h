/* The directory of a supervisor that outlives its node.
 *
 * Responsible for: its lock, socket, key, description, log, and what is left unacknowledged at the end. Must not know:
 * what peers say.
 *
 * The lock, held as long as it lives, is the only proof of its life. Only its holder replaces the socket, by rename, and
 * nobody unlinks it. All calls go through a descriptor of the directory: its path may be longer than an address may be.
 */
#ifndef DISBATCH_HOME_H
#define DISBATCH_HOME_H

#include "supervisor.h"

/* Open a directory, made if it is not there, and take its lock. NULL, with `why`: it cannot be. */
struct home *home_open(const char *path, const char **why);

/* Write the key and the description, and listen. False, with errno. */
bool home_listen(struct home *home, struct supervisor *all);
int home_directory(const struct home *home);
void home_log(struct home *home, const char *words);
struct blob home_key(const struct home *home);

/* Whether the socket is still its own; if not, it is made again. */
void home_check(struct supervisor *all);

/* Write what was not acknowledged to `ends`, as a new connection would hear it. */
void home_write_ends(struct supervisor *all);

/* Whether somebody has connected whom it has not met. */
bool home_has_peer(const struct home *home);

/* Nobody is listened to any more. */
void home_close(struct supervisor *all);

/* A connection to the supervisor in a directory, and its key. Below 0, with errno: there is none. */
int home_connect(const char *path, uint8_t *key, size_t key_size, pid_t *pid);

enum { KEY_SIZE = 16 };

#endif
