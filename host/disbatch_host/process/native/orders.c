#define _GNU_SOURCE
#include "orders.h"

#include "find.h"
#include "input.h"
#include "plugins.h"
#include "reading.h"
#include "runs.h"
#include "start.h"
#include "stops.h"
#include "tell.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

static const uint64_t SHORT_IDLE = 1 * SECOND; /* such a limit needs the first output at once */

static uint8_t *copy_of(struct blob blob, uint32_t *size)
{
    uint8_t *bytes = must_allocate((size_t)blob.size + 1);
    if (blob.size > 0)
        memcpy(bytes, blob.data, blob.size);
    *size = blob.size;
    return bytes;
}

static const char *name_plugin(struct connection *connection, const struct plugin_frame *frame)
{
    const char *why = NULL;
    struct plugin *plugin = plugin_new(frame, &why);
    if (plugin == NULL)
        return why;
    connection_name(connection, plugin);
    plugin_drop(plugin);
    return NULL;
}

/* The first part of an input that is not whole yet. */
static void expect_input(struct run *run, const struct start_frame *frame)
{
    run->input.expected = frame->total - frame->input.size;
    if (!spool_put(&run->all->spools, &run->input.waiting, frame->input.data, frame->input.size, STREAM_MEMORY_MAX))
        run_not_started(run, errno, STEP_SPOOL);
}

static void follow(struct run *run)
{
    run->is_live = true;
    for (int i = 0; i < STREAMS; i++)
        stream_follow(&run->streams[i]);
}

static const char *start(struct connection *connection, const struct start_frame *frame)
{
    struct supervisor *all = connection->all;
    struct plugin *plugin = connection_plugin(connection, frame->plugin);
    if (plugin == NULL)
        return "START of a plugin that was not named";
    if (frame->input.size > frame->total)
        return "START with more input than its total";
    if (frame->run < all->next_run || frame->run >> RUN_MARK_BITS != 0)
        return "START with a number that was used before, or of more than 48 bits";
    struct run *run = run_new(all, frame->run, plugin);
    const char *why = NULL;
    bool is_startable;
    run->launch = launch_new(run, frame, &is_startable, &why);
    if (run->launch == NULL) {
        run_release(run);
        return why;
    }
    all->next_run = frame->run + 1;
    run->note = copy_of(frame->note, &run->note_size);
    run->timeout = frame->timeout;
    run->idle_limit = frame->idle_timeout;
    run->input.stays_open = (frame->flags & INPUT_OPEN) != 0;
    bool is_watched_at_once = run->input.stays_open || (run->idle_limit > 0 && run->idle_limit < SHORT_IDLE);
    run->watch_at = is_watched_at_once ? 0 : NEVER;
    if ((frame->flags & INPUT_LIVE) != 0)
        follow(run);
    run->launch->wakes = is_watched_at_once || (frame->flags & INPUT_TELL) != 0 || run->launch->input == NULL;
    if (all->ending != STOP_NOT) {
        run->stopped = all->ending;
        run_not_started(run, ECANCELED, STEP_STOPPED);
    } else if (all->run_count > all->capacity) {
        run_not_started(run, EMFILE, STEP_PIPES);
    } else if (!is_startable) {
        run_not_started(run, EINVAL, STEP_EXEC);
    } else if (run->launch->input == NULL) {
        expect_input(run, frame);
    } else {
        run_launch(run);
    }
    return NULL;
}

static void drop_next_task(struct run *run)
{
    spool_restart(&run->all->spools, &run->next.input, 0, 0);
    free(run->next.note);
    run->next = (struct next_task){.input.fd = -1};
}

static void give_task(struct run *run)
{
    struct supervisor *all = run->all;
    const struct task_frame *frame = &run->next.frame;
    run->task = frame->number;
    free(run->task_note);
    run->task_note = run->next.note;
    run->task_note_size = frame->note.size;
    run->next.note = NULL;
    run->task_given_at = all->loop.now;
    run->cpu_before = process_cpu(run->pid);
    run_set_limits(run, all->loop.now, frame->timeout, frame->idle_timeout);
    for (int i = 0; i < STREAMS; i++) {
        struct stream *stream = &run->streams[i];
        stream->task_at = stream->read;
        if (i != STREAM_EVENTS - 1)
            stream_forget_before(&all->spools, stream, earlier(stream->stored, stream->task_at));
    }
    run->input.waiting = run->next.input;
    spool_init(&run->next.input, 0, 0);
    drop_next_task(run);
    input_flow(run);
    run_schedule(run);
}

