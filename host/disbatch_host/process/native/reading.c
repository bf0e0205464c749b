#define _GNU_SOURCE
#include "reading.h"

#include "input.h"
#include "orders.h"
#include "runs.h"
#include "stops.h"
#include "tell.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>

static const uint64_t CLOSED_AFTER = 10 * MILLISECOND; /* an exit closes the streams a moment before it is told */

/* A process that ends closes its output a moment before it is gone: it is given that moment. */
static const uint64_t SETTLES_WITHIN = 20 * MILLISECOND;

/* What is written piece by piece is read so often at most, and told: a node that heard each line alone would do nothing
 * else. */
static const uint64_t RESTS_FOR = 5 * MILLISECOND;

/* Between two looks whether a disk that was full has room. */
static const uint64_t ROOM_EVERY = SECOND;

enum {
    READS_MAX = (1 << 20) / READ_SIZE + 1, /* of the largest pipe: a busy background process must not keep us */
    EVENTS = STREAM_EVENTS - 1,
};

static void on_closed(struct run *run)
{
    if (run->phase == RUN_RUNNING) {
        run->closed_at = run->all->loop.now + CLOSED_AFTER;
        run_schedule(run);
    } else if (run->phase == RUN_ENDING && !run_is_open(run)) {
        run->drain_at = earlier(run->drain_at, run->all->loop.now + SETTLES_WITHIN);
    }
}

static bool is_held(const struct run *run, int number)
{
    return run->is_live && run->phase == RUN_RUNNING && spool_size(&run->streams[number].head) >= LIVE_WAITING_MAX;
}

bool run_is_held(const struct run *run)
{
    return run->lacks_room || is_held(run, 0) || is_held(run, 1) || is_held(run, EVENTS);
}

bool run_has_unread_events(const struct run *run)
{
    return run->lacks_room && stream_waiting(&run->streams[EVENTS]) > 0;
}

static void read_on_after(struct run *run, uint64_t time)
{
    run->read_on_at = earlier(run->read_on_at, run->all->loop.now + time);
    run_schedule(run);
}

static void rest(struct run *run, int number)
{
    run->streams[number].is_resting = true;
    source_forget(&run->all->loop, &run->streams[number].source);
    read_on_after(run, RESTS_FOR);
}

/* A block of stdout or stderr. False: there is no more now. */
static bool read_output(struct run *run, int number, size_t most)
{
    struct supervisor *all = run->all;
    struct stream *stream = &run->streams[number];
    ssize_t size = stream_read(&all->loop, stream, all->block, most);
    if (size == 0)
        on_closed(run);
    if (size <= 0)
        return false;
    run->active_at = all->loop.now;
    if (!stream_keep(&all->spools, stream, all->block, (size_t)size))
        tell_lost(run, errno);
    if (stream->told < stream->window)
        run_has_news(run);
    if (is_held(run, number))
        source_forget(&all->loop, &stream->source);
    else if (stream_may_rest(stream, (size_t)size, all->loop.now) && !run->is_live && all->loop.now < run->drain_at)
        rest(run, number);
    return true;
}

/* How many bytes of events can be kept now. Where it is the node that has to make room, an ACK says that it has; a disk
 * does not say so. */
static size_t room_for_events(struct run *run)
{
    struct spools *spools = &run->all->spools;
    struct stream *events = &run->streams[EVENTS];
    if (is_held(run, EVENTS) || spool_size(&events->head) >= EVENTS_KEPT_MAX || run->blocks.count >= EVENT_BLOCKS_MAX)
        return 0;
    if (spool_reserve(spools, &events->head, READ_SIZE, events->memory_max))
        return READ_SIZE;
    int error = errno;
    size_t waiting = stream_waiting(events);
    if (waiting < READ_SIZE && spool_reserve(spools, &events->head, waiting, events->memory_max))
        return waiting; /* no file is needed for so few */
    if (waiting > 0) {
        tell_no_room(run, error);
        read_on_after(run, ROOM_EVERY);
    }
    return 0;
}

/* Nothing is in the pipe, and nobody can write to it any more: to read its end takes no room. */
static bool is_at_end(const struct stream *stream)
{
    struct pollfd pipe = {.fd = stream->source.fd, .events = POLLIN};
    return poll(&pipe, 1, 0) == 1 && (pipe.revents & POLLIN) == 0;
}

