#define _GNU_SOURCE
#include "tell.h"

#include "connection.h"
#include "find.h"
#include "home.h"
#include "input.h"
#include "reading.h"
#include "runs.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const uint64_t GATHER = 600;                        /* microseconds that an END waits for others */
static const uint64_t MEMORY_EVERY = 50 * MILLISECOND;     /* a look at a process's memory costs 10 us */

enum {
    GATHERED = 4, /* ENDs that are enough for a write */
    EVENTS = STREAM_EVENTS - 1,
};

void tell_later(struct run *run)
{
    struct supervisor *all = run->all;
    if (run->is_news)
        return;
    run->is_news = true;
    run->next_news = NULL;
    if (all->first_news == NULL)
        all->first_news = run;
    else
        all->last_news->next_news = run;
    all->last_news = run;
    all->news_count++;
}

static void told_first(struct supervisor *all)
{
    struct run *run = all->first_news;
    all->first_news = run->next_news;
    run->is_news = false;
    all->news_count--;
    struct connection *node = all->node;
    if (node != NULL && node->before_ready > 0)
        node->before_ready--;
}

void tell_forget(struct run *run)
{
    struct supervisor *all = run->all;
    if (!run->is_news)
        return;
    if (all->first_news == run) {
        told_first(all);
        return;
    }
    size_t place = 1;
    struct run *before = all->first_news;
    for (; before->next_news != run; before = before->next_news)
        place++;
    before->next_news = run->next_news;
    if (all->last_news == run)
        all->last_news = before;
    run->is_news = false;
    all->news_count--;
    if (all->node != NULL && place < all->node->before_ready)
        all->node->before_ready--;
}

static void tell(struct supervisor *all, const struct frame *frame)
{
    if (all->node == NULL)
        return;
    connection_tell(all->node, frame);
    all->flush_at = all->loop.now;
}

static bool is_full(const struct supervisor *all)
{
    return buffer_size(&all->node->out) >= OUT_ROOM;
}

void tell_not_started(struct run *run, int error, enum step step)
{
    if (run->phase == RUN_COMING && run->all->node == NULL)
        return;
    struct frame frame = {.type = FRAME_NOT_STARTED};
    frame.not_started = (struct not_started_frame){run->number, error, (uint8_t)step, run->stopped};
    tell(run->all, &frame);
}

void tell_log(struct supervisor *all, enum log_level level, const char *format, ...)
{
    char words[512];
    va_list arguments;
    va_start(arguments, format);
    int size = vsnprintf(words, sizeof(words), format, arguments);
    va_end(arguments);
    if (size < 0)
        return;
    if (all->home != NULL)
        home_log(all->home, words);
    struct frame frame = {.type = FRAME_LOG};
    frame.log = (struct log_frame){(uint8_t)level, {(const uint8_t *)words, (uint32_t)strlen(words)}};
    tell(all, &frame);
}

void tell_lost(struct run *run, int error)
{
    if (run->is_loss_told)
        return;
    run->is_loss_told = true;
    tell_log(run->all, LOG_WARNING, "run %llu: a part of its output is lost, since no file for it can be written: %s",
             (unsigned long long)run->number, strerror(error));
}

void tell_no_room(struct run *run, int error)
{
    if (run->is_room_told)
        return;
    run->is_room_told = true;
    tell_log(run->all, LOG_WARNING,
             "run %llu: descriptor 3 is not read, and the program waits, until a file for its events can be written: %s",
             (unsigned long long)run->number, strerror(error));
}

/* The node of a run that is followed live keeps what it was told. */
static void drop_told(struct run *run, int number)
{
    struct stream *stream = &run->streams[number];
    stream->stored = stream->told;
    spool_drop(&run->all->spools, &stream->head, stream->told);
    if (number == EVENTS)
        blocks_drop(&run->blocks, stream->told);
    run_read_on(run);
}

