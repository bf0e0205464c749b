#define _GNU_SOURCE
#include "runs.h"

#include "find.h"
#include "groups.h"
#include "input.h"
#include "orders.h"
#include "plugins.h"
#include "reading.h"
#include "start.h"
#include "stops.h"
#include "tell.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/wait.h>
#include <unistd.h>

static const uint64_t WATCH_AFTER = 20 * MILLISECOND;  /* a shorter run costs no look at its pipes */
static const uint64_t STARTED_AFTER = 200 * MILLISECOND;
static const uint64_t HANGS_AFTER = 5 * SECOND;        /* a start that takes longer gets its thread replaced */
static const uint64_t LOOK_EVERY = 50 * MILLISECOND;   /* at a process whose pidfd cannot be watched */

struct run *runs_find(const struct supervisor *all, uint64_t number)
{
    struct run *run = all->bucket_count > 0 ? all->buckets[number % all->bucket_count] : NULL;
    while (run != NULL && run->number != number)
        run = run->next_in_bucket;
    return run;
}

struct run *runs_find_session(const struct supervisor *all, pid_t session, pid_t group)
{
    for (size_t i = 0; i < all->bucket_count; i++)
        for (struct run *run = all->buckets[i]; run != NULL; run = run->next_in_bucket)
            if (run->pid > 0 && (run->pid == session || run->pid == group))
                return run;
    return NULL;
}

bool runs_left_running(const struct supervisor *all, uint64_t number)
{
    for (size_t i = 0; i < all->left_running_count; i++)
        if (all->left_running[i] == number)
            return true;
    return false;
}

void runs_may_go_on(struct supervisor *all, uint64_t number)
{
    if (runs_left_running(all, number))
        return;
    uint64_t *numbers = realloc(all->left_running, (all->left_running_count + 1) * sizeof(number));
    if (numbers == NULL)
        abort();
    all->left_running = numbers;
    all->left_running[all->left_running_count++] = number;
}

static int by_number(const void *one, const void *other)
{
    uint64_t first = (*(struct run *const *)one)->number;
    uint64_t second = (*(struct run *const *)other)->number;
    return first < second ? -1 : first > second;
}

struct run **runs_sorted(const struct supervisor *all)
{
    struct run **runs = must_allocate((all->run_count + 1) * sizeof(struct run *));
    size_t count = 0;
    for (size_t i = 0; i < all->bucket_count; i++)
        for (struct run *run = all->buckets[i]; run != NULL; run = run->next_in_bucket)
            runs[count++] = run;
    qsort(runs, count, sizeof(struct run *), by_number);
    return runs;
}

static void grow_table(struct supervisor *all)
{
    if (all->run_count < all->bucket_count)
        return;
    size_t count = all->bucket_count > 0 ? 2 * all->bucket_count : BUCKETS_MIN;
    struct run **buckets = must_allocate(count * sizeof(struct run *));
    for (size_t i = 0; i < all->bucket_count; i++)
        for (struct run *run = all->buckets[i], *next; run != NULL; run = next) {
            next = run->next_in_bucket;
            run->next_in_bucket = buckets[run->number % count];
            buckets[run->number % count] = run;
        }
    free(all->buckets);
    all->buckets = buckets;
    all->bucket_count = count;
}

static void look_at_end(struct run *run)
{
    siginfo_t info = {0};
    if (run->phase == RUN_RUNNING && waitid(P_PID, (id_t)run->pid, &info, WEXITED | WNOHANG | WNOWAIT | __WALL) == 0 &&
        info.si_pid == run->pid)
        run_read_end(run);
}

static void on_exit_ready(void *owner, uint32_t events)
{
    (void)events;
    struct run *run = owner;
    /* Where it was just started, its starter still holds the lock that this waits for. */
    runs_take_launched(run->all);
    if (run->phase == RUN_RUNNING)
        run_read_end(run);
    else if (run->phase == RUN_ENDED) /* it was left over, and has ended after all */
        runs_look_at_rest(run->all);
}

static void on_input_ready(void *owner, uint32_t events)
{
    (void)events;
    run_input_is_writable(owner);
}

