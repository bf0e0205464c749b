#define _GNU_SOURCE
#include "find.h"

#include "groups.h"
#include "runs.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const uint64_t MARKS = UINT64_C(1) << RUN_MARK_BITS; /* as many numbers of runs there are */
static const uint64_t LOWEST_LEVEL = UINT64_C(1) << (RUN_MARK_BITS + 8); /* with less, ids would look alike */

enum {
    PATH_SIZE = 64,
    TEXT_SIZE = 1 << 13, /* of the files that are read here; the longest has about 1,500 bytes */
};

/* A small file of /proc as text. 0: it is not there. */
static size_t read_text(const char *path, char *text, size_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    ssize_t got = read(fd, text, size - 1);
    (void)close(fd);
    if (got < 0)
        got = 0;
    text[got] = '\0';
    return (size_t)got;
}

static size_t read_of(pid_t pid, const char *name, char *text, size_t size)
{
    char path[PATH_SIZE];
    (void)snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, name);
    return read_text(path, text, size);
}

bool process_read(pid_t pid, struct process *process)
{
    char text[TEXT_SIZE];
    if (read_of(pid, "stat", text, sizeof(text)) == 0)
        return false;
    /* The name, in parentheses, may contain anything: the last closing one ends it. */
    char *name = strchr(text, '(');
    char *end = strrchr(text, ')');
    if (name == NULL || end == NULL || end < name)
        return false;
    *process = (struct process){.pid = pid};
    size_t size = (size_t)(end - name - 1);
    memcpy(process->name, name + 1, size < NAME_SIZE - 1 ? size : NAME_SIZE - 1);
    char state;
    int parent;
    int group;
    int session;
    unsigned long long started;
    if (sscanf(end + 1, " %c %d %d %d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %u %*d %llu", &state, &parent,
               &group, &session, &process->threads, &started) != 6)
        return false;
    process->parent = parent;
    process->group = group;
    process->session = session;
    process->started = started;
    process->is_alive = state != 'Z' && state != 'X';
    return true;
}

uint32_t process_uid(pid_t pid)
{
    char path[PATH_SIZE];
    struct stat status;
    (void)snprintf(path, sizeof(path), "/proc/%d", (int)pid);
    return stat(path, &status) == 0 ? status.st_uid : 0;
}

uint64_t process_cpu(pid_t pid)
{
    struct timespec time;
    /* The kernel makes the number of a process's clock from its pid, as clock_getcpuclockid(3) does. */
    if (clock_gettime((clockid_t)((~(unsigned)pid << 3) | 2), &time) < 0)
        return 0;
    return (uint64_t)time.tv_sec * SECOND + (uint64_t)time.tv_nsec / 1000;
}

static uint64_t kibibytes(const char *text, const char *name)
{
    const char *at = strstr(text, name);
    return at == NULL ? 0 : strtoull(at + strlen(name), NULL, 10) * 1024;
}

void process_memory(pid_t pid, uint64_t *now, uint64_t *peak)
{
    char text[TEXT_SIZE];
    *now = *peak = 0;
    if (read_of(pid, "status", text, sizeof(text)) == 0)
        return;
    *now = kibibytes(text, "\nVmRSS:");
    *peak = kibibytes(text, "\nVmHWM:");
}

static uint64_t hard_limit_of(pid_t pid)
{
    struct rlimit limit;
    if (syscall(SYS_prlimit64, pid, RLIMIT_RTTIME, NULL, &limit) == 0)
        return limit.rlim_max;
    char text[TEXT_SIZE]; /* another user's: the kernel tells it here */
    if (read_of(pid, "limits", text, sizeof(text)) == 0)
        return 0;
    unsigned long long hard;
    const char *line = strstr(text, "Max realtime timeout");
    return line != NULL && sscanf(line, "Max realtime timeout %*s %llu", &hard) == 1 ? hard : 0;
}

uint64_t mark_base(const uint8_t id[SUPERVISOR_ID_SIZE])
{
    struct rlimit limit;
    if (syscall(SYS_prlimit64, 0, RLIMIT_RTTIME, NULL, &limit) < 0)
        return 0;
    uint64_t level = UINT64_C(1) << 62;
    while (level > LOWEST_LEVEL && 2 * level > limit.rlim_max)
        level >>= 1; /* this supervisor runs in a run of another one */
    if (level <= LOWEST_LEVEL)
        return 0; /* somebody limits the time to less than a mark */
    uint64_t first = 0;
    for (size_t i = 0; i < sizeof(first); i++)
        first = first << 8 | id[i];
    return level + (first % (level >> RUN_MARK_BITS) << RUN_MARK_BITS);
}

