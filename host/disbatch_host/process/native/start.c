#define _GNU_SOURCE
#include "start.h"

#include "clone_into.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
    SIGNAL_BYTES = 8,   /* of the kernel's set of signals */
    CHILD_FAILED = 127,
};

/* What the child needs beside the launch. It runs in the memory of this process while its starter waits: it may call
 * the system, and nothing that takes a lock, allocates, or that the C library would do to all threads. */
struct child {
    struct launch *launch;
    int ends[4];
};

static bool set_limit(int resource, const struct rlimit *limit)
{
    struct rlimit now;
    if (syscall(SYS_prlimit64, 0, resource, NULL, &now) < 0)
        return false;
    struct rlimit value = *limit;
    if (value.rlim_max > now.rlim_max)
        value.rlim_max = now.rlim_max;
    if (value.rlim_cur > value.rlim_max)
        value.rlim_cur = value.rlim_max;
    return syscall(SYS_prlimit64, 0, resource, &value, NULL) == 0;
}

static bool set_limits(const struct launch *launch)
{
    const struct supervisor *all = launch->all;
    const struct plugin *plugin = launch->plugin;
    if (!set_limit(RLIMIT_NOFILE, &all->files))
        return false;
    bool has_memory = launch->limits_memory && !launch->is_outside; /* by its group: what it uses, not what it reserves */
    for (size_t i = 0; i < plugin->limit_count; i++)
        if ((plugin->limits[i].resource != RLIMIT_AS || !has_memory) &&
            !set_limit(plugin->limits[i].resource, &plugin->limits[i].value))
            return false;
    if (all->mark_base == 0)
        return true;
    /* The mark: a limit that nothing reaches, and that survives everything a program can do to itself. */
    rlim_t mark = all->mark_base + launch->run_number;
    return set_limit(RLIMIT_RTTIME, &(struct rlimit){.rlim_cur = mark, .rlim_max = mark});
}

/* Where the supervisor is protected from the kernel's killer, its programs are less so. A failure only leaves them as
 * protected. */
static void lower_protection(const struct supervisor *all)
{
    if (all->oom_score[0] == '\0')
        return;
    int file = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (file < 0)
        return;
    (void)!write(file, all->oom_score, strlen(all->oom_score));
    (void)close(file);
}

static bool set_account(const struct plugin *plugin)
{
    /* Not by the C library, which would change all threads of this process. */
    return syscall(SYS_setgroups, plugin->group_count, plugin->groups) == 0 &&
           syscall(SYS_setresgid, plugin->gid, plugin->gid, plugin->gid) == 0 &&
           syscall(SYS_setresuid, plugin->uid, plugin->uid, plugin->uid) == 0;
}

/* Before anything else: it may take long, and everything is to be counted there. */
static bool enter_group(const struct launch *launch)
{
    int file = openat(launch->group, "cgroup.procs", O_WRONLY | O_CLOEXEC);
    bool is_there = file >= 0 && write(file, "0", 1) == 1;
    if (file >= 0)
        (void)close(file);
    return is_there;
}

static bool become_program(struct launch *launch, const int ends[4])
{
    const struct plugin *plugin = launch->plugin;
    static const uint8_t no_signals[SIGNAL_BYTES];
    atomic_store(&launch->step, STEP_SESSION);
    launch->is_outside = launch->enters && !enter_group(launch);
    if (setsid() < 0)
        return false;
    for (int i = 0; i < 4; i++) /* the ends are all above 3 */
        if (dup2(ends[i], i) < 0)
            return false;
    (void)umask(plugin->mask);
    atomic_store(&launch->step, STEP_DIRECTORY);
    if (chdir(launch->directory) < 0)
        return false;
    atomic_store(&launch->step, STEP_LIMITS);
    lower_protection(launch->all);
    if (!set_limits(launch))
        return false;
    atomic_store(&launch->step, STEP_ACCOUNT);
    if ((plugin->flags & PLUGIN_ACCOUNT) != 0 && !set_account(plugin))
        return false;
    atomic_store(&launch->step, STEP_EXEC);
    /* Last, and not by the C library, which leaves its own two signals out. */
    if (syscall(SYS_rt_sigprocmask, SIG_SETMASK, no_signals, NULL, SIGNAL_BYTES) < 0)
        return false;
    (void)execve(plugin->argv[0], launch->argv, launch->environment);
    return false;
}

__attribute__((no_sanitize("address"))) static int child_main(void *argument)
{
    struct child *child = argument;
    struct launch *launch = child->launch;
    launch->started_at = monotonic_now();
    if (!become_program(launch, child->ends))
        launch->error = errno != 0 ? errno : EINVAL;
    _exit(CHILD_FAILED);
}

