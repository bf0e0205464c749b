/* What the main thread waits for: descriptors and times.
 *
 * Responsible for: one epoll, one heap of timers, the time of a round. Must not know: what happens then.
 *
 * A record that holds a source or a timer must live until the end of the round in which it is closed: a call for it may
 * be among those of the same round that are still to come.
 */
#ifndef DISBATCH_LOOP_H
#define DISBATCH_LOOP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NEVER UINT64_MAX
#define MILLISECOND UINT64_C(1000)
#define SECOND UINT64_C(1000000)

struct source {
    void (*ready)(void *owner, uint32_t events);
    void *owner;
    int fd;          /* below 0: closed */
    bool is_watched;
};

struct timer {
    void (*expired)(void *owner);
    void *owner;
    uint64_t due;    /* NEVER: not set */
    size_t place;    /* in the heap */
};

struct loop {
    int epoll;
    uint64_t now;    /* CLOCK_MONOTONIC in microseconds, of this round */
    uint64_t round;
    struct timer **heap;
    size_t count;
    size_t capacity;
};

uint64_t monotonic_now(void);
uint64_t boottime_now(void);

/* False, with errno: the machine has no descriptor for it. */
bool loop_open(struct loop *loop);

/* Wait until something is ready or due, at the latest until `latest`, then call for everything that is. */
bool loop_turn(struct loop *loop, uint64_t latest);

/* Watch for EPOLLIN, EPOLLOUT or both. False, with errno: the machine cannot. */
bool source_watch(struct loop *loop, struct source *source, uint32_t events);

/* The same from another thread, which must not touch the source afterwards. */
bool source_watch_from_thread(const struct loop *loop, const struct source *source, uint32_t events);
void source_forget(struct loop *loop, struct source *source);
void source_close(struct loop *loop, struct source *source);

void timer_init(struct timer *timer, void (*expired)(void *owner), void *owner);
void timer_set(struct loop *loop, struct timer *timer, uint64_t due);

/* `time` after `from`; NEVER for 0 or where that is too far. */
static inline uint64_t after(uint64_t from, uint64_t time)
{
    return time == 0 || time > NEVER - from ? NEVER : from + time;
}

/* The sum, or NEVER. */
static inline uint64_t plus(uint64_t from, uint64_t time)
{
    return time > NEVER - from ? NEVER : from + time;
}

static inline uint64_t earlier(uint64_t one, uint64_t other)
{
    return one < other ? one : other;
}

#endif
