/* Facts about this machine and this process.
 *
 * Responsible for: whether the program can work here, and in what surroundings programs are started. Must not know: runs.
 */
#ifndef DISBATCH_MACHINE_H
#define DISBATCH_MACHINE_H

#include "supervisor.h"

#ifndef SOURCE_HASH
#define SOURCE_HASH "unknown"
#endif

bool machine_random(uint8_t *bytes, size_t size);

/* "DISBATCH_RUN=<id in hex>-" */
void machine_mark_name(char *to, const uint8_t id[SUPERVISOR_ID_SIZE]);
uint64_t machine_mount_namespace(void);

/* What programs write to oom_score_adj: less protection than this process has; empty where it has none. */
void machine_program_protection(char *to, size_t size);

/* What a program that is started here inherits, as lines of text of at most WORDS_MAX bytes. */
char *machine_fingerprint(size_t *size);

/* The names, in words, of the limits and rights in which a process differs from a fingerprint; false: in none. Where it
 * lives (namespaces, cgroup) is left out: each start of a service and each login has others. */
bool machine_differs(const char *fingerprint, pid_t pid, char *names, size_t size);

/* NULL, or why this program cannot work here. */
const char *machine_self_test(void);

/* Whatever is opened from now on has a number above 3, also where this process was started without stdin. */
bool machine_reserve_descriptors(void);

/* Descriptors 0, 1 and 3 are /dev/null, as is 2 unless it is open, and no program inherits any other. Returns the new
 * number of `kept`; below 0, with errno: it failed. */
int machine_settle_descriptors(int kept);

/* Block every signal and give each its default action: what is heard is read from a descriptor. */
bool machine_take_signals(void);

#endif
