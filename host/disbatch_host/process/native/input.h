/* The stdin of one run.
 *
 * Responsible for: writing as the program reads, never waiting, and saying truly how much it has not read. Must not know:
 * where the bytes come from.
 */
#ifndef DISBATCH_INPUT_H
#define DISBATCH_INPUT_H

#include "supervisor.h"

/* Write what can be written; close it once everything is, if that is wanted. */
void input_flow(struct run *run);

/* Bytes of its input that the program has not read. */
uint64_t input_left(const struct run *run);

/* The program has ended. */
void input_end(struct run *run);

#endif
