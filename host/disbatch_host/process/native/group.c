#define _GNU_SOURCE
#include "group.h"

#include "delegation.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const uint64_t HELD_SHARE = 8; /* an eighth of its limit may be charged by earlier runs; else it is replaced */

enum {
    NAME_MAX_SIZE = 32,
    DEPTH_MAX = 16, /* of groups that a program makes in its own */
};

static void place_name(char *name, const struct group *group)
{
    (void)snprintf(name, NAME_MAX_SIZE, "%s%" PRIu64, group->may_stay ? "left-" : "", group->number);
}

static void remove_below(int above, const char *name, int depth)
{
    if (unlinkat(above, name, AT_REMOVEDIR) == 0 || errno != EBUSY || depth == DEPTH_MAX)
        return;
    int fd = openat(above, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    DIR *entries = fd < 0 ? NULL : fdopendir(fd);
    if (entries == NULL) {
        if (fd >= 0)
            (void)close(fd);
        return;
    }
    for (struct dirent *entry; (entry = readdir(entries)) != NULL;)
        if (entry->d_type == DT_DIR && entry->d_name[0] != '.')
            remove_below(fd, entry->d_name, depth + 1);
    (void)unlinkat(above, name, AT_REMOVEDIR);
    (void)closedir(entries);
}

void group_remove(int above, const char *name)
{
    remove_below(above, name, 0);
}

static void group_close(struct group *group)
{
    if (group->events >= 0)
        (void)close(group->events);
    if (group->directory >= 0)
        (void)close(group->directory);
    free(group);
}

struct group *group_new(int above, uint64_t number, bool may_stay)
{
    struct group *group = must_allocate(sizeof(*group));
    char name[NAME_MAX_SIZE];
    *group = (struct group){.number = number, .may_stay = may_stay, .directory = -1, .events = -1};
    place_name(name, group);
    if (mkdirat(above, name, 0755) == 0) {
        group->directory = openat(above, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        group->events = group->directory < 0 ? -1 : openat(group->directory, "cgroup.events", O_RDONLY | O_CLOEXEC);
        if (group->events >= 0)
            return group;
        int error = errno;
        (void)unlinkat(above, name, AT_REMOVEDIR);
        errno = error;
    }
    group_close(group);
    return NULL;
}

void group_discard(struct group *group, int above)
{
    char name[NAME_MAX_SIZE];
    place_name(name, group);
    remove_below(above, name, 0);
    group_close(group);
}

static uint64_t count_in(int directory, const char *file, const char *name)
{
    char text[512];
    char *rest = text;
    size_t size = strlen(name);
    if (!group_read(directory, file, text, sizeof(text)))
        return 0;
    for (char *line; (line = strtok_r(rest, "\n", &rest)) != NULL;)
        if (strncmp(line, name, size) == 0 && line[size] == ' ')
            return strtoull(line + size, NULL, 10);
    return 0;
}

/* What reached the limit of this very group, and what was killed anywhere in it. */
static uint64_t times_full(const struct group *group)
{
    return count_in(group->directory, "memory.events.local", "oom");
}

static uint64_t kills(const struct group *group)
{
    return count_in(group->directory, "memory.events", "oom_kill");
}

bool group_set_limit(struct group *group, uint64_t limit)
{
    char text[24];
    (void)snprintf(text, sizeof(text), "%" PRIu64, limit);
    bool is_set = group_write(group->directory, "memory.max", limit > 0 ? text : "max");
    if (is_set && (group->limit > 0) != (limit > 0)) {
        /* Without it what is over the limit goes to the disk instead. Not every kernel counts what is there. */
        is_set = (group_write(group->directory, "memory.swap.max", limit > 0 ? "0" : "max") || errno == ENOENT) &&
                 group_write(group->directory, "memory.oom.group", limit > 0 ? "1" : "0");
    }
    group->limit = limit;
    if (is_set && limit > 0) {
        group->times_full = times_full(group);
        group->kills = kills(group);
    }
    return is_set;
}

bool group_holds_too_much(const struct group *group, uint64_t limit)
{
    char text[24];
    return group_read(group->directory, "memory.current", text, sizeof(text)) &&
           strtoull(text, NULL, 10) > limit / HELD_SHARE;
}

bool group_hit_limit(const struct group *group)
{
    return group->limit > 0 && times_full(group) > group->times_full && kills(group) > group->kills;
}

bool group_is_populated(const struct group *group)
{
    char text[64];
    ssize_t got = pread(group->events, text, sizeof(text) - 1, 0);
    if (got <= 0)
        return false; /* somebody has removed it */
    text[got] = '\0';
    return strstr(text, "populated 1") != NULL;
}

bool group_kill(const struct group *group)
{
    return group_write(group->directory, "cgroup.kill", "1");
}

static void each_below(int directory, bool (*call)(pid_t pid, void *with), void *with, int depth)
{
    (void)group_each(directory, call, with);
    struct stat status;
    if (depth == DEPTH_MAX || fstat(directory, &status) < 0 || status.st_nlink <= 2)
        return; /* it has no groups below */
    int fd = openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *entries = fd < 0 ? NULL : fdopendir(fd);
    if (entries == NULL) {
        if (fd >= 0)
            (void)close(fd);
        return;
    }
    for (struct dirent *entry; (entry = readdir(entries)) != NULL;) {
        int one = entry->d_type == DT_DIR && entry->d_name[0] != '.'
                      ? openat(fd, entry->d_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW)
                      : -1;
        if (one < 0)
            continue;
        each_below(one, call, with, depth + 1);
        (void)close(one);
    }
    (void)closedir(entries);
}

void group_each_below(const struct group *group, bool (*call)(pid_t pid, void *with), void *with)
{
    each_below(group->directory, call, with, 0);
}