static void start_is_slow(struct run *run)
{
    struct launch *launch = run->launch;
    struct supervisor *all = run->all;
    if (starters_hurry(all->starters, launch) || all->loop.now - launch->queued_at < HANGS_AFTER || launch->is_named)
        return;
    launch->is_named = true;
    (void)starters_grow(all->starters);
    if (launch->is_begun)
        tell_log(all, LOG_WARNING, "run %llu: starting %s takes longer than 5 s, at step %d",
                 (unsigned long long)run->number, run->plugin->argv[0], atomic_load(&launch->step));
}

static bool end_is_due(const struct run *run)
{
    uint64_t kill_at = run->is_killed ? run->pass_at : run->kill_at;
    return !run_is_open(run) || run->all->loop.now >= earlier(run->look_at, earlier(run->drain_at, kill_at));
}

static void on_due(void *owner)
{
    struct run *run = owner;
    uint64_t now = run->all->loop.now;
    if (now >= run->read_on_at)
        run_rest_is_over(run);
    if (run->phase == RUN_STARTING) {
        start_is_slow(run);
    } else if (run->phase == RUN_RUNNING) {
        if (now >= run->watch_at && !run->is_watched)
            run_watch(run);
        if (now >= run->tell_started_at || now >= run->closed_at)
            run_has_news(run);
        if (now >= run->timeout_at)
            run_stop(run, STOP_TIMEOUT);
        if (run_is_held(run))
            run->active_at = now; /* it may be waiting for the node, not silent */
        if (run->idle_limit > 0 && now >= after(run->active_at, run->idle_limit))
            run_stop(run, STOP_IDLE_TIMEOUT);
        if (now >= run->kill_at && !run->is_killed)
            run_kill(run, run->stopped);
        else if (now >= run->pass_at)
            run_kill_pass(run);
        if (run->exit.fd >= 0 && !run->exit.is_watched)
            look_at_end(run);
    } else if (run->phase == RUN_ENDING && end_is_due(run)) {
        run_end_rest(run);
    }
    if (run_is_active(run))
        run_schedule(run);
}

struct run *run_new(struct supervisor *all, uint64_t number, struct plugin *plugin)
{
    struct run *run = must_allocate(sizeof(*run));
    run->all = all;
    run->number = number;
    run->plugin = plugin;
    plugin->holders++;
    run->phase = RUN_COMING;
    run->killed_after = -1;
    run->exit = (struct source){.ready = on_exit_ready, .owner = run, .fd = -1};
    run->input.source = (struct source){.ready = on_input_ready, .owner = run, .fd = -1};
    run->input.unread = -1;
    spool_init(&run->input.waiting, 0, 0);
    spool_init(&run->next.input, 0, 0);
    timer_init(&run->timer, on_due, run);
    stream_init(&run->streams[0], plugin->half);
    stream_init(&run->streams[1], plugin->half);
    stream_init(&run->streams[2], UINT64_MAX);
    run->kill_at = run->pass_at = run->drain_at = run->timeout_at = run->watch_at = NEVER;
    run->tell_started_at = run->closed_at = run->read_on_at = run->look_at = NEVER;
    grow_table(all);
    run->next_in_bucket = all->buckets[number % all->bucket_count];
    all->buckets[number % all->bucket_count] = run;
    all->run_count++;
    all->active_count++;
    return run;
}

static void leave_group(struct run *run)
{
    if (run->group != NULL)
        groups_give_back(run->all, run->group);
    run->group = NULL;
}

void run_release(struct run *run)
{
    struct supervisor *all = run->all;
    struct run **place = &all->buckets[run->number % all->bucket_count];
    while (*place != run)
        place = &(*place)->next_in_bucket;
    *place = run->next_in_bucket;
    all->run_count--;
    if (run_is_active(run))
        all->active_count--;
    if (buffer_size(&run->left_over) > 0)
        all->rest_count--;
    run->phase = RUN_ENDED;
    leave_group(run);
    tell_forget(run);
    timer_set(&all->loop, &run->timer, NEVER);
    for (int i = 0; i < STREAMS; i++) {
        source_close(&all->loop, &run->streams[i].source);
        stream_free(&all->spools, &run->streams[i]);
    }
    input_end(run);
    spool_restart(&all->spools, &run->next.input, 0, 0);
    source_close(&all->loop, &run->exit);
    run->next_free = all->released;
    all->released = run;
}