/* The number behind "DISBATCH_RUN=<id>-" in the environment; 0: it is not there, or cannot be read. */
static uint64_t number_in_environment(const struct supervisor *all, pid_t pid)
{
    char path[PATH_SIZE];
    (void)snprintf(path, sizeof(path), "/proc/%d/environ", (int)pid);
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return 0;
    char *variable = NULL;
    size_t capacity = 0;
    size_t size = strlen(all->mark_name);
    uint64_t number = 0;
    while (number == 0 && getdelim(&variable, &capacity, '\0', file) > 0)
        if (strncmp(variable, all->mark_name, size) == 0)
            number = strtoull(variable + size, NULL, 10);
    free(variable);
    (void)fclose(file);
    return number;
}

/* A process that has shed everything else is still in the group of its run. */
static struct run *run_of_group(const struct supervisor *all, pid_t pid)
{
    bool may_stay;
    uint64_t group = groups_number_of(all, pid, &may_stay);
    for (size_t i = 0; group > 0 && i < all->bucket_count; i++)
        for (struct run *run = all->buckets[i]; run != NULL; run = run->next_in_bucket)
            if (run->group != NULL && run->group->number == group)
                return run;
    return NULL;
}

struct run *find_owner(struct supervisor *all, pid_t pid, uint64_t *number)
{
    struct process process;
    uint64_t mark = all->mark_base > 0 ? hard_limit_of(pid) : 0;
    bool is_marked = mark > all->mark_base && mark < all->mark_base + MARKS;
    *number = is_marked ? mark - all->mark_base : number_in_environment(all, pid);
    struct run *run = *number > 0 ? runs_find(all, *number) : NULL;
    if (run == NULL && process_read(pid, &process))
        run = runs_find_session(all, process.session, process.group);
    if (run == NULL && *number == 0)
        run = run_of_group(all, pid);
    return run;
}

bool is_of_a_run(struct supervisor *all, pid_t pid)
{
    uint64_t number;
    (void)find_owner(all, pid, &number); /* sessions and groups are no proof: a number may be another process's by now */
    return number > 0 && runs_find(all, number) != NULL;
}

static void add(struct processes *found, const struct process *process)
{
    if (found->count == found->capacity) {
        size_t capacity = found->capacity > 0 ? 2 * found->capacity : 16;
        struct process *items = realloc(found->items, capacity * sizeof(*items));
        if (items == NULL)
            abort();
        found->items = items;
        found->capacity = capacity;
    }
    found->items[found->count++] = *process;
}

static void add_pid(struct processes *found, pid_t pid)
{
    struct process process;
    for (size_t i = 0; i < found->count; i++)
        if (found->items[i].pid == pid)
            return;
    if (process_read(pid, &process))
        add(found, &process);
}

/* The children that one thread of a process has. */
static void add_children(struct processes *found, pid_t pid, pid_t thread)
{
    char path[PATH_SIZE];
    int child;
    (void)snprintf(path, sizeof(path), "/proc/%d/task/%d/children", (int)pid, (int)thread);
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return;
    while (fscanf(file, "%d", &child) == 1)
        add_pid(found, child);
    (void)fclose(file);
}

static void add_all_children(struct processes *found, const struct process *process)
{
    if (process->threads <= 1) {
        add_children(found, process->pid, process->pid);
        return;
    }
    char path[PATH_SIZE];
    (void)snprintf(path, sizeof(path), "/proc/%d/task", (int)process->pid);
    DIR *threads = opendir(path);
    if (threads == NULL)
        return;
    for (struct dirent *entry; (entry = readdir(threads)) != NULL;)
        if (entry->d_name[0] != '.')
            add_children(found, process->pid, (pid_t)strtol(entry->d_name, NULL, 10));
    (void)closedir(threads);
}

static void list_orphans(const struct supervisor *all, struct processes *found)
{
    add_children(found, all->pid, all->pid); /* the main thread's number is the process's */
}

static void add_orphans_of(const struct run *run, struct processes *found)
{
    struct processes orphans = {0};
    uint64_t number;
    list_orphans(run->all, &orphans);
    for (size_t i = 0; i < orphans.count; i++)
        if (find_owner(run->all, orphans.items[i].pid, &number) == run)
            add_pid(found, orphans.items[i].pid);
    processes_free(&orphans);
}