/* The part of a stream from what was told on: at most PART_MAX bytes that lie together. */
static struct blob next_part(struct run *run, int number, uint64_t *at, uint64_t limit)
{
    struct supervisor *all = run->all;
    struct stream *stream = &run->streams[number];
    *at = stream_next(stream, stream->told);
    uint64_t size = earlier(earlier(stream->read - *at, limit), PART_MAX);
    size_t copied = size == 0 ? 0 : stream_copy(stream, *at, all->parts[number], (size_t)size);
    stream->told = *at + copied;
    if (copied == 0 && size > 0)
        stream->told = stream->read; /* its file cannot be read: what is there is lost */
    if (run->is_live)
        drop_told(run, number);
    return (struct blob){all->parts[number], (uint32_t)copied};
}

static void look_at_memory(struct run *run)
{
    uint64_t now = run->all->loop.now;
    if (run->phase != RUN_RUNNING || (run->memory_at > 0 && now - run->memory_at < MEMORY_EVERY))
        return;
    run->memory_at = now;
    process_memory(run->pid, &run->memory_now, &run->memory_peak);
}

/* Since it was given its task, if it was given one. */
static uint64_t cpu_of_task(const struct run *run, uint64_t cpu)
{
    return cpu > run->cpu_before ? cpu - run->cpu_before : 0;
}

static void tell_events(struct run *run)
{
    struct stream *stream = &run->streams[EVENTS];
    const struct event_block *block = blocks_find(&run->blocks, stream->told);
    look_at_memory(run);
    struct frame frame = {.type = FRAME_EVENTS};
    frame.events = (struct events_frame){
        .run = run->number, .out_at = block != NULL ? block->out_at : run->streams[0].read,
        .err_at = block != NULL ? block->err_at : run->streams[1].read,
        .stopped = block != NULL ? block->stopped : run->stopped,
        .cpu = cpu_of_task(run, run->phase < RUN_ENDED ? process_cpu(run->pid) : run->cpu),
        .memory = run->memory_now, .peak = run->memory_peak,
        .stdin_left = run->phase < RUN_ENDING ? input_left(run) : run->input.left,
    };
    uint64_t limit = block != NULL ? block->end - stream->told : PART_MAX;
    frame.events.data = next_part(run, EVENTS, &frame.events.offset, limit);
    tell(run->all, &frame);
}

static void tell_said(struct run *run, int number)
{
    struct stream *stream = &run->streams[number];
    uint64_t limit = stream->window - stream->told;
    uint64_t told = stream->told;
    struct frame frame = {.type = FRAME_SAID};
    frame.said = (struct said_frame){.run = run->number, .stream = (uint8_t)(number + 1)};
    frame.said.data = next_part(run, number, &frame.said.offset, limit);
    /* A gap costs nothing of the window: without what follows it the node would not know of it. */
    stream->window = plus(stream->window, frame.said.offset - told);
    if (frame.said.data.size == 0)
        frame.said.offset = stream->told; /* the rest is lost, and nothing follows that would tell of it */
    tell(run->all, &frame);
}

/* What is left of a stream comes with END, if it is no more than a frame takes. */
static bool comes_with_end(const struct run *run, int number)
{
    const struct stream *stream = &run->streams[number];
    /* What a worker process says is told with what was so when it said it. */
    if (number == EVENTS && run->input.stays_open)
        return false;
    return run->phase == RUN_ENDED && !run->is_end_told && !run->is_end_stored &&
           stream->read - stream_next(stream, stream->told) <= PART_MAX;
}

/* What was written to stdout and stderr before the next events, where nobody puts them in order. False: no room. */
static bool tell_what_was_before(struct run *run)
{
    const struct event_block *block = blocks_find(&run->blocks, run->streams[EVENTS].told);
    if (!run->is_live || block == NULL)
        return true;
    const uint64_t before[EVENTS] = {block->out_at, block->err_at};
    for (int i = 0; i < EVENTS; i++)
        while (run->streams[i].told < before[i]) {
            if (is_full(run->all))
                return false;
            tell_said(run, i);
        }
    return true;
}

/* False: there is no room for all of it. */
static bool tell_output(struct run *run)
{
    while (run->streams[EVENTS].told < run->streams[EVENTS].read && !comes_with_end(run, EVENTS)) {
        if (!tell_what_was_before(run) || is_full(run->all))
            return false;
        tell_events(run);
    }
    for (int i = 0; i < EVENTS; i++) {
        struct stream *stream = &run->streams[i];
        while (stream->told < stream->window && stream->told < stream->read && !comes_with_end(run, i)) {
            if (is_full(run->all))
                return false;
            tell_said(run, i);
        }
    }
    return true;
}