/* Give it the task that waits, once its input is whole and what was written before is out. */
static void try_next_task(struct run *run)
{
    struct supervisor *all = run->all;
    if (!run->next.is_there || run->input.expected > 0 || run->phase != RUN_RUNNING ||
        spool_size(&run->input.waiting) > 0)
        return;
    struct pollfd pipe = {.fd = run->input.source.fd, .events = POLLOUT};
    if (pipe.fd >= 0 && poll(&pipe, 1, 0) == 0) { /* full: its first byte is written later, and its age counts then */
        (void)source_watch(&all->loop, &run->input.source, EPOLLOUT);
        return;
    }
    const struct task_frame *frame = &run->next.frame;
    uint64_t now = boottime_now();
    if (frame->trusted == 0 || now <= frame->asked_at || now - frame->asked_at <= frame->trusted) {
        give_task(run);
        return;
    }
    drop_next_task(run);
    tell_not_started(run, ETIME, STEP_TOO_OLD);
}

void run_refuse_next_task(struct run *run)
{
    if (!run->next.is_there)
        return;
    drop_next_task(run);
    tell_not_started(run, ECANCELED, STEP_STOPPED);
}

void run_input_is_writable(struct run *run)
{
    input_flow(run);
    if (run->phase == RUN_RUNNING)
        try_next_task(run);
}

static const char *task(struct supervisor *all, const struct task_frame *frame)
{
    struct run *run = runs_find(all, frame->run);
    if (frame->input.size > frame->total)
        return "TASK with more input than its total";
    if (run == NULL)
        return NULL;
    if (run->phase >= RUN_ENDING) {
        if (frame->total > 0) /* not a byte of it is written; END may have been told without it */
            tell_not_started(run, ECANCELED, STEP_STOPPED);
        return NULL;
    }
    if (frame->total == 0) {
        run->timeout = frame->timeout;
        run->idle_limit = frame->idle_timeout;
        if (run->phase == RUN_RUNNING) {
            run_set_limits(run, all->loop.now, frame->timeout, frame->idle_timeout);
            run_schedule(run);
        }
        return NULL;
    }
    if (!run->input.stays_open || run->input.is_over)
        return "TASK of a run whose input is over";
    if (run->next.is_there || run->phase == RUN_COMING)
        return "TASK before the input of the one before it";
    uint32_t size;
    run->next.is_there = true;
    run->next.frame = *frame;
    run->next.note = copy_of(frame->note, &size);
    run->input.expected = frame->total - frame->input.size;
    if (!spool_put(&all->spools, &run->next.input, frame->input.data, frame->input.size, STREAM_MEMORY_MAX)) {
        int error = errno;
        drop_next_task(run);
        tell_not_started(run, error, STEP_SPOOL);
        return NULL;
    }
    try_next_task(run);
    return NULL;
}

static const char *more_input(struct supervisor *all, const struct input_frame *frame)
{
    struct run *run = runs_find(all, frame->run);
    if (run == NULL || run->phase >= RUN_ENDING)
        return NULL;
    struct input *input = &run->input;
    if (frame->data.size > input->expected)
        return "STDIN of more than START or TASK announced";
    input->expected -= frame->data.size;
    if (run->phase != RUN_COMING && !run->next.is_there)
        return NULL; /* of a task that could not be kept */
    struct spool *spool = run->phase == RUN_COMING ? &input->waiting : &run->next.input;
    if (!spool_put(&all->spools, spool, frame->data.data, frame->data.size, STREAM_MEMORY_MAX)) {
        int error = errno;
        if (run->phase == RUN_COMING) {
            run_not_started(run, error, STEP_SPOOL);
        } else {
            drop_next_task(run);
            tell_not_started(run, error, STEP_SPOOL);
        }
    } else if (input->expected == 0) {
        if (run->phase == RUN_COMING)
            run_launch(run);
        else
            try_next_task(run);
    }
    return NULL;
}

static const char *close_input(struct supervisor *all, const struct stdin_eof_frame *frame)
{
    struct run *run = runs_find(all, frame->run);
    if (run == NULL || run->phase >= RUN_ENDING)
        return NULL;
    run->input.is_over = true;
    if (run->phase == RUN_RUNNING && !run->next.is_there)
        input_flow(run);
    return NULL;
}