static void descend(struct processes *found, size_t from)
{
    for (size_t i = from; i < found->count; i++) {
        struct process parent = found->items[i]; /* the array moves while it grows */
        add_all_children(found, &parent);
    }
}

static void keep_living(struct processes *found)
{
    size_t living = 0;
    for (size_t i = 0; i < found->count; i++)
        if (found->items[i].is_alive)
            found->items[living++] = found->items[i];
    found->count = living;
}

/* A program can have children that are its parent's, which is a thread that never asks for them. */
static void remember_child(struct supervisor *all, pid_t pid)
{
    for (size_t i = 0; i < all->child_count; i++)
        if (all->children[i] == pid)
            return;
    pid_t *children = realloc(all->children, (all->child_count + 1) * sizeof(pid));
    if (children == NULL)
        abort();
    all->children = children;
    all->children[all->child_count++] = pid;
}

struct members {
    const struct run *run;
    struct processes *found;
};

static bool add_member(pid_t pid, void *with)
{
    const struct members *members = with;
    struct process process;
    struct supervisor *all = members->run->all;
    if (pid == all->pid || !process_read(pid, &process))
        return true;
    if (process.parent == all->pid && pid != members->run->pid && runs_find_session(all, pid, pid) == NULL)
        remember_child(all, pid);
    add_pid(members->found, pid);
    return true;
}

static void add_members(const struct run *run, struct processes *found)
{
    struct members members = {run, found};
    if (run->group != NULL && group_is_populated(run->group))
        group_each_below(run->group, add_member, &members);
}

void find_run(const struct run *run, struct processes *found)
{
    if (!run->is_reaped)
        add_pid(found, run->pid);
    if (run->all->has_orphans || run->phase < RUN_ENDING)
        add_orphans_of(run, found);
    add_members(run, found);
    descend(found, 0);
    /* Again: the parent of one may have ended before its children were listed. */
    size_t count = found->count;
    add_orphans_of(run, found);
    add_members(run, found);
    descend(found, count);
    keep_living(found);
}

void find_ownerless(struct supervisor *all, struct processes *found)
{
    struct processes orphans = {0};
    list_orphans(all, &orphans);
    for (size_t i = 0; i < orphans.count; i++) {
        uint64_t number;
        struct run *run = find_owner(all, orphans.items[i].pid, &number);
        bool may_stay;
        (void)groups_number_of(all, orphans.items[i].pid, &may_stay);
        if (run == NULL && !may_stay && !runs_left_running(all, number))
            add(found, &orphans.items[i]);
    }
    processes_free(&orphans);
    descend(found, 0);
    keep_living(found);
}

void processes_free(struct processes *processes)
{
    free(processes->items);
    *processes = (struct processes){0};
}

int process_signal(const struct process *process, int number)
{
    int pidfd = (int)syscall(SYS_pidfd_open, process->pid, 0);
    if (pidfd < 0)
        return errno;
    /* The number may be another process's by now; from here on the pidfd is that of one process. */
    struct process now;
    int error = 0;
    if (!process_read(process->pid, &now) || now.started != process->started)
        error = ESRCH;
    else if (syscall(SYS_pidfd_send_signal, pidfd, number, NULL, 0) < 0)
        error = errno;
    (void)close(pidfd);
    return error;
}

void reap_orphans(struct supervisor *all)
{
    if (all->reaped_round == all->loop.round)
        return;
    all->reaped_round = all->loop.round;
    reap_orphans_now(all);
}

static void reap(struct supervisor *all, pid_t pid)
{
    uint64_t number;
    struct rusage usage;
    struct run *run = find_owner(all, pid, &number); /* before its number is free */
    pid_t reaped = wait4(pid, NULL, WNOHANG | __WALL, &usage);
    if (reaped == pid && run != NULL)
        run_count_usage(run, &usage);
    for (size_t i = 0; i < all->child_count && reaped != 0; i++)
        if (all->children[i] == pid)
            all->children[i--] = all->children[--all->child_count];
}

void reap_orphans_now(struct supervisor *all)
{
    for (size_t i = all->child_count; i > 0; i--)
        reap(all, all->children[i - 1]);
    for (;;) {
        siginfo_t info = {0};
        if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT | __WNOTHREAD) < 0) {
            all->has_orphans = errno != ECHILD;
            return;
        }
        all->has_orphans = true;
        if (info.si_pid == 0)
            return;
        reap(all, info.si_pid);
    }
}
