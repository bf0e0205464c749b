#define _GNU_SOURCE
#include "stops.h"

#include "find.h"
#include "groups.h"
#include "input.h"
#include "reading.h"
#include "runs.h"
#include "start.h"
#include "tell.h"

#include <endian.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

static const uint64_t KILL_FOR = 5 * SECOND;              /* what is then alive is left over */
static const uint64_t HURRY_AFTER = 20 * MILLISECOND;     /* a start that is stopped is given so much time to be one */
static const uint64_t ROOM_EVERY = SECOND;                /* a look whether the last events can be kept by now */
static const uint32_t FIRST_PASS_WAIT = 1000;             /* microseconds */
static const uint32_t LONGEST_PASS_WAIT = 100 * 1000;

static bool had_signal(const struct run *run, const struct process *process)
{
    for (size_t i = 0; i < run->signalled_count; i++)
        if (run->signalled[i].pid == process->pid && run->signalled[i].started == process->started)
            return true;
    return false;
}

static void remember(struct run *run, const struct process *process)
{
    size_t size = (run->signalled_count + 1) * sizeof(*run->signalled);
    struct signalled *signalled = realloc(run->signalled, size);
    if (signalled == NULL)
        abort();
    run->signalled = signalled;
    run->signalled[run->signalled_count++] = (struct signalled){process->pid, process->started};
}

/* For the lists of END. */
static void name_process(struct buffer *list, const struct process *process)
{
    uint32_t head[2] = {htole32((uint32_t)process->pid), htole32(process_uid(process->pid))};
    size_t size = strlen(process->name);
    if (buffer_size(list) + sizeof(head) + size + 2 * sizeof(uint32_t) > LEFT_MAX)
        return; /* thousands are named already */
    if (buffer_size(list) == 0 && !list_begin(list))
        return;
    (void)list_append(list, head, sizeof(head), process->name, size);
}

/* Once to each process: to many programs a second signal means "at once". A stopped one would never hear of it. */
static void ask_to_end(struct run *run, const struct processes *processes, int number)
{
    for (size_t i = 0; i < processes->count; i++) {
        const struct process *process = &processes->items[i];
        if (had_signal(run, process))
            continue;
        remember(run, process);
        if (process_signal(process, number) == 0)
            (void)process_signal(process, SIGCONT);
    }
}

static void wait_for_next_pass(struct run *run)
{
    run->pass_wait = run->pass_wait == 0 ? FIRST_PASS_WAIT : 2 * run->pass_wait;
    if (run->pass_wait > LONGEST_PASS_WAIT)
        run->pass_wait = LONGEST_PASS_WAIT;
    run->pass_at = run->all->loop.now + run->pass_wait;
}

/* What has left the session of a run may go on after a normal end. */
static bool may_leave_running(const struct run *run)
{
    return (run->plugin->flags & PLUGIN_LEAVE_RUNNING) != 0 && run->stopped == STOP_NOT && run->phase == RUN_ENDING;
}

/* Sends SIGKILL to every process in its group, of any user. */
static bool kill_group(const struct run *run)
{
    return run->group != NULL && !may_leave_running(run) && group_is_populated(run->group) && group_kill(run->group);
}

/* SIGKILL to each. False: the kernel refused it for all of them. */
static bool kill_all(const struct processes *processes)
{
    bool is_of_use = processes->count == 0;
    for (size_t i = 0; i < processes->count; i++)
        if (process_signal(&processes->items[i], SIGKILL) != EPERM)
            is_of_use = true;
    return is_of_use;
}

static void begin_to_kill(struct run *run)
{
    run->is_killed = true;
    run->kill_until = run->all->loop.now + KILL_FOR;
    run->pass_wait = 0;
    run->pass_at = run->all->loop.now;
}

static void finish_with(struct run *run, const struct processes *left)
{
    for (size_t i = 0; i < left->count; i++)
        name_process(&run->left_over, &left->items[i]);
    run_read_rest(run);
    if (run_has_unread_events(run))
        tell_lost(run, ENOSPC);
    run_finish(run);
}

