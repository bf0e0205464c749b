#define _GNU_SOURCE
#include "delegation.h"

#include "find.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>
#include <unistd.h>

enum {
    ANCESTORS_MAX = 64,
    LINE_SIZE = 2 * PATH_MAX + 256,
};

bool group_write(int directory, const char *file, const char *text)
{
    int fd = openat(directory, file, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    bool is_written = write(fd, text, strlen(text)) == (ssize_t)strlen(text);
    int error = errno;
    (void)close(fd);
    errno = error;
    return is_written;
}

bool group_read(int directory, const char *file, char *text, size_t size)
{
    int fd = openat(directory, file, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    ssize_t got = read(fd, text, size - 1);
    int error = errno;
    (void)close(fd);
    errno = error;
    text[got > 0 ? got : 0] = '\0';
    return got >= 0;
}

bool group_has_word(int directory, const char *file, const char *word)
{
    char text[512];
    if (!group_read(directory, file, text, sizeof(text)))
        return false;
    char *rest = text;
    for (char *one; (one = strtok_r(rest, " \n", &rest)) != NULL;)
        if (strcmp(one, word) == 0)
            return true;
    return false;
}

bool group_each(int directory, bool (*call)(pid_t pid, void *with), void *with)
{
    int fd = openat(directory, "cgroup.procs", O_RDONLY | O_CLOEXEC);
    FILE *file = fd < 0 ? NULL : fdopen(fd, "re");
    if (file == NULL) {
        if (fd >= 0)
            (void)close(fd);
        return false;
    }
    bool goes_on = true;
    for (int pid; goes_on && fscanf(file, "%d", &pid) == 1;)
        goes_on = call(pid, with);
    (void)fclose(file);
    return goes_on;
}

static bool says(struct delegation *delegation, const char *format, const char *what)
{
    (void)snprintf(delegation->why, sizeof(delegation->why), format, what);
    return false;
}

/* The group of a process in the one hierarchy of version 2, as this process sees it. */
static bool read_group(const char *path, char *group, size_t size)
{
    char line[LINE_SIZE];
    bool is_found = false;
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return false;
    while (!is_found && fgets(line, sizeof(line), file) != NULL)
        is_found = strncmp(line, "0::/", 4) == 0;
    (void)fclose(file);
    if (!is_found)
        return false;
    line[strcspn(line, "\n")] = '\0';
    return (size_t)snprintf(group, size, "%s", line + 3) < size;
}

/* In place: spaces and the like are written as \040 in the list of mounts. */
static void unescape(char *text)
{
    char *to = text;
    for (const char *from = text; *from != '\0'; to++) {
        unsigned code;
        bool is_octal = from[0] == '\\' && strspn(from + 1, "01234567") >= 3 && sscanf(from + 1, "%3o", &code) == 1;
        *to = is_octal ? (char)code : *from;
        from += is_octal ? 4 : 1;
    }
    *to = '\0';
}

/* Where cgroup v2 is mounted, and which group is seen there. */
static bool find_mount(char *root, char *point)
{
    char line[LINE_SIZE];
    bool is_found = false;
    FILE *file = fopen("/proc/self/mountinfo", "re");
    if (file == NULL)
        return false;
    while (!is_found && fgets(line, sizeof(line), file) != NULL) {
        const char *type = strstr(line, " - ");
        is_found = type != NULL && strncmp(type + 3, "cgroup2 ", 8) == 0 &&
                   sscanf(line, "%*d %*d %*s %4095s %4095s", root, point) == 2;
    }
    (void)fclose(file);
    if (is_found) {
        unescape(root);
        unescape(point);
    }
    return is_found;
}

/* The part of a group's name below another one; NULL: it is not below it. */
static const char *below(const char *group, const char *above)
{
    size_t size = strcmp(above, "/") == 0 ? 0 : strlen(above);
    if (strncmp(group, above, size) != 0 || (group[size] != '/' && group[size] != '\0') ||
        strncmp(group + size, "/..", 3) == 0)
        return NULL;
    return strcmp(group + size, "/") == 0 ? "" : group + size;
}

/* Whether a service manager has marked it as given away. */
static bool is_marked(const char *path)
{
    static const char *const NAMES[] = {"user.delegate", "trusted.delegate"};
    char value[2];
    for (int i = 0; i < 2; i++)
        if (getxattr(path, NAMES[i], value, sizeof(value)) == 1 && value[0] == '1')
            return true;
    return false;
}

/* Whether it is the root group of a container: all that is seen of the groups, the first process included. */
static bool is_container(const char *path, const char *root, const char *point)
{
    char group[PATH_MAX];
    char file[PATH_MAX + 16];
    if (strcmp(path, point) != 0)
        return false;
    (void)snprintf(file, sizeof(file), "%s/cgroup.events", path); /* the machine's root group has none */
    return access(file, F_OK) == 0 && read_group("/proc/1/cgroup", group, sizeof(group)) && below(group, root) != NULL;
}

/* This process's group, or the one above it if it is a group for the node in that one. */
static bool choose(struct delegation *delegation, const char *root, const char *point)
{
    for (int i = 0; i < 2; i++) {
        delegation->is_by_mark = is_marked(delegation->path);
        if (delegation->is_by_mark || is_container(delegation->path, root, point))
            return true;
        char *name = strrchr(delegation->path, '/');
        bool is_units = strcmp(name + 1, GROUP_OF_UNIT) == 0;
        if (i > 0 || (!is_units && strcmp(name + 1, GROUP_OF_MOVED) != 0))
            break;
        delegation->has_own_group = is_units;
        *name = '\0';
    }
    return false;
}

static bool open_root(struct delegation *delegation)
{
    char type[32];
    delegation->root = open(delegation->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (delegation->root < 0)
        return says(delegation, "the control group cannot be opened: %s", strerror(errno));
    if (!group_read(delegation->root, "cgroup.type", type, sizeof(type)))
        (void)says(delegation, "%s is the root of all control groups of the machine", delegation->path);
    else if (strcmp(type, "domain\n") != 0)
        (void)says(delegation, "the control group %s is one of threads", delegation->path);
    else if (faccessat(delegation->root, ".", W_OK, AT_EACCESS) < 0 ||
             faccessat(delegation->root, "cgroup.procs", W_OK, AT_EACCESS) < 0)
        (void)says(delegation, "the control group cannot be written: %s", strerror(errno));
    else
        return true;
    (void)close(delegation->root);
    delegation->root = -1;
    return false;
}

bool delegation_find(struct delegation *delegation)
{
    char root[PATH_MAX];
    char point[PATH_MAX];
    char group[PATH_MAX];
    *delegation = (struct delegation){.root = -1};
    if (!find_mount(root, point))
        return says(delegation, "no cgroup v2 is %s", "mounted");
    const char *name = read_group("/proc/self/cgroup", group, sizeof(group)) ? below(group, root) : NULL;
    if (name == NULL)
        return says(delegation, "the control group of this process is not below %s", point);
    if ((size_t)snprintf(delegation->path, PATH_MAX, "%s%s", point, name) >= PATH_MAX)
        return says(delegation, "the name of the control group is %s", "too long");
    char own[PATH_MAX];
    (void)strcpy(own, delegation->path);
    if (!choose(delegation, root, point))
        return says(delegation, "the control group %s was not delegated", own);
    if (!open_root(delegation))
        return false;
    delegation->has_memory = group_has_word(delegation->root, "cgroup.controllers", "memory") &&
                             faccessat(delegation->root, "cgroup.subtree_control", W_OK, AT_EACCESS) == 0;
    return true;
}

struct family {
    struct delegation *delegation;
    pid_t node;
    pid_t ancestors[ANCESTORS_MAX];
    size_t count;
};

static bool is_of_this_program(const char *name)
{
    return strcmp(name, "disbatch-host") == 0 || strcmp(name, "disbatch-superv") == 0; /* the kernel keeps 15 letters */
}

/* Whether it has started the node, or was started by it or by something like it. */
static bool is_relative(pid_t pid, void *with)
{
    struct family *family = with;
    struct process process = {.name = "?"};
    struct process first = process;
    for (size_t i = 0; i < family->count; i++)
        if (family->ancestors[i] == pid)
            return true;
    for (pid_t one = pid; one > 0 && process_read(one, &process); one = process.parent) {
        if (one == pid)
            first = process;
        if (one == family->node || one == getpid() || is_of_this_program(process.name))
            return true;
    }
    if (pid > 0 && first.pid == 0 && kill(pid, 0) < 0 && errno == ESRCH)
        return true; /* it has ended meanwhile */
    (void)snprintf(family->delegation->why, WHY_SIZE, "process %d (%s) is in the control group %s, and none of the node's",
                   (int)pid, first.name, family->delegation->path);
    return false;
}

bool delegation_is_own(struct delegation *delegation, pid_t node)
{
    struct family family = {.delegation = delegation, .node = node};
    struct process process;
    for (pid_t pid = node; family.count < ANCESTORS_MAX && pid > 0 && process_read(pid, &process); pid = process.parent)
        family.ancestors[family.count++] = pid;
    (void)says(delegation, "the processes in %s are not told", delegation->path);
    return group_each(delegation->root, is_relative, &family);
}
