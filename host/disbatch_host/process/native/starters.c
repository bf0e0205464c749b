#define _GNU_SOURCE
#include "start.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
    THREADS = 4,                 /* a start waits 250 us for exec; four are 16,000 a second */
    THREADS_MAX = 64,
    OF_ONE_PLUGIN = THREADS_MAX / 2,
    STACK_SIZE = 128 << 10,
    CHILD_STACK_SIZE = 32 << 10,
};

struct starters {
    pthread_mutex_t lock;
    pthread_cond_t work;
    struct launch *first;
    struct launch *last;
    struct launch *done;
    struct launch **last_done;
    atomic_bool has_done; /* a look without the lock, since the main thread looks very often */
    unsigned threads;
    int event;
};

static void lock(struct starters *starters)
{
    if (pthread_mutex_lock(&starters->lock) != 0)
        abort();
}

static void unlock(struct starters *starters)
{
    if (pthread_mutex_unlock(&starters->lock) != 0)
        abort();
}

/* The first start whose plugin does not hold half of all threads already: one plugin on a dead file server must not
 * stop the others. */
static struct launch *pop(struct starters *starters)
{
    struct launch *before = NULL;
    for (struct launch *launch = starters->first; launch != NULL; before = launch, launch = launch->next) {
        if (launch->plugin->starting >= OF_ONE_PLUGIN)
            continue;
        if (before == NULL)
            starters->first = launch->next;
        else
            before->next = launch->next;
        if (starters->last == launch)
            starters->last = before;
        launch->next = NULL;
        return launch;
    }
    return NULL;
}

/* The end of its process is watched from here on, which is not before the main thread can take the launch: most runs end
 * without another word to that thread. */
static void hand_back(struct starters *starters, struct launch *launch)
{
    struct run *run = launch->run;
    int pidfd = atomic_load(&launch->pidfd);
    launch->is_done = true;
    *starters->last_done = launch;
    starters->last_done = &launch->next;
    atomic_store(&starters->has_done, true);
    if (launch->error == 0) {
        run->exit.fd = pidfd;
        launch->is_watched = source_watch_from_thread(&launch->all->loop, &run->exit, EPOLLIN);
    } else if (pidfd >= 0) {
        (void)close(pidfd); /* under the lock: `starters_kill` may be about to use it */
        atomic_store(&launch->pidfd, -1);
    }
    if (launch->wakes || launch->error != 0 || !launch->is_watched)
        (void)eventfd_write(starters->event, 1); /* full is as good as written */
}

static void *starter(void *argument)
{
    struct starters *starters = argument;
    _Alignas(16) char stack[CHILD_STACK_SIZE];
    lock(starters);
    for (;;) {
        struct launch *launch = pop(starters);
        if (launch == NULL) {
            if (pthread_cond_wait(&starters->work, &starters->lock) != 0)
                abort();
            continue;
        }
        struct plugin *plugin = (struct plugin *)launch->plugin;
        launch->is_begun = true;
        plugin->starting++;
        unlock(starters);
        start_program(launch, stack, sizeof(stack));
        lock(starters);
        plugin->starting--;
        hand_back(starters, launch);
    }
    return NULL;
}

static bool add_thread(struct starters *starters)
{
    pthread_attr_t attributes;
    pthread_t thread;
    if (pthread_attr_init(&attributes) != 0)
        return false;
    bool made = pthread_attr_setstacksize(&attributes, STACK_SIZE) == 0 &&
                pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED) == 0 &&
                pthread_create(&thread, &attributes, starter, starters) == 0;
    (void)pthread_attr_destroy(&attributes);
    return made;
}

bool starters_open(struct supervisor *all)
{
    struct starters *starters = must_allocate(sizeof(*starters));
    starters->last_done = &starters->done;
    starters->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (starters->event < 0 || pthread_mutex_init(&starters->lock, NULL) != 0 ||
        pthread_cond_init(&starters->work, NULL) != 0)
        return false;
    all->starters = starters;
    all->launched.fd = starters->event;
    while (starters->threads < THREADS && add_thread(starters))
        starters->threads++;
    return starters->threads > 0;
}

bool starters_grow(struct starters *starters)
{
    if (starters->threads >= THREADS_MAX || !add_thread(starters))
        return false;
    starters->threads++;
    return true;
}

void starters_give(struct starters *starters, struct launch *launch)
{
    lock(starters);
    launch->next = NULL;
    if (starters->first == NULL)
        starters->first = launch;
    else
        starters->last->next = launch;
    starters->last = launch;
    if (pthread_cond_signal(&starters->work) != 0)
        abort();
    unlock(starters);
}

bool starters_withdraw(struct starters *starters, struct launch *launch)
{
    lock(starters);
    bool is_begun = launch->is_begun;
    struct launch *before = NULL;
    for (struct launch *one = starters->first; !is_begun && one != NULL; before = one, one = one->next) {
        if (one != launch)
            continue;
        if (before == NULL)
            starters->first = launch->next;
        else
            before->next = launch->next;
        if (starters->last == launch)
            starters->last = before;
        break;
    }
    unlock(starters);
    return !is_begun;
}

void starters_kill(struct starters *starters, struct launch *launch)
{
    lock(starters);
    int pidfd = atomic_load(&launch->pidfd);
    if (launch->is_begun && !launch->is_done && pidfd >= 0)
        (void)syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0); /* refused or gone: its end says it */
    unlock(starters);
}

bool starters_hurry(struct starters *starters, struct launch *launch)
{
    lock(starters);
    launch->wakes = true;
    bool is_done = launch->is_done;
    unlock(starters);
    return is_done;
}

struct launch *starters_take(struct starters *starters)
{
    if (!atomic_load(&starters->has_done))
        return NULL;
    lock(starters);
    struct launch *done = starters->done;
    atomic_store(&starters->has_done, false);
    starters->done = NULL;
    starters->last_done = &starters->done;
    unlock(starters);
    return done;
}
