/* disbatch-supervisor: the command line. See docs/supervisor.md. */
#define _GNU_SOURCE
#include "connection.h"
#include "daemon.h"
#include "groups.h"
#include "init.h"
#include "life.h"
#include "machine.h"
#include "visit.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

static int complain(const char *what, const char *why)
{
    (void)fprintf(stderr, "disbatch-supervisor: %s: %s\n", what, why);
    return 1;
}

static int open_temporary_directory(void)
{
    const char *path = getenv("TMPDIR");
    int fd = path != NULL && *path == '/' ? open(path, O_PATH | O_DIRECTORY | O_CLOEXEC) : -1;
    return fd >= 0 ? fd : open("/tmp", O_PATH | O_DIRECTORY | O_CLOEXEC);
}

static int serve_connection(const char *text)
{
    char *end;
    long number = strtol(text, &end, 10);
    if (*text == '\0' || *end != '\0' || number < 0 || number > INT32_MAX)
        return complain("expected --connection FD, found", text);
    /* Its memory holds what programs read: no other process of this user may look at it. */
    if (prctl(PR_SET_DUMPABLE, 0) < 0)
        return complain("cannot begin", strerror(errno));
    const char *why = machine_self_test();
    if (why != NULL)
        return complain("cannot work here", why);
    int fd = machine_settle_descriptors((int)number);
    struct supervisor *all = must_allocate(sizeof(*all));
    (void)umask(077);
    if (fd < 0 || !machine_take_signals() || !life_open(all))
        return complain("cannot begin", strerror(errno));
    all->spools.directory = open_temporary_directory();
    if (connection_open(all, fd) == NULL)
        return complain("cannot serve this connection", strerror(errno));
    return life_run(all);
}

static int self_test(void)
{
    const char *why = machine_self_test();
    return why == NULL ? 0 : complain("cannot work here", why);
}

static int print_version(void)
{
    const int first = FRAMES_VERSION_MIN, last = FRAMES_VERSION_MAX;
    return printf("disbatch-supervisor frames %d to %d, sources %s\n", first, last, SOURCE_HASH) < 0;
}

static int print_fingerprint(void)
{
    size_t size;
    char *fingerprint = machine_fingerprint(&size);
    return fwrite(fingerprint, 1, size, stdout) != size;
}

static int print_groups(void)
{
    char words[DESCRIPTION_SIZE];
    groups_describe(words, sizeof(words));
    return puts(words) < 0;
}

static int usage(void)
{
    (void)fputs("usage: disbatch-supervisor --directory DIR | --connection FD | --list DIR | --stop DIR |\n"
                "                           --init -- COMMAND... | --self-test | --version | --fingerprint |\n"
                "                           --groups\n",
                stderr);
    return 2;
}

int main(int count, char **arguments)
{
    const char *command = count > 1 ? arguments[1] : "";
    if (count == 2 && strcmp(command, "--self-test") == 0)
        return self_test();
    if (count == 2 && strcmp(command, "--version") == 0)
        return print_version();
    if (count == 2 && strcmp(command, "--fingerprint") == 0)
        return print_fingerprint();
    if (count == 2 && strcmp(command, "--groups") == 0)
        return print_groups();
    if (count == 3 && strcmp(command, "--connection") == 0)
        return serve_connection(arguments[2]);
    if (count == 3 && strcmp(command, "--directory") == 0)
        return daemon_start(arguments[2]);
    if (count == 3 && strcmp(command, "--list") == 0)
        return visit_list(arguments[2]);
    if (count == 3 && strcmp(command, "--stop") == 0)
        return visit_stop(arguments[2]);
    if (count > 3 && strcmp(command, "--init") == 0 && strcmp(arguments[2], "--") == 0)
        return init_run(arguments + 3);
    return usage();
}