void runs_free_released(struct supervisor *all)
{
    while (all->released != NULL) {
        struct run *run = all->released;
        all->released = run->next_free;
        plugin_drop(run->plugin);
        launch_free(run->launch);
        free(run->blocks.items);
        free(run->signalled);
        buffer_free(&run->ended);
        buffer_free(&run->left_over);
        free(run->note);
        free(run->task_note);
        free(run->next.note);
        free(run);
    }
}

void run_launch(struct run *run)
{
    struct supervisor *all = run->all;
    run->phase = RUN_STARTING;
    run->launch->queued_at = all->loop.now;
    run->group = groups_take(all, run->plugin);
    if (run->group != NULL) {
        run->launch->group = run->group->directory;
        run->launch->limits_memory = run->group->limit > 0;
    }
    timer_set(&all->loop, &run->timer, all->loop.now + WATCH_AFTER);
    starters_give(all->starters, run->launch);
}

void run_not_started(struct run *run, int error, enum step step)
{
    tell_not_started(run, error, step);
    run_release(run);
}

static void adopt_descriptors(struct run *run, const struct launch *launch)
{
    run->exit.is_watched = launch->is_watched;
    run->input.source.fd = launch->ends[0];
    run->input.unread = launch->unread;
    for (int i = 0; i < STREAMS; i++)
        run->streams[i].source.fd = launch->ends[i + 1];
}

/* Keep the part of its input that its pipe could not take. */
static void keep_rest_of_input(struct run *run, const struct launch *launch)
{
    size_t left = launch->input_size - launch->written;
    if (left > 0 && !spool_put(&run->all->spools, &run->input.waiting, launch->input + launch->written, left,
                               STREAM_MEMORY_MAX)) {
        tell_log(run->all, LOG_ERROR, "run %llu: its input cannot be kept: %s", (unsigned long long)run->number,
                 strerror(errno));
        run_kill(run, STOP_NOT);
    }
    if (launch->ends[0] >= 0 || left > 0 || spool_size(&run->input.waiting) > 0 || run->next.is_there)
        run_input_is_writable(run);
}

static void run_started(struct run *run)
{
    struct launch *launch = run->launch;
    struct supervisor *all = run->all;
    run->launch = NULL;
    run->phase = RUN_RUNNING;
    run->pid = launch->pid;
    run->started_at = run->active_at = launch->started_at;
    if (launch->is_outside) {
        tell_log(all, LOG_WARNING, "run %llu could not be put into its control group", (unsigned long long)run->number);
        groups_discard(all, run->group);
        run->group = NULL;
    }
    adopt_descriptors(run, launch);
    run_set_limits(run, run->started_at, run->timeout, run->idle_limit);
    run->wants_started = true;
    run->tell_started_at = (launch->flags & INPUT_TELL) != 0 ? all->loop.now : run->started_at + STARTED_AFTER;
    if (run->watch_at == NEVER)
        run->watch_at = run->started_at + WATCH_AFTER;
    keep_rest_of_input(run, launch);
    if (run->watch_at <= all->loop.now || run->input.source.is_watched)
        run_watch(run);
    if (run->tell_started_at <= all->loop.now)
        run_has_news(run);
    launch_free(launch);
    if (run->stopped != STOP_NOT || run->is_killed) {
        uint8_t reason = run->stopped;
        bool is_killed = run->is_killed;
        run->stopped = STOP_NOT;
        run->is_killed = false;
        if (is_killed)
            run_kill(run, reason);
        else
            run_stop(run, reason);
    }
    run_schedule(run);
}

