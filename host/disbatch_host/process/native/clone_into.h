/* A process that is born in a control group. */
#ifndef DISBATCH_CLONE_INTO_H
#define DISBATCH_CLONE_INTO_H

#include <stddef.h>
#include <sys/types.h>

/* As clone(2) with CLONE_VM, CLONE_VFORK and CLONE_PIDFD, in the group whose directory `group` is. Below 0, with errno:
 * the kernel has none (ENOSYS), or that is not possible in this group. `main` does not return. */
pid_t clone_into(int group, int (*main)(void *), void *argument, char *stack, size_t stack_size, int *pidfd);

#endif
