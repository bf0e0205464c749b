#define _GNU_SOURCE
#include "clone_into.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <sys/syscall.h>

/* Of the kernel's own headers, which may be older. */
enum { CLONE3 = 435 };
static const uint64_t INTO_CGROUP = UINT64_C(1) << 33;

struct clone3_arguments {
    uint64_t flags;
    uint64_t pidfd;
    uint64_t child_tid;
    uint64_t parent_tid;
    uint64_t exit_signal;
    uint64_t stack;
    uint64_t stack_size;
    uint64_t tls;
    uint64_t set_tid;
    uint64_t set_tid_size;
    uint64_t cgroup;
};

/* By hand: the child comes back from the system call on another stack, where nothing is to return to. */
#if defined(__x86_64__) && !defined(__ILP32__)
static long clone3_to(const struct clone3_arguments *arguments, int (*main)(void *), void *argument)
{
    long result;
    register int (*to)(void *) __asm__("r12") = main;
    register void *with __asm__("r13") = argument;
    __asm__ volatile("syscall\n\t"
                     "testq %%rax, %%rax\n\t"
                     "jnz 1f\n\t"
                     "xorl %%ebp, %%ebp\n\t"
                     "movq %%r13, %%rdi\n\t"
                     "callq *%%r12\n\t"
                     "ud2\n"
                     "1:"
                     : "=a"(result)
                     : "0"((long)CLONE3), "D"(arguments), "S"(sizeof(*arguments)), "r"(to), "r"(with)
                     : "rcx", "r11", "memory", "cc");
    return result;
}
#elif defined(__aarch64__)
static long clone3_to(const struct clone3_arguments *arguments, int (*main)(void *), void *argument)
{
    register long number __asm__("x8") = CLONE3;
    register long result __asm__("x0") = (long)arguments;
    register size_t size __asm__("x1") = sizeof(*arguments);
    register int (*to)(void *) __asm__("x19") = main;
    register void *with __asm__("x20") = argument;
    __asm__ volatile("svc #0\n\t"
                     "cbnz x0, 1f\n\t"
                     "mov x29, #0\n\t"
                     "mov x0, x20\n\t"
                     "blr x19\n\t"
                     "brk #1\n"
                     "1:"
                     : "+r"(result)
                     : "r"(number), "r"(size), "r"(to), "r"(with)
                     : "memory", "cc");
    return result;
}
#else
static long clone3_to(const struct clone3_arguments *arguments, int (*main)(void *), void *argument)
{
    (void)arguments, (void)main, (void)argument;
    return -ENOSYS;
}
#endif

pid_t clone_into(int group, int (*main)(void *), void *argument, char *stack, size_t stack_size, int *pidfd)
{
    const struct clone3_arguments arguments = {
        .flags = CLONE_VM | CLONE_VFORK | CLONE_PIDFD | INTO_CGROUP,
        .pidfd = (uint64_t)(uintptr_t)pidfd,
        .exit_signal = SIGCHLD,
        .stack = (uint64_t)(uintptr_t)stack,
        .stack_size = stack_size,
        .cgroup = (uint64_t)group,
    };
    long result = clone3_to(&arguments, main, argument);
    if (result < 0)
        errno = (int)-result;
    return result < 0 ? -1 : (pid_t)result;
}