void runs_take_launched(struct supervisor *all)
{
    for (struct launch *launch = starters_take(all->starters), *next; launch != NULL; launch = next) {
        next = launch->next;
        struct run *run = launch->run;
        enum step step = (enum step)atomic_load(&launch->step);
        if (launch->error == 0)
            run_started(run);
        else if (launch->error == ECANCELED && run->is_killed)
            run_not_started(run, ECANCELED, STEP_STOPPED);
        else
            run_not_started(run, launch->error, step);
    }
}

void run_set_limits(struct run *run, uint64_t from, uint64_t timeout, uint64_t idle_timeout)
{
    run->timeout_at = after(from, timeout);
    run->idle_limit = idle_timeout;
    run->active_at = from;
}

void run_schedule(struct run *run)
{
    uint64_t due = NEVER;
    uint64_t now = run->all->loop.now;
    if (run->phase == RUN_RUNNING) {
        due = earlier(due, run->is_watched ? run->read_on_at : run->watch_at);
        due = earlier(due, run->tell_started_at > now ? run->tell_started_at : NEVER); /* else it is in the queue */
        due = earlier(due, run->closed_at > now ? run->closed_at : NEVER);
        if (run->stopped == STOP_NOT)
            due = earlier(due, earlier(run->timeout_at, after(run->active_at, run->idle_limit)));
        due = earlier(due, run->is_killed ? run->pass_at : run->kill_at);
        if (run->exit.fd >= 0 && !run->exit.is_watched)
            due = earlier(due, now + LOOK_EVERY);
    } else if (run->phase == RUN_ENDING) {
        due = earlier(run->is_killed ? run->pass_at : run->kill_at,
                      run->drain_at > now ? run->drain_at : NEVER);
        due = earlier(due, earlier(run->read_on_at, run->look_at));
    } else if (run->phase == RUN_STARTING) {
        uint64_t slow_at = run->launch->queued_at + WATCH_AFTER;
        due = slow_at > now ? slow_at : run->launch->queued_at + HANGS_AFTER;
        if (run->launch->is_named)
            due = NEVER;
    }
    timer_set(&run->all->loop, &run->timer, due);
}

void run_count_usage(struct run *run, const struct rusage *usage)
{
    run->cpu += (uint64_t)usage->ru_utime.tv_sec * SECOND + (uint64_t)usage->ru_utime.tv_usec +
                (uint64_t)usage->ru_stime.tv_sec * SECOND + (uint64_t)usage->ru_stime.tv_usec;
    uint64_t peak = (uint64_t)usage->ru_maxrss * 1024;
    if (peak > run->peak)
        run->peak = peak;
}

void run_finish(struct run *run)
{
    struct supervisor *all = run->all;
    struct rusage usage;
    for (int i = 0; i < STREAMS; i++) {
        if (run->streams[i].source.fd >= 0)
            run->end_flags |= END_HELD_OPEN;
        source_close(&all->loop, &run->streams[i].source);
    }
    /* Reaped last: as long as it is a zombie, its number and that of its session and group cannot be another's. */
    run->is_reaped = wait4(run->pid, &run->status, WNOHANG | __WALL, &usage) == run->pid;
    if (run->is_reaped)
        run_count_usage(run, &usage);
    else
        run->status = -1; /* not even its first process could be ended */
    if (!run->is_reaped || !WIFSIGNALED(run->status) || WTERMSIG(run->status) != SIGKILL)
        run->killed_after = -1;
    struct rusage own;
    if (getrusage(RUSAGE_SELF, &own) == 0 && run->peak <= (uint64_t)own.ru_maxrss * 1024)
        run->end_flags |= END_PEAK_IS_BOUND;
    if (run->input.is_refused)
        run->end_flags |= END_STDIN_REFUSED;
    if (run->group != NULL && run->group->limit > 0)
        run->end_flags |= END_MEMORY_BY_GROUP | (group_hit_limit(run->group) ? END_MEMORY_LIMIT : 0);
    run->phase = RUN_ENDED;
    all->active_count--;
    if (buffer_size(&run->left_over) == 0) {
        all->rest_count--;
        leave_group(run);
    }
    timer_set(&all->loop, &run->timer, NEVER);
    run_has_news(run);
}

void run_has_news(struct run *run)
{
    tell_later(run);
}
