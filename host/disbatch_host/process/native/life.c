#define _GNU_SOURCE
#include "life.h"

#include "connection.h"
#include "find.h"
#include "groups.h"
#include "home.h"
#include "machine.h"
#include "orders.h"
#include "runs.h"
#include "start.h"
#include "stops.h"
#include "tell.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

static const uint64_t MEETS_WITHIN = 100 * MILLISECOND; /* a peer that has come says what it wants */
static const uint64_t LINGER = 10 * SECOND; /* without a connection, or with ENDs that nobody acknowledges */

enum {
    SPOOLS_MEMORY_MAX = 8 << 20,
    KEPT_FILES = 80, /* descriptors for connections, spools and starts on their way */
    FILES_OF_A_RUN = 5,
};

static void end_all(struct supervisor *all, enum stop_reason reason, bool at_once)
{
    if (all->ending == STOP_NOT)
        all->ending = (uint8_t)reason;
    struct run **runs = runs_sorted(all);
    for (struct run **run = runs; *run != NULL; run++) {
        if (at_once)
            run_kill(*run, reason);
        else
            run_stop(*run, reason);
    }
    free(runs);
}

static void on_kept_long_enough(void *owner)
{
    end_all(owner, STOP_LOST, false);
}

/* A peer that has come may be the next node: it need not start over. */
static bool is_called(const struct supervisor *all)
{
    return all->home != NULL && (all->new_peers > 0 || home_has_peer(all->home));
}

static void on_lingered(void *owner)
{
    struct supervisor *all = owner;
    if (all->ending == STOP_NOT && is_called(all)) {
        timer_set(&all->loop, &all->end_timer, all->loop.now + MEETS_WITHIN);
        return;
    }
    if (all->run_count > 0 && all->home != NULL)
        home_write_ends(all);
    all->is_over = true;
}

void life_node_came(struct supervisor *all)
{
    timer_set(&all->loop, &all->keep_timer, NEVER);
}

void life_node_left(struct supervisor *all)
{
    orders_void(all);
    groups_leave(all);
    if (all->home == NULL || all->keep == 0)
        end_all(all, STOP_LOST, true);
    else
        timer_set(&all->loop, &all->keep_timer, plus(all->loop.now, all->keep));
}

void life_node_ended(struct supervisor *all)
{
    if (all->home != NULL && all->node == NULL && all->run_count == 0 && !is_called(all))
        all->is_over = true;
}

/* Whether it is to end, now or soon. */
static void look_at_life(struct supervisor *all)
{
    bool is_alone = all->node == NULL;
    if (is_alone && all->active_count == 0 && (all->home == NULL || (all->ending != STOP_NOT && all->keep == 0))) {
        all->is_over = true;
    } else if (all->ending != STOP_NOT && all->run_count == 0) {
        all->is_over = true;
    } else if ((is_alone && all->run_count == 0) || (all->ending != STOP_NOT && all->active_count == 0)) {
        if (all->end_timer.due == NEVER)
            timer_set(&all->loop, &all->end_timer, all->loop.now + LINGER);
    } else {
        timer_set(&all->loop, &all->end_timer, NEVER);
    }
}

static void on_launched(void *owner, uint32_t events)
{
    (void)events;
    struct supervisor *all = owner;
    eventfd_t count;
    (void)eventfd_read(all->launched.fd, &count); /* not to be waked again for the same */
    runs_take_launched(all);
}

static void on_signal(void *owner, uint32_t events)
{
    (void)events;
    struct supervisor *all = owner;
    struct signalfd_siginfo info;
    while (read(all->signals.fd, &info, sizeof(info)) == sizeof(info)) {
        if (info.ssi_signo == SIGTERM)
            end_all(all, STOP_SHUTDOWN, false);
        else if (info.ssi_signo == SIGHUP && all->home != NULL)
            home_check(all);
    }
    runs_take_launched(all);
    reap_orphans(all);
    runs_look_at_rest(all);
}

static bool open_signals(struct supervisor *all)
{
    sigset_t heard;
    sigemptyset(&heard);
    sigaddset(&heard, SIGCHLD);
    sigaddset(&heard, SIGTERM);
    sigaddset(&heard, SIGHUP);
    all->signals = (struct source){.ready = on_signal, .owner = all};
    all->signals.fd = signalfd(-1, &heard, SFD_CLOEXEC | SFD_NONBLOCK);
    return all->signals.fd >= 0 && source_watch(&all->loop, &all->signals, EPOLLIN);
}

static uint32_t capacity_of(rlim_t files, bool have_groups)
{
    rlim_t each = FILES_OF_A_RUN + (have_groups ? FILES_OF_A_GROUP : 0);
    if (files <= KEPT_FILES + each)
        return 1;
    rlim_t fit = (files - KEPT_FILES) / each;
    return fit > UINT32_MAX ? UINT32_MAX : (uint32_t)fit;
}

bool life_open(struct supervisor *all)
{
    struct process self;
    all->next_run = 1;
    all->flush_at = NEVER;
    all->pid = getpid();
    all->pid_started = process_read(all->pid, &self) ? self.started : 0;
    all->spools.memory_max = SPOOLS_MEMORY_MAX;
    machine_program_protection(all->oom_score, sizeof(all->oom_score));
    if (!loop_open(&all->loop) || !machine_random(all->id, sizeof(all->id)))
        return false;
    all->mark_base = mark_base(all->id);
    machine_mark_name(all->mark_name, all->id);
    timer_init(&all->keep_timer, on_kept_long_enough, all);
    timer_init(&all->end_timer, on_lingered, all);
    all->mount_namespace = machine_mount_namespace();
    all->fingerprint = machine_fingerprint(&all->fingerprint_size);
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) < 0)
        return false;
    all->files = files;
    files.rlim_cur = files.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &files) < 0)
        files = all->files;
    all->capacity = capacity_of(files.rlim_cur, groups_open(all));
    all->launched = (struct source){.ready = on_launched, .owner = all, .fd = -1};
    return open_signals(all) && starters_open(all) && source_watch(&all->loop, &all->launched, EPOLLIN);
}

static bool is_to_be_sent(const struct supervisor *all)
{
    const struct connection *node = all->node;
    return node != NULL && !node->takes_all && !node->is_writing && all->flush_at <= all->loop.now;
}

static void flush(struct supervisor *all)
{
    tell_news(all);
    while (is_to_be_sent(all)) {
        all->flush_at = NEVER;
        all->ends_waiting = 0;
        connection_flush(all->node);
        tell_news(all); /* what there was no room for before */
    }
}

int life_run(struct supervisor *all)
{
    while (!all->is_over) {
        bool was_active = all->active_count > 0;
        if (!loop_turn(&all->loop, all->node != NULL && !all->node->is_writing ? all->flush_at : NEVER))
            return 1;
        runs_take_launched(all);
        if (was_active && all->active_count == 0)
            runs_look_at_rest(all); /* no signal tells that orphans without a mark are nobody's now */
        flush(all);
        look_at_life(all);
        runs_free_released(all);
        connections_free_closed(all);
    }
    groups_close(all);
    if (all->home != NULL)
        home_close(all);
    if (all->node != NULL && !all->node->takes_all)
        connection_bye(all->node, BYE_ENDS, "the supervisor ends");
    return 0;
}
