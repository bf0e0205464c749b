#define _GNU_SOURCE
#include "loop.h"

#include "buffer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { EVENTS_A_ROUND = 64 };

static uint64_t clock_now(clockid_t clock)
{
    struct timespec time;
    if (clock_gettime(clock, &time) < 0)
        abort(); /* both clocks are older than every system call that is needed here */
    return (uint64_t)time.tv_sec * SECOND + (uint64_t)time.tv_nsec / 1000;
}

uint64_t monotonic_now(void)
{
    return clock_now(CLOCK_MONOTONIC);
}

uint64_t boottime_now(void)
{
    return clock_now(CLOCK_BOOTTIME);
}

bool loop_open(struct loop *loop)
{
    *loop = (struct loop){.epoll = epoll_create1(EPOLL_CLOEXEC), .now = monotonic_now()};
    return loop->epoll >= 0;
}

bool source_watch_from_thread(const struct loop *loop, const struct source *source, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = (void *)source};
    return epoll_ctl(loop->epoll, EPOLL_CTL_ADD, source->fd, &event) == 0;
}

bool source_watch(struct loop *loop, struct source *source, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = source};
    int what = source->is_watched ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
    if (epoll_ctl(loop->epoll, what, source->fd, &event) < 0)
        return false;
    source->is_watched = true;
    return true;
}

void source_forget(struct loop *loop, struct source *source)
{
    /* Closing is not enough: a child of another starter thread holds a copy of the descriptor until its exec, and the
     * epoll goes on to report it until then. */
    if (source->is_watched)
        (void)epoll_ctl(loop->epoll, EPOLL_CTL_DEL, source->fd, NULL);
    source->is_watched = false;
}

void source_close(struct loop *loop, struct source *source)
{
    if (source->fd < 0)
        return;
    source_forget(loop, source);
    (void)close(source->fd);
    source->fd = -1;
}

void timer_init(struct timer *timer, void (*expired)(void *owner), void *owner)
{
    *timer = (struct timer){.expired = expired, .owner = owner, .due = NEVER};
}

static void put(struct loop *loop, struct timer *timer, size_t place)
{
    loop->heap[place] = timer;
    timer->place = place;
}

static void move_up(struct loop *loop, struct timer *timer, size_t place)
{
    while (place > 0 && loop->heap[(place - 1) / 2]->due > timer->due) {
        put(loop, loop->heap[(place - 1) / 2], place);
        place = (place - 1) / 2;
    }
    put(loop, timer, place);
}

static void move_down(struct loop *loop, struct timer *timer, size_t place)
{
    for (;;) {
        size_t child = 2 * place + 1;
        if (child + 1 < loop->count && loop->heap[child + 1]->due < loop->heap[child]->due)
            child++;
        if (child >= loop->count || loop->heap[child]->due >= timer->due)
            break;
        put(loop, loop->heap[child], place);
        place = child;
    }
    put(loop, timer, place);
}

static void heap_grow(struct loop *loop)
{
    if (loop->count < loop->capacity)
        return;
    size_t capacity = loop->capacity > 0 ? 2 * loop->capacity : 64;
    struct timer **heap = realloc(loop->heap, capacity * sizeof(struct timer *));
    if (heap == NULL)
        abort();
    loop->heap = heap;
    loop->capacity = capacity;
}

static void heap_remove(struct loop *loop, struct timer *timer)
{
    struct timer *last = loop->heap[--loop->count];
    if (last == timer)
        return;
    size_t place = timer->place;
    if (place > 0 && loop->heap[(place - 1) / 2]->due > last->due)
        move_up(loop, last, place);
    else
        move_down(loop, last, place);
}

void timer_set(struct loop *loop, struct timer *timer, uint64_t due)
{
    if (due == timer->due)
        return;
    if (timer->due != NEVER)
        heap_remove(loop, timer);
    timer->due = due;
    if (due == NEVER)
        return;
    heap_grow(loop);
    move_up(loop, timer, loop->count++);
}

static int wait_until(struct loop *loop, struct epoll_event *events, uint64_t due)
{
    uint64_t now = monotonic_now();
    uint64_t left = due <= now ? 0 : due - now;
#ifdef SYS_epoll_pwait2 /* Linux 5.11 */
    struct timespec time = {.tv_sec = (time_t)(left / SECOND), .tv_nsec = (long)(left % SECOND) * 1000};
    long found = syscall(SYS_epoll_pwait2, loop->epoll, events, EVENTS_A_ROUND, due == NEVER ? NULL : &time, NULL, 0);
    if (found >= 0 || errno != ENOSYS)
        return (int)found;
#endif
    uint64_t milliseconds = (left + MILLISECOND - 1) / MILLISECOND;
    return epoll_wait(loop->epoll, events, EVENTS_A_ROUND,
                      due == NEVER ? -1 : (int)earlier(milliseconds, 1000 * 1000));
}

bool loop_turn(struct loop *loop, uint64_t latest)
{
    struct epoll_event events[EVENTS_A_ROUND];
    uint64_t due = loop->count > 0 ? earlier(latest, loop->heap[0]->due) : latest;
    int found = wait_until(loop, events, due);
    if (found < 0 && errno != EINTR)
        return false;
    loop->now = monotonic_now();
    loop->round++;
    for (int i = 0; i < found; i++) {
        struct source *source = events[i].data.ptr;
        if (source->fd >= 0)
            source->ready(source->owner, events[i].events);
    }
    /* One that sets itself again for now is not to keep the others waiting. */
    for (size_t left = loop->count; left > 0 && loop->count > 0 && loop->heap[0]->due <= loop->now; left--) {
        struct timer *timer = loop->heap[0];
        timer_set(loop, timer, NEVER);
        timer->expired(timer->owner);
    }
    return true;
}
