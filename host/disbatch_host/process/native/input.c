#define _GNU_SOURCE
#include "input.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <unistd.h>

static uint64_t unread(int fd)
{
    int size = 0;
    return fd < 0 || ioctl(fd, FIONREAD, &size) < 0 || size < 0 ? 0 : (uint64_t)size;
}

uint64_t input_left(const struct run *run)
{
    const struct input *input = &run->input;
    uint64_t waiting = spool_size(&input->waiting);
    if (input->unread >= 0)
        return unread(input->unread);
    return input->source.fd >= 0 ? unread(input->source.fd) + waiting : input->left + waiting;
}

/* The program is to see the end of its input. The other end of the pipe is kept to ask what it has not read. */
static void close_written(struct run *run)
{
    struct input *input = &run->input;
    char path[sizeof("/proc/self/fd/") + 12];
    (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", input->source.fd);
    input->unread = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (input->unread < 0)
        input->left = unread(input->source.fd);
    source_close(&run->all->loop, &input->source);
}

/* The program closed its stdin before it had read everything; it may. */
static void refuse(struct run *run)
{
    struct input *input = &run->input;
    input->is_refused = true;
    input->left = input_left(run);
    spool_restart(&run->all->spools, &input->waiting, 0, 0);
    source_close(&run->all->loop, &input->source);
}

/* False: the pipe is full, or the program reads no more. */
static bool write_some(struct run *run)
{
    struct supervisor *all = run->all;
    struct input *input = &run->input;
    const uint8_t *data;
    size_t size = spool_front(&input->waiting, &data);
    if (size == 0) {
        size = spool_get(&input->waiting, input->waiting.begin, all->block, sizeof(all->block));
        data = all->block;
    }
    ssize_t written = size > 0 ? write(input->source.fd, data, size) : -1;
    if (written > 0) {
        spool_drop(&all->spools, &input->waiting, input->waiting.begin + (uint64_t)written);
        return true;
    }
    if (size == 0 || (errno != EAGAIN && errno != EINTR))
        refuse(run);
    else if (!source_watch(&all->loop, &input->source, EPOLLOUT))
        refuse(run); /* nobody would write the rest */
    return false;
}

void input_flow(struct run *run)
{
    struct input *input = &run->input;
    if (input->source.fd < 0) {
        if (spool_size(&input->waiting) > 0)
            refuse(run);
        return;
    }
    while (spool_size(&input->waiting) > 0)
        if (!write_some(run))
            return;
    source_forget(&run->all->loop, &input->source);
    if ((input->is_over || !input->stays_open) && !run->next.is_there)
        close_written(run);
}

void input_end(struct run *run)
{
    struct input *input = &run->input;
    if (spool_size(&input->waiting) > 0)
        input->is_refused = true;
    input->left = input_left(run);
    spool_restart(&run->all->spools, &input->waiting, 0, 0);
    source_close(&run->all->loop, &input->source);
    if (input->unread >= 0)
        (void)close(input->unread);
    input->unread = -1;
}