void run_kill_pass(struct run *run)
{
    struct processes found = {0};
    find_run(run, &found);
    bool is_of_use = kill_group(run);
    is_of_use = kill_all(&found) || is_of_use; /* what has left the group as well */
    if (found.count > 0 && (!is_of_use || run->all->loop.now >= run->kill_until)) {
        run->phase = RUN_ENDING; /* even its first process cannot be ended */
        run->all->rest_count++;
        run->ended_at = run->all->loop.now;
        finish_with(run, &found);
    } else {
        wait_for_next_pass(run);
    }
    processes_free(&found);
}

/* True: it has not been started yet, and now it never is. */
static bool stop_start(struct run *run, enum stop_reason reason)
{
    if (run->phase > RUN_STARTING)
        return false;
    if (run->stopped == STOP_NOT)
        run->stopped = (uint8_t)reason;
    if (run->phase == RUN_COMING || starters_withdraw(run->all->starters, run->launch))
        run_not_started(run, ECANCELED, STEP_STOPPED);
    return true;
}

/* Its end is what it is, but nobody waits any longer for room for what it has said last. */
static void hurry(struct run *run)
{
    run->is_hurried = true;
    if (run_has_unread_events(run))
        run_end_rest(run);
}

void run_stop(struct run *run, enum stop_reason reason)
{
    struct supervisor *all = run->all;
    if (stop_start(run, reason)) {
        if (run->phase == RUN_STARTING)
            timer_set(&all->loop, &run->timer, all->loop.now + HURRY_AFTER);
        return;
    }
    if (run->phase == RUN_ENDING)
        hurry(run);
    if (run->phase != RUN_RUNNING || run->stopped != STOP_NOT || run->is_killed)
        return;
    run->stopped = (uint8_t)reason;
    run->stop_sent_at = all->loop.now;
    run->kill_at = plus(all->loop.now, run->plugin->grace);
    struct processes found = {0};
    find_run(run, &found);
    ask_to_end(run, &found, run->plugin->stop_signal);
    processes_free(&found);
    run_schedule(run);
}

void run_kill(struct run *run, enum stop_reason reason)
{
    struct supervisor *all = run->all;
    if (stop_start(run, reason)) {
        if (run->phase == RUN_STARTING) {
            run->is_killed = true;
            starters_kill(all->starters, run->launch);
        }
        return;
    }
    if (run->phase == RUN_ENDING && !run->is_killed) {
        run->kill_at = all->loop.now; /* its end is what it is; what is left of it is not given time */
        run->is_ending_rest = true;
        run->is_hurried = true;
        run_end_rest(run);
    } else if (run->phase == RUN_RUNNING && !run->is_killed) {
        if (run->stopped == STOP_NOT)
            run->stopped = (uint8_t)reason;
        run->killed_after = run->stop_sent_at > 0 ? (int64_t)(all->loop.now - run->stop_sent_at) : 0;
        begin_to_kill(run);
        run_kill_pass(run);
        if (run_is_active(run))
            run_schedule(run);
    }
}

static bool has_members(const struct run *run)
{
    return run->group != NULL && group_is_populated(run->group);
}

/* What is left of it; at a normal end of a plugin that may leave things running, only what is still in its session. */
static void find_rest(struct run *run, struct processes *rest)
{
    if (run->all->has_orphans || has_members(run))
        find_run(run, rest);
    if (!may_leave_running(run))
        return;
    size_t count = 0;
    for (size_t i = 0; i < rest->count; i++) {
        if (rest->items[i].session == run->pid)
            rest->items[count++] = rest->items[i];
        else
            runs_may_go_on(run->all, run->number);
    }
    run->left_running = (uint32_t)(rest->count - count);
    rest->count = count;
}

static void end_processes(struct run *run, const struct processes *rest)
{
    struct supervisor *all = run->all;
    if (!run->is_ending_rest) {
        run->is_ending_rest = true;
        if (run->stopped == STOP_NOT) {
            run->kill_at = plus(all->loop.now, run->plugin->grace);
            run->end_flags |= run_is_open(run) ? END_HELD_OPEN : 0;
            for (size_t i = 0; i < rest->count; i++)
                name_process(&run->ended, &rest->items[i]);
        }
        ask_to_end(run, rest, run->stopped == STOP_NOT ? SIGTERM : run->plugin->stop_signal);
    }
    if (!run->is_killed && all->loop.now >= run->kill_at) {
        begin_to_kill(run);
        for (size_t i = 0; i < rest->count && run->stopped != STOP_NOT; i++)
            name_process(&run->ended, &rest->items[i]);
    }
    if (!run->is_killed || all->loop.now < run->pass_at)
        return;
    bool is_of_use = kill_group(run);
    is_of_use = kill_all(rest) || is_of_use;
    if (!is_of_use || all->loop.now >= run->kill_until)
        finish_with(run, rest);
    else
        wait_for_next_pass(run);
}