/* A block of events, and then of stdout and stderr what was written before. False: there are no more now. */
static bool read_events(struct run *run)
{
    struct supervisor *all = run->all;
    struct stream *events = &run->streams[EVENTS];
    if (events->source.fd < 0)
        return false;
    size_t room = room_for_events(run);
    run->lacks_room = room == 0 && stream_waiting(events) > 0;
    if (run->lacks_room)
        source_forget(&all->loop, &events->source); /* the program waits until there is room */
    if (room == 0 && !is_at_end(events))
        return false;
    ssize_t size = stream_read(&all->loop, events, all->block, room > 0 ? room : READ_SIZE);
    if (size == 0)
        on_closed(run);
    if (size <= 0)
        return false;
    run->active_at = all->loop.now;
    if (!spool_put(&all->spools, &events->head, all->block, (size_t)size, events->memory_max))
        tell_lost(run, errno); /* room was made for it: the disk is broken */
    else
        events->read += (uint64_t)size;
    for (int i = 0; i < EVENTS; i++)
        for (size_t left = stream_waiting(&run->streams[i]); left > 0;) {
            uint64_t before = run->streams[i].read;
            if (!read_output(run, i, left < READ_SIZE ? left : READ_SIZE))
                break;
            uint64_t got = run->streams[i].read - before;
            left -= got < left ? (size_t)got : left;
        }
    const struct event_block block = {events->read, run->streams[0].read, run->streams[1].read, run->stopped};
    blocks_add(&run->blocks, block);
    run_has_news(run);
    return true;
}

static void go_on(struct run *run)
{
    if (run->phase == RUN_ENDING && !run_is_open(run))
        run_end_rest(run);
}

static void on_out(void *owner, uint32_t events)
{
    (void)events;
    (void)read_output(owner, 0, READ_SIZE);
    go_on(owner);
}

static void on_err(void *owner, uint32_t events)
{
    (void)events;
    (void)read_output(owner, 1, READ_SIZE);
    go_on(owner);
}

static void on_events(void *owner, uint32_t events)
{
    (void)events;
    (void)read_events(owner);
    go_on(owner);
}

void run_watch(struct run *run)
{
    static void (*const READY[STREAMS])(void *owner, uint32_t events) = {on_out, on_err, on_events};
    if (run->is_watched)
        return;
    run->is_watched = true;
    for (int i = 0; i < STREAMS; i++) {
        struct source *source = &run->streams[i].source;
        source->ready = READY[i];
        source->owner = run;
        /* Where the kernel refuses, for want of memory, the output is read at the end. */
        if (source->fd >= 0)
            (void)source_watch(&run->all->loop, source, EPOLLIN);
    }
}

void run_read_on(struct run *run)
{
    for (int i = 0; i < STREAMS && run->is_watched; i++) {
        struct source *source = &run->streams[i].source;
        if (source->fd >= 0 && !source->is_watched && !run->streams[i].is_resting && !is_held(run, i))
            (void)source_watch(&run->all->loop, source, EPOLLIN);
    }
}

void run_rest_is_over(struct run *run)
{
    run->read_on_at = NEVER;
    for (int i = 0; i < EVENTS; i++) {
        if (!run->streams[i].is_resting)
            continue;
        run->streams[i].is_resting = false;
        (void)read_output(run, i, READ_SIZE); /* it may rest again */
    }
    run_read_on(run);
}

void run_read_rest(struct run *run)
{
    for (int reads = 0; reads < READS_MAX && read_events(run); reads++)
        ;
    for (int i = 0; i < EVENTS; i++)
        for (int reads = 0; reads < READS_MAX && read_output(run, i, READ_SIZE); reads++)
            ;
}

void run_read_end(struct run *run)
{
    struct supervisor *all = run->all;
    source_close(&all->loop, &run->exit);
    run->phase = RUN_ENDING;
    all->rest_count++;
    run->ended_at = all->loop.now;
    run->drain_at = plus(run->ended_at, run->plugin->drain);
    run_read_rest(run);
    if (!run_is_open(run))
        run->drain_at = earlier(run->drain_at, run->ended_at + SETTLES_WITHIN);
    input_end(run);
    run_refuse_next_task(run);
    run_read_on(run);
    run_end_rest(run);
}
