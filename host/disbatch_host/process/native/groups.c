#define _GNU_SOURCE
#include "groups.h"

#include "connection.h"
#include "delegation.h"
#include "home.h"
#include "runs.h"
#include "tell.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    ID_TEXT_SIZE = 2 * SUPERVISOR_ID_SIZE,
    TRIES = 5,           /* to move processes that are just forking, or to make a group that another one removes */
};

struct groups {
    struct delegation at;
    int own;                /* the group of this supervisor, locked */
    char name[sizeof(GROUP_OF_RUNS) + ID_TEXT_SIZE];
    uint64_t last_number;
    struct group *free[2];  /* by `may_stay` */
    struct group *populated;
    pid_t node;
    bool limits_memory;     /* the kernel does it for groups in `own` */
    bool was_asked;         /* to, for this node */
    bool is_lent;           /* it did until the node left */
    bool was_said;          /* which groups there are */
    bool has_failed;        /* it was said that a group cannot be made */
};

/* The groups of supervisors that are dead: nobody holds them locked. What is left in one is their node's to end. */
static void remove_of_dead(const struct groups *groups)
{
    int fd = openat(groups->at.root, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *entries = fd < 0 ? NULL : fdopendir(fd);
    if (entries == NULL) {
        if (fd >= 0)
            (void)close(fd);
        return;
    }
    for (struct dirent *entry; (entry = readdir(entries)) != NULL;) {
        if (strncmp(entry->d_name, GROUP_OF_RUNS, sizeof(GROUP_OF_RUNS) - 1) != 0)
            continue;
        int other = openat(fd, entry->d_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
        if (other >= 0 && flock(other, LOCK_EX | LOCK_NB) == 0)
            group_remove(fd, entry->d_name);
        if (other >= 0)
            (void)close(other);
    }
    (void)closedir(entries);
}

/* Its own group, locked. Another supervisor that looks for those of dead ones may be first to lock it. */
static bool make_own(struct groups *groups)
{
    for (int i = 0; i < TRIES; i++) {
        struct stat status;
        if (mkdirat(groups->at.root, groups->name, 0755) < 0 && errno != EEXIST)
            return false;
        groups->own = openat(groups->at.root, groups->name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
        if (groups->own < 0)
            continue;
        if (flock(groups->own, LOCK_EX) == 0 && fstatat(groups->at.root, groups->name, &status, 0) == 0)
            return true;
        (void)close(groups->own);
    }
    errno = EBUSY;
    return false;
}

bool groups_open(struct supervisor *all)
{
    struct groups *groups = must_allocate(sizeof(*groups));
    groups->own = -1;
    char *name = stpcpy(groups->name, GROUP_OF_RUNS);
    for (int i = 0; i < SUPERVISOR_ID_SIZE; i++)
        name += sprintf(name, "%02x", all->id[i]);
    all->groups = groups;
    return delegation_find(&groups->at);
}

/* A node is here for the first time: now it is known whose the processes in the group are. */
static void begin(struct groups *groups)
{
    struct delegation *at = &groups->at;
    if (at->root < 0 || !delegation_is_own(at, groups->node))
        return;
    remove_of_dead(groups);
    if (!make_own(groups))
        (void)snprintf(at->why, WHY_SIZE, "no control group can be made in %s: %s", at->path, strerror(errno));
}

static void describe(const struct delegation *at, bool is_used, char *words, size_t size)
{
    if (!is_used)
        (void)snprintf(words, size, "runs have no control groups: %s; limits.memory is address space", at->why);
    else
        (void)snprintf(words, size, "runs have control groups in %s; limits.memory is %s", at->path,
                       at->has_memory ? "what all processes of a run use"
                                      : "address space, since the kernel does not limit memory there");
}

void groups_describe(char *words, size_t size)
{
    struct delegation at;
    describe(&at, delegation_find(&at) && delegation_is_own(&at, getppid()), words, size);
    if (at.root >= 0)
        (void)close(at.root);
}

static bool move(pid_t pid, void *with)
{
    char text[16];
    (void)snprintf(text, sizeof(text), "%d", (int)pid);
    return group_write(*(int *)with, "cgroup.procs", text) || errno == ESRCH;
}

/* Let the kernel limit memory in groups below. Nothing may be in the group itself then. */
static bool empty_and_divide(struct groups *groups)
{
    struct delegation *at = &groups->at;
    if (group_has_word(at->root, "cgroup.subtree_control", "memory"))
        return true;
    if (!delegation_is_own(at, groups->node))
        return false;
    if (mkdirat(at->root, GROUP_OF_MOVED, 0755) < 0 && errno != EEXIST)
        return false;
    int leaf = openat(at->root, GROUP_OF_MOVED, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    bool is_divided = false;
    for (int i = 0; i < TRIES && leaf >= 0 && !is_divided; i++)
        is_divided = group_each(at->root, move, &leaf) && group_write(at->root, "cgroup.subtree_control", "+memory");
    int error = errno;
    if (leaf >= 0)
        (void)close(leaf);
    (void)unlinkat(at->root, GROUP_OF_MOVED, AT_REMOVEDIR); /* nothing was there to be moved */
    errno = error;
    return is_divided;
}

static bool limit_memory(struct supervisor *all)
{
    struct groups *groups = all->groups;
    if (!groups->limits_memory && !groups->was_asked && groups->at.has_memory) {
        groups->was_asked = true;
        groups->at.why[0] = '\0';
        groups->limits_memory = empty_and_divide(groups) && group_write(groups->own, "cgroup.subtree_control", "+memory");
        if (!groups->limits_memory)
            tell_log(all, LOG_WARNING, "limits.memory is address space, since %s cannot be divided: %s",
                     groups->at.path, groups->at.why[0] != '\0' ? groups->at.why : strerror(errno));
    }
    return groups->limits_memory;
}

/* Those that had to wait may be empty by now. */
static void look_at_populated(struct groups *groups)
{
    for (struct group **place = &groups->populated; *place != NULL;) {
        struct group *group = *place;
        if (group_is_populated(group)) {
            place = &group->next;
            continue;
        }
        *place = group->next;
        group->next = groups->free[group->may_stay];
        groups->free[group->may_stay] = group;
    }
}

static uint64_t limit_of(const struct plugin *plugin)
{
    for (size_t i = 0; i < plugin->limit_count; i++)
        if (plugin->limits[i].resource == RLIMIT_AS && plugin->limits[i].value.rlim_max != RLIM_INFINITY)
            return plugin->limits[i].value.rlim_max;
    return 0;
}

static void tell_failure(struct supervisor *all, const char *why)
{
    struct groups *groups = all->groups;
    if (!groups->has_failed)
        tell_log(all, LOG_WARNING, "a run has no control group: %s in %s: %s", why, groups->at.path, strerror(errno));
    groups->has_failed = true;
}

struct group *groups_take(struct supervisor *all, const struct plugin *plugin)
{
    struct groups *groups = all->groups;
    if (groups->own < 0)
        return NULL;
    bool may_stay = (plugin->flags & PLUGIN_LEAVE_RUNNING) != 0;
    uint64_t limit = limit_of(plugin);
    if (limit > 0 && !limit_memory(all))
        limit = 0;
    if (groups->free[may_stay] == NULL)
        look_at_populated(groups);
    struct group *group = groups->free[may_stay];
    if (group != NULL)
        groups->free[may_stay] = group->next;
    if (group != NULL && limit > 0 && group_holds_too_much(group, limit)) {
        group_discard(group, groups->own);
        group = NULL;
    }
    if (group == NULL)
        group = group_new(groups->own, ++groups->last_number, may_stay);
    if (group == NULL) {
        tell_failure(all, "none can be made");
        return NULL;
    }
    group->next = NULL;
    if ((limit > 0 || group->limit > 0) && !group_set_limit(group, limit)) {
        tell_failure(all, "its memory cannot be limited");
        group_discard(group, groups->own);
        return NULL;
    }
    return group;
}

void groups_give_back(struct supervisor *all, struct group *group)
{
    struct groups *groups = all->groups;
    if (!groups->limits_memory)
        group->limit = 0;
    struct group **list = group_is_populated(group) ? &groups->populated : &groups->free[group->may_stay];
    group->next = *list;
    *list = group;
}

uint64_t groups_number_of(const struct supervisor *all, pid_t pid, bool *may_stay)
{
    char path[64];
    char line[PATH_MAX];
    uint64_t number = 0;
    *may_stay = false;
    (void)snprintf(path, sizeof(path), "/proc/%d/cgroup", (int)pid);
    FILE *file = all->groups->own < 0 ? NULL : fopen(path, "re");
    if (file == NULL)
        return 0;
    while (fgets(line, sizeof(line), file) != NULL) {
        const char *at = strncmp(line, "0::/", 4) == 0 ? strstr(line, all->groups->name) : NULL;
        if (at == NULL || at[strlen(all->groups->name)] != '/')
            continue;
        at += strlen(all->groups->name) + 1;
        *may_stay = strncmp(at, "left-", 5) == 0;
        number = strtoull(at + (*may_stay ? 5 : 0), NULL, 10);
    }
    (void)fclose(file);
    return number;
}

static pid_t pid_of_node(const struct supervisor *all, pid_t node)
{
    struct ucred peer;
    socklen_t size = sizeof(peer);
    if (node > 0 || all->node == NULL || getsockopt(all->node->source.fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0)
        return node;
    return peer.pid;
}

/* The runs that go on had their limits taken while no node was there. */
static void limit_again(struct supervisor *all)
{
    all->groups->is_lent = false;
    if (!limit_memory(all))
        return;
    for (size_t i = 0; i < all->bucket_count; i++)
        for (struct run *run = all->buckets[i]; run != NULL; run = run->next_in_bucket)
            if (run->group != NULL && run->group->limit > 0) {
                uint64_t limit = run->group->limit;
                run->group->limit = 0;
                if (!group_set_limit(run->group, limit))
                    tell_log(all, LOG_WARNING, "run %llu: its memory cannot be limited again: %s",
                             (unsigned long long)run->number, strerror(errno));
            }
}

void groups_meet(struct supervisor *all, pid_t node)
{
    struct groups *groups = all->groups;
    groups->node = pid_of_node(all, node);
    groups->was_asked = false;
    if (groups->is_lent)
        limit_again(all);
    if (groups->own >= 0)
        return;
    begin(groups);
    char words[DESCRIPTION_SIZE];
    describe(&groups->at, groups->own >= 0, words, sizeof(words));
    if (groups->own >= 0)
        tell_log(all, LOG_INFO, "%s", words);
    else if (groups->at.root >= 0)
        tell_log(all, LOG_WARNING, "%s", words); /* it was given away, and cannot be used */
    else if (all->home != NULL && !groups->was_said)
        home_log(all->home, words);
    groups->was_said = true;
}

void groups_leave(struct supervisor *all)
{
    struct groups *groups = all->groups;
    if (!groups->limits_memory || !groups->at.is_by_mark || groups->at.has_own_group)
        return;
    groups->limits_memory = false;
    groups->is_lent = true;
    for (int i = 0; i < 2; i++)
        for (struct group *group = groups->free[i]; group != NULL; group = group->next)
            group->limit = 0;
    /* Refused where another supervisor's node is still there: then nothing is started in it anyway. */
    (void)group_write(groups->own, "cgroup.subtree_control", "-memory");
    (void)group_write(groups->at.root, "cgroup.subtree_control", "-memory");
}

static void remove_all(struct supervisor *all, struct group *group)
{
    for (struct group *next; group != NULL; group = next) {
        next = group->next;
        group_discard(group, all->groups->own);
    }
}

void groups_discard(struct supervisor *all, struct group *group)
{
    group_discard(group, all->groups->own);
}

void groups_close(struct supervisor *all)
{
    struct groups *groups = all->groups;
    if (groups->own < 0)
        return;
    remove_all(all, groups->free[false]);
    remove_all(all, groups->free[true]);
    remove_all(all, groups->populated); /* as far as they are empty by now */
    (void)unlinkat(groups->at.root, groups->name, AT_REMOVEDIR);
    (void)close(groups->own);
    groups->own = -1;
}
