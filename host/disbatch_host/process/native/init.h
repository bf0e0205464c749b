/* The first process of a container.
 *
 * Responsible for: keeping one command there, which is a node, so that its supervisor and its runs outlive it; reaping what
 * comes to the first process. Must not know: frames, runs, what the command does.
 *
 * 1. Signals that ask a program to do something go to the command.
 * 2. A command that ends by a signal, or with a code other than 0 and 2 (a mistake in its settings), is started again after a
 *    pause, unless it was asked to stop before. The pause doubles while it does not live long.
 * 3. Any other end of it is the end of this process, with the same code, or 128 and the number of the signal.
 */
#ifndef DISBATCH_INIT_H
#define DISBATCH_INIT_H

/* `command`: as execvp takes it. Returns the exit code. */
int init_run(char **command);

#endif
