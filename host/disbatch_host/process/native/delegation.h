/* The control group (cgroup v2) that may be divided among the runs, if there is one.
 *
 * Responsible for: finding it, and whether it is this supervisor's and its node's to use. Must not know: runs.
 *
 * It is used only if somebody has given it away: systemd marks what it delegates (`user.delegate`, `trusted.delegate`),
 * and in a container the group that its processes see as the root is theirs. That a group can be written says nothing:
 * root can write all of them, and a user's own service manager owns those of all its units.
 */
#ifndef DISBATCH_DELEGATION_H
#define DISBATCH_DELEGATION_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/* Groups that a delegated one may have for its node: the one of `DelegateSubgroup=` in a unit, and the one into which a
 * supervisor moves what is in the delegated group itself. */
#define GROUP_OF_UNIT "disbatch-node"
#define GROUP_OF_MOVED "disbatch-moved"
#define GROUP_OF_RUNS "disbatch-runs-" /* and the supervisor's id */

enum { WHY_SIZE = 256 + PATH_MAX };

struct delegation {
    int root;             /* a descriptor of the delegated group; below 0: there is none */
    char path[PATH_MAX];
    bool is_by_mark;      /* of a service manager, which starts processes in it again */
    bool has_own_group;   /* the node was put in GROUP_OF_UNIT: nothing is ever in the delegated group itself */
    bool has_memory;      /* the kernel can limit the memory of groups in it */
    char why[WHY_SIZE];   /* there is none */
};

/* False, with `why`. */
bool delegation_find(struct delegation *delegation);

/* Whether all processes in the group itself are this one, the node, those that started it or that it has started, and
 * nodes and supervisors beside it. False, with `why`. */
bool delegation_is_own(struct delegation *delegation, pid_t node);

/* Files of a group, by a descriptor of its directory. False, with errno. */
bool group_write(int directory, const char *file, const char *text);
bool group_read(int directory, const char *file, char *text, size_t size);

/* Whether a word stands in such a file. */
bool group_has_word(int directory, const char *file, const char *word);

/* Call for each process in a group itself, until that returns false. */
bool group_each(int directory, bool (*call)(pid_t pid, void *with), void *with);

#endif
