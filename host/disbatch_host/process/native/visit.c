#define _GNU_SOURCE
#include "visit.h"

#include "frames.h"
#include "home.h"
#include "loop.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { READ_ROOM = 1 << 16, STOP_SECONDS = 3600 };

static int connect_to(const char *directory, uint8_t key[KEY_SIZE], pid_t *pid)
{
    int fd = home_connect(directory, key, KEY_SIZE, pid);
    if (fd < 0)
        (void)fprintf(stderr, "disbatch-supervisor: no supervisor listens in %s: %s\n", directory, strerror(errno));
    return fd;
}

static void print_run(const struct run_frame *run)
{
    static const char *const STATES[] = {"?", "starting", "running", "ended", "left over"};
    const char *state = run->state <= STATE_LEFT_OVER ? STATES[run->state] : STATES[0];
    (void)printf("run %" PRIu64 "  pid %" PRIu32 "  %s  for %" PRIu64 " s\n", run->run, run->pid, state,
                 run->age / SECOND);
}

/* False: everything was said. */
static bool read_frames(struct buffer *in, int *status)
{
    struct frame frame;
    size_t used;
    const char *why;
    for (;;) {
        enum reading reading = frame_read(buffer_front(in), buffer_size(in), &frame, &used, &why);
        if (reading == READ_PART)
            return true;
        if (reading == READ_WHOLE && frame.type == FRAME_RUN)
            print_run(&frame.run);
        if (reading == READ_WHOLE && frame.type == FRAME_BYE) {
            (void)fprintf(stderr, "disbatch-supervisor: %.*s\n", (int)frame.bye.words.size,
                          (const char *)frame.bye.words.data);
            *status = 1;
        }
        if (reading == READ_BROKEN || (reading == READ_WHOLE && (frame.type == FRAME_READY || frame.type == FRAME_BYE)))
            return false;
        buffer_take(in, used);
    }
}

int visit_list(const char *directory)
{
    uint8_t key[KEY_SIZE];
    pid_t pid;
    int fd = connect_to(directory, key, &pid);
    if (fd < 0)
        return 1;
    struct frame frame = {.type = FRAME_LOOK};
    frame.look = (struct look_frame){{key, sizeof(key)}};
    struct buffer out = {0};
    struct buffer in = {0};
    int status = 1;
    if (frame_write(&out, &frame) && send(fd, buffer_front(&out), buffer_size(&out), MSG_NOSIGNAL) > 0) {
        status = 0;
        while (read_frames(&in, &status)) {
            ssize_t got = buffer_reserve(&in, READ_ROOM) ? recv(fd, in.data + in.end, READ_ROOM, 0) : -1;
            if (got <= 0)
                break;
            in.end += (size_t)got;
        }
    }
    buffer_free(&in);
    buffer_free(&out);
    (void)close(fd);
    return status;
}

int visit_stop(const char *directory)
{
    uint8_t key[KEY_SIZE];
    pid_t pid;
    int fd = connect_to(directory, key, &pid);
    if (fd < 0)
        return 1;
    (void)close(fd);
    int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (pidfd < 0 || syscall(SYS_pidfd_send_signal, pidfd, SIGTERM, NULL, 0) < 0) {
        (void)fprintf(stderr, "disbatch-supervisor: process %d: %s\n", (int)pid, strerror(errno));
        return 1;
    }
    struct pollfd end = {.fd = pidfd, .events = POLLIN};
    int ended = poll(&end, 1, STOP_SECONDS * 1000);
    (void)close(pidfd);
    return ended == 1 ? 0 : 1;
}