static const char *set_window(struct supervisor *all, const struct window_frame *frame)
{
    struct run *run = runs_find(all, frame->run);
    if (frame->stream < STREAM_OUT || frame->stream > STREAM_EVENTS)
        return "WINDOW of a stream that there is not";
    if (run == NULL || run->is_live) /* such a run is told as it comes, and what was told is not kept */
        return NULL;
    struct stream *stream = &run->streams[frame->stream - 1];
    stream->told = earlier(frame->offset, stream->read);
    stream->window = plus(frame->offset, frame->size);
    if (run->phase == RUN_RUNNING && frame->size > 0)
        run_watch(run);
    else if (run->phase < RUN_RUNNING && frame->size > 0)
        run->watch_at = 0;
    run_has_news(run);
    return NULL;
}

static void store_offset(struct run *run, int number, uint64_t offset)
{
    struct supervisor *all = run->all;
    struct stream *stream = &run->streams[number];
    if (offset > stream->stored)
        stream->stored = offset;
    if (stream->told < stream->stored)
        stream->told = stream->stored;
    if (number != STREAM_EVENTS - 1) {
        if (run->task > 0)
            stream_forget_before(&all->spools, stream, earlier(stream->stored, stream->task_at));
        return;
    }
    spool_drop(&all->spools, &stream->head, stream->stored);
    blocks_drop(&run->blocks, stream->stored);
    run_read_on(run);
}

static const char *acknowledge(struct supervisor *all, const struct ack_frame *frame)
{
    struct run *run = runs_find(all, frame->run);
    if (frame->what > ACK_GONE)
        return "ACK of something that there is not";
    if (run == NULL)
        return NULL;
    const uint64_t offsets[STREAMS] = {frame->out, frame->err, frame->events};
    for (int i = 0; i < STREAMS; i++)
        if (offsets[i] > run->streams[i].read)
            return "ACK of more than was read";
    if ((frame->what == ACK_END && run->phase != RUN_ENDED) || (frame->what == ACK_GONE && !run->is_gone))
        return "ACK of an end that has not come";
    for (int i = 0; i < STREAMS; i++)
        store_offset(run, i, offsets[i]);
    run->is_end_stored = run->is_end_stored || frame->what != ACK_OFFSETS;
    if (frame->what == ACK_GONE || (frame->what == ACK_END && buffer_size(&run->left_over) == 0))
        run_release(run);
    return NULL;
}

static const char *stop(struct supervisor *all, uint64_t number, uint8_t reason, bool at_once)
{
    struct run *run = runs_find(all, number);
    if (reason == STOP_NOT || reason > STOP_REPLACED)
        return "a stop without a reason that there is";
    if (run == NULL)
        return NULL;
    if (at_once)
        run_kill(run, (enum stop_reason)reason);
    else
        run_stop(run, (enum stop_reason)reason);
    return NULL;
}

static const char *ping(struct connection *connection, const struct ping_frame *frame)
{
    struct frame pong = {.type = FRAME_PONG};
    pong.pong = (struct pong_frame){frame->number};
    tell_news(connection->all);
    connection_tell(connection, &pong);
    connection->all->flush_at = connection->all->loop.now;
    return NULL;
}

const char *order(struct connection *connection, const struct frame *frame)
{
    struct supervisor *all = connection->all;
    runs_take_launched(all); /* what has just been started is not "starting" any more */
    switch (frame->type) {
    case FRAME_PLUGIN:
        return name_plugin(connection, &frame->plugin);
    case FRAME_START:
        return start(connection, &frame->start);
    case FRAME_TASK:
        return task(all, &frame->task);
    case FRAME_STDIN:
        return more_input(all, &frame->input);
    case FRAME_STDIN_EOF:
        return close_input(all, &frame->stdin_eof);
    case FRAME_STOP:
        return stop(all, frame->stop.run, frame->stop.reason, false);
    case FRAME_KILL:
        return stop(all, frame->kill.run, frame->kill.reason, true);
    case FRAME_WINDOW:
        return set_window(all, &frame->window);
    case FRAME_ACK:
        return acknowledge(all, &frame->ack);
    case FRAME_PING:
        return ping(connection, &frame->ping);
    default:
        return "a frame that a node does not send, or not twice";
    }
}

void orders_void(struct supervisor *all)
{
    for (size_t i = 0; i < all->bucket_count; i++)
        for (struct run *run = all->buckets[i], *next; run != NULL; run = next) {
            next = run->next_in_bucket;
            if (run->phase == RUN_COMING) {
                run_release(run);
            } else if (run->next.is_there && run->input.expected > 0) {
                run->input.expected = 0;
                drop_next_task(run);
            }
        }
}