static void tell_closed(struct run *run)
{
    if (run->phase != RUN_RUNNING || run->all->loop.now < run->closed_at)
        return;
    run->closed_at = NEVER;
    for (int i = 0; i < STREAMS; i++) {
        struct stream *stream = &run->streams[i];
        if (stream->source.fd >= 0 || stream->is_closed_told)
            continue;
        stream->is_closed_told = true;
        struct frame frame = {.type = FRAME_CLOSED};
        frame.closed = (struct closed_frame){run->number, (uint8_t)(i + 1)};
        tell(run->all, &frame);
    }
    run_schedule(run);
}

/* The kernel's own figure: the clock would be off where the process had to wait for a core. */
static void look_at_start(struct run *run)
{
    struct process process;
    if (run->pid_started == 0 && run->pid > 0 && !run->is_reaped && process_read(run->pid, &process))
        run->pid_started = process.started;
}

static void tell_started(struct run *run)
{
    if (!run->wants_started || run->phase != RUN_RUNNING || run->all->loop.now < run->tell_started_at)
        return;
    run->wants_started = false;
    look_at_start(run);
    struct frame frame = {.type = FRAME_STARTED};
    frame.started = (struct started_frame){run->number, (uint32_t)run->pid, run->pid_started};
    tell(run->all, &frame);
    run_schedule(run);
}

static struct blob list_of(const struct buffer *buffer)
{
    static const uint8_t none[sizeof(uint32_t)];
    if (buffer_size(buffer) == 0)
        return (struct blob){none, sizeof(none)};
    return (struct blob){buffer_front(buffer), (uint32_t)buffer_size(buffer)};
}

static void tell_end(struct run *run)
{
    struct supervisor *all = run->all;
    uint64_t from = run->task_given_at > 0 ? run->task_given_at : run->started_at;
    struct frame frame = {.type = FRAME_END};
    struct end_frame *end = &frame.end;
    *end = (struct end_frame){
        .run = run->number, .pid = (uint32_t)run->pid, .pid_started = run->pid_started, .status = run->status,
        .stopped = run->stopped, .flags = run->end_flags, .killed_after = run->killed_after,
        .cpu = cpu_of_task(run, run->cpu),
        .peak = run->peak, .stdin_left = run->input.left,
        .seconds = run->ended_at > from ? run->ended_at - from : 0, .age = all->loop.now - run->ended_at,
        .left_running = run->left_running,
        .out_end = run->streams[0].read, .err_end = run->streams[1].read, .events_end = run->streams[2].read,
        .left_over = list_of(&run->left_over), .ended = list_of(&run->ended),
    };
    end->out = next_part(run, 0, &end->out_at, PART_MAX);
    end->err = next_part(run, 1, &end->err_at, PART_MAX);
    end->events = next_part(run, 2, &end->events_at, PART_MAX);
    run->is_end_told = true;
    connection_tell(all->node, &frame);
    /* ENDs that come together leave together, where more are to be expected. */
    bool is_enough = ++all->ends_waiting >= GATHERED || all->active_count < GATHERED;
    all->flush_at = earlier(all->flush_at, is_enough ? all->loop.now : all->loop.now + GATHER);
}

/* False: there is no room for all of it. */
static bool tell_run(struct run *run)
{
    if (run->phase < RUN_RUNNING)
        return true;
    tell_started(run);
    if (!tell_output(run))
        return false;
    tell_closed(run);
    if (run->phase == RUN_ENDED && !run->is_end_told && !run->is_end_stored) {
        if (is_full(run->all))
            return false;
        tell_end(run);
        if (!tell_output(run))
            return false;
    }
    if (run->is_gone && !run->is_gone_told) {
        run->is_gone_told = true;
        struct frame frame = {.type = FRAME_GONE};
        frame.gone = (struct gone_frame){run->number};
        tell(run->all, &frame);
    }
    return true;
}