static void close_all(int *descriptors, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (descriptors[i] >= 0)
            (void)close(descriptors[i]);
        descriptors[i] = -1;
    }
}

/* One pipe: the end of this process, which never blocks, and the child's, which belongs to its account. */
static bool open_pipe(const struct plugin *plugin, bool is_input, int *own, int *childs)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0)
        return false;
    *own = ends[is_input ? 1 : 0];
    *childs = ends[is_input ? 0 : 1];
    if (fcntl(*own, F_SETFL, O_NONBLOCK) < 0)
        return false;
    /* After a change of user only the owner of a pipe can open /dev/stdout and /dev/fd/3. */
    return (plugin->flags & PLUGIN_ACCOUNT) == 0 || fchown(*childs, plugin->uid, plugin->gid) == 0;
}

static bool open_pipes(struct launch *launch, int ends[4])
{
    bool is_open;
    if ((launch->flags & INPUT_NULL) != 0)
        is_open = (ends[0] = open("/dev/null", O_RDONLY | O_CLOEXEC)) >= 0;
    else
        is_open = open_pipe(launch->plugin, true, &launch->ends[0], &ends[0]);
    for (int i = 1; i < 4 && is_open; i++)
        is_open = open_pipe(launch->plugin, false, &launch->ends[i], &ends[i]);
    return is_open;
}

/* Most inputs fit in the pipe at once: then it is closed before the program begins, and nobody has to watch it. */
static void write_input(struct launch *launch)
{
    int fd = launch->ends[0];
    if (fd < 0)
        return;
    if (launch->input_size > 0) {
        ssize_t written = write(fd, launch->input, launch->input_size);
        launch->written = written > 0 ? (size_t)written : 0;
    }
}

static bool is_too_old(const struct launch *launch)
{
    uint64_t now = boottime_now();
    return launch->trusted > 0 && now > launch->asked_at && now - launch->asked_at > launch->trusted;
}

/* The process of this launch, or -1 with errno. */
static pid_t fork_program(struct launch *launch, struct child *child, char *stack, size_t stack_size)
{
    /* The kernel stores the pidfd before the child runs, so that a start that hangs can be killed. */
    if (launch->group >= 0) {
        pid_t born = clone_into(launch->group, child_main, child, stack, stack_size, (int *)&launch->pidfd);
        if (born >= 0 || errno == EAGAIN || errno == ENOMEM)
            return born;
        launch->enters = true;
    }
    pid_t pid = clone(child_main, stack + stack_size, CLONE_VM | CLONE_VFORK | CLONE_PIDFD | SIGCHLD, child,
                      (int *)&launch->pidfd);
    return pid;
}

static bool was_started(struct launch *launch)
{
    if (launch->error != 0)
        return false;
    if (atomic_load(&launch->step) == STEP_EXEC)
        return true;
    launch->error = ECANCELED; /* killed before it came to exec */
    return false;
}

static void fail(struct launch *launch, int error)
{
    launch->error = error;
    close_all(launch->ends, 4);
    close_all(&launch->unread, 1);
}

/* It runs: what the child alone needs is closed. */
static void settle(struct launch *launch, int ends[4])
{
    bool is_written = launch->written == launch->input_size;
    if (launch->ends[0] >= 0 && is_written && (launch->flags & INPUT_OPEN) == 0 && launch->input != NULL) {
        close_all(&launch->ends[0], 1);
        launch->unread = ends[0];
        ends[0] = -1;
    }
    close_all(ends, 4);
}

void start_program(struct launch *launch, char *stack, size_t stack_size)
{
    struct child child = {.launch = launch, .ends = {-1, -1, -1, -1}};
    atomic_store(&launch->step, STEP_PIPES);
    if (!open_pipes(launch, child.ends)) {
        int error = errno;
        close_all(child.ends, 4);
        fail(launch, error);
        return;
    }
    write_input(launch);
    if (is_too_old(launch)) {
        atomic_store(&launch->step, STEP_TOO_OLD);
        close_all(child.ends, 4);
        fail(launch, ETIME);
        return;
    }
    atomic_store(&launch->step, STEP_FORK);
    launch->pid = fork_program(launch, &child, stack, stack_size);
    if (launch->pid < 0) {
        int error = errno;
        close_all(child.ends, 4);
        fail(launch, error);
    } else if (!was_started(launch)) {
        (void)waitpid(launch->pid, NULL, __WALL);
        close_all(child.ends, 4);
        fail(launch, launch->error);
    } else {
        settle(launch, child.ends);
    }
    if ((launch->plugin->flags & PLUGIN_ACCOUNT) != 0)
        (void)prctl(PR_SET_DUMPABLE, 0); /* a child's change of user has changed it for this memory */
}