/* Its group is not empty, though nobody was found in it: who was has just ended, or this process cannot see it. */
static bool needs_look_at_group(struct run *run)
{
    uint64_t now = run->all->loop.now;
    run->look_at = NEVER;
    if (!has_members(run) || may_leave_running(run))
        return false;
    if (run->look_until == 0)
        run->look_until = now + KILL_FOR;
    if (now >= run->look_until)
        return false;
    wait_for_next_pass(run);
    run->look_at = run->pass_at;
    return true;
}

/* Nobody was found. Proof is only that this process has no orphans at all; else another look must say the same. */
static bool is_certain(struct run *run)
{
    if (needs_look_at_group(run))
        return false;
    if (!run->all->has_orphans || !run->is_killed || ++run->empty_passes >= 2)
        return true;
    wait_for_next_pass(run);
    return false;
}

/* What it has said on descriptor 3, perhaps that it is done, is read before its end is told, however long a disk is full;
 * unless somebody wants it to end. */
static bool waits_for_room(struct run *run)
{
    if (run->stopped != STOP_NOT || run->is_killed || run->is_hurried)
        return false;
    run_read_rest(run);
    if (!run_has_unread_events(run))
        return false;
    run->look_at = run->all->loop.now + ROOM_EVERY;
    return true;
}

void run_end_rest(struct run *run)
{
    struct supervisor *all = run->all;
    reap_orphans(all);
    bool is_open = run_is_open(run);
    bool is_asked = run->stopped != STOP_NOT || run->is_ending_rest || run->is_killed;
    bool is_waiting = all->loop.now < run->drain_at;
    struct processes rest = {0};
    if (!is_open || !is_waiting || is_asked)
        find_rest(run, &rest);
    if (rest.count > 0 && (is_asked || !is_waiting)) {
        run->empty_passes = 0;
        end_processes(run, &rest);
    } else if (rest.count == 0 && !(is_open && is_waiting) && is_certain(run) && !waits_for_room(run)) {
        if (all->has_orphans)
            reap_orphans_now(all); /* what has ended since then is a part of its CPU time as well */
        finish_with(run, &rest);
    }
    processes_free(&rest);
    if (run->phase != RUN_ENDING)
        return;
    run_watch(run);
    run_schedule(run);
}

static void look_at_left_over(struct run *run)
{
    struct processes found = {0};
    if (!run->is_reaped && waitpid(run->pid, NULL, WNOHANG | __WALL) == run->pid) {
        source_close(&run->all->loop, &run->exit);
        run->is_reaped = true;
    }
    find_run(run, &found);
    run->is_gone = found.count == 0;
    processes_free(&found);
    if (run->is_gone)
        run_has_news(run);
}

static void end_ownerless(struct supervisor *all)
{
    struct processes found = {0};
    find_ownerless(all, &found);
    for (size_t i = 0; i < found.count; i++)
        tell_log(all, LOG_WARNING, "process %d (%s) belongs to no run that there is: it is killed",
                 (int)found.items[i].pid, found.items[i].name);
    (void)kill_all(&found);
    processes_free(&found);
}

void runs_look_at_rest(struct supervisor *all)
{
    for (size_t i = 0; i < all->bucket_count && all->rest_count > 0; i++)
        for (struct run *run = all->buckets[i], *next; run != NULL; run = next) {
            next = run->next_in_bucket;
            if (run->phase == RUN_ENDING)
                run_end_rest(run);
            else if (run->phase == RUN_ENDED && buffer_size(&run->left_over) > 0 && !run->is_gone)
                look_at_left_over(run);
        }
    if (all->has_orphans && all->active_count == 0)
        end_ownerless(all);
}