static void tell_ready(struct supervisor *all)
{
    struct connection *node = all->node;
    if (!node->is_ready_due || node->before_ready > 0)
        return;
    node->is_ready_due = false;
    struct frame frame = {.type = FRAME_READY};
    tell(all, &frame);
}

void tell_news(struct supervisor *all)
{
    if (all->node == NULL)
        return;
    tell_ready(all);
    while (all->first_news != NULL && !is_full(all)) {
        if (!tell_run(all->first_news))
            break;
        told_first(all);
        tell_ready(all);
    }
}

static void tell_plugins(struct supervisor *all, struct run *const *runs)
{
    uint32_t number = 0;
    for (struct run *const *run = runs; *run != NULL; run++)
        (*run)->plugin->number = 0;
    for (; *runs != NULL; runs++) {
        struct plugin *plugin = (*runs)->plugin;
        if (plugin->number != 0)
            continue;
        plugin->number = ++number;
        connection_name(all->node, plugin);
        struct frame frame = {.type = FRAME_KEPT_PLUGIN};
        frame.kept_plugin = (struct kept_plugin_frame){number, plugin->note};
        tell(all, &frame);
    }
}

static enum wire_state state_of(const struct run *run)
{
    if (run->phase < RUN_RUNNING)
        return STATE_STARTING;
    if (run->phase < RUN_ENDED)
        return STATE_RUNNING;
    return run->is_end_stored ? STATE_LEFT_OVER : STATE_ENDED;
}

static void tell_kept_run(struct connection *connection, const struct run *run)
{
    const uint64_t now = run->all->loop.now;
    const struct stream *streams = run->streams;
    struct frame frame = {.type = FRAME_RUN};
    frame.run = (struct run_frame){
        .run = run->number, .plugin = run->plugin->number, .pid = (uint32_t)run->pid, .pid_started = run->pid_started,
        .state = (uint8_t)state_of(run), .age = run->started_at > 0 ? now - run->started_at : 0, .task = run->task,
        .task_age = run->task_given_at > 0 ? now - run->task_given_at : 0,
        .stored_out = streams[0].stored, .stored_err = streams[1].stored, .stored_events = streams[2].stored,
        .task_out = streams[0].task_at, .task_err = streams[1].task_at, .task_events = streams[2].task_at,
        .stdin_left = run->phase < RUN_ENDING ? input_left(run) : run->input.left,
        .note = {run->note, run->note_size}, .task_note = {run->task_note, run->task_note_size},
    };
    connection_tell(connection, &frame);
}

/* As if nothing had been told yet but what the store has. */
static void begin_again(struct run *run)
{
    for (int i = 0; i < STREAMS; i++) {
        run->streams[i].told = run->streams[i].stored;
        run->streams[i].window = run->is_live || run->all->node->takes_all ? NEVER : 0;
        run->streams[i].is_closed_told = false;
    }
    if (run->phase == RUN_RUNNING)
        run->wants_started = false; /* RUN says it */
    if (run->phase == RUN_RUNNING)
        run->closed_at = run->all->loop.now;
    run->is_end_told = false;
    run->is_gone_told = false;
    run->is_room_told = false;
}

void tell_runs(struct supervisor *all, struct connection *visitor)
{
    struct run **runs = runs_sorted(all);
    for (size_t i = 0; runs[i] != NULL; i++)
        tell_kept_run(visitor, runs[i]);
    free(runs);
    struct frame frame = {.type = FRAME_READY};
    connection_tell(visitor, &frame);
}

void tell_everything(struct supervisor *all)
{
    struct run **runs = runs_sorted(all);
    while (all->first_news != NULL)
        told_first(all);
    tell_plugins(all, runs);
    for (size_t i = 0; runs[i] != NULL; i++) {
        begin_again(runs[i]);
        look_at_start(runs[i]);
        tell_kept_run(all->node, runs[i]);
    }
    for (size_t i = 0; runs[i] != NULL; i++)
        if (runs[i]->phase == RUN_ENDED)
            tell_later(runs[i]);
    all->node->before_ready = all->news_count;
    all->node->is_ready_due = true;
    for (size_t i = 0; runs[i] != NULL; i++)
        if (runs[i]->phase < RUN_ENDED)
            tell_later(runs[i]);
    free(runs);
    tell_news(all);
}
