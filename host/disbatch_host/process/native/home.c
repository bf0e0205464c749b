#define _GNU_SOURCE
#include "home.h"

#include "connection.h"
#include "find.h"
#include "machine.h"
#include "tell.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

static const uint64_t LOOK_EVERY = 10 * SECOND;
static const uint64_t LOCK_WITHIN = 1 * SECOND; /* an older one may be just ending */

enum {
    WAITING_MAX = 4,      /* peers that have not said HELLO */
    LOG_MAX = 64 << 10,
    BACKLOG = 16,
};

struct home {
    struct supervisor *all;
    struct source listener;
    struct timer timer;
    int directory;
    int lock;
    int log;
    struct stat socket;   /* as it was made */
    uint8_t key[KEY_SIZE];
};

/* False, with errno: it is not ours alone. */
static bool is_private(int directory)
{
    struct stat status;
    if (fstat(directory, &status) < 0)
        return false;
    if (status.st_uid == geteuid() && (status.st_mode & 0077) == 0)
        return true;
    errno = EPERM;
    return false;
}

static bool take_lock(int fd)
{
    uint64_t until = monotonic_now() + LOCK_WITHIN;
    while (flock(fd, LOCK_EX | LOCK_NB) < 0) {
        if (errno != EWOULDBLOCK || monotonic_now() > until)
            return false;
        (void)nanosleep(&(struct timespec){.tv_nsec = 10 * 1000 * 1000}, NULL);
    }
    return true;
}

struct home *home_open(const char *path, const char **why)
{
    struct home *home = must_allocate(sizeof(*home));
    home->listener.fd = -1;
    if (mkdir(path, 0700) < 0 && errno != EEXIST) {
        *why = strerror(errno);
        return NULL;
    }
    home->directory = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (home->directory < 0 || !is_private(home->directory)) {
        *why = errno == EPERM ? "expected a directory of this user with mode 0700" : strerror(errno);
        return NULL;
    }
    home->lock = openat(home->directory, "supervisor.lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    home->log = openat(home->directory, "supervisor.log", O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (home->lock < 0 || home->log < 0) {
        *why = strerror(errno);
        return NULL;
    }
    if (!take_lock(home->lock)) {
        *why = errno == EWOULDBLOCK ? "a supervisor lives there already" : strerror(errno);
        return NULL;
    }
    return home;
}

int home_directory(const struct home *home)
{
    return home->directory;
}

struct blob home_key(const struct home *home)
{
    return (struct blob){home->key, sizeof(home->key)};
}

/* Keep the second half of a log that is full. */
static void shorten_log(int log)
{
    static char half[LOG_MAX / 2];
    struct stat status;
    if (fstat(log, &status) < 0 || status.st_size < LOG_MAX)
        return;
    ssize_t size = pread(log, half, sizeof(half), status.st_size - (off_t)sizeof(half));
    if (size > 0 && ftruncate(log, 0) == 0)
        (void)!write(log, half, (size_t)size); /* a log that cannot be written is no reason to end */
}

void home_log(struct home *home, const char *words)
{
    char line[640];
    struct tm date;
    time_t now = time(NULL);
    if (gmtime_r(&now, &date) == NULL)
        return;
    size_t size = strftime(line, sizeof(line), "%Y-%m-%dT%H:%M:%SZ ", &date);
    int added = snprintf(line + size, sizeof(line) - size, "%s\n", words);
    if (added < 0)
        return;
    size = size + (size_t)added < sizeof(line) ? size + (size_t)added : sizeof(line) - 1;
    shorten_log(home->log);
    (void)!write(home->log, line, size);
}

/* Write a file under another name and rename it: nobody sees half of it. */
static bool write_file(int directory, const char *name, const void *bytes, size_t size)
{
    char new_name[64];
    (void)snprintf(new_name, sizeof(new_name), "%s.new", name);
    int fd = openat(directory, new_name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return false;
    bool is_written = write(fd, bytes, size) == (ssize_t)size;
    return close(fd) == 0 && is_written && renameat(directory, new_name, directory, name) == 0;
}

static void address_of(int directory, const char *name, struct sockaddr_un *address)
{
    *address = (struct sockaddr_un){.sun_family = AF_UNIX};
    (void)snprintf(address->sun_path, sizeof(address->sun_path), "/proc/self/fd/%d/%s", directory, name);
}

static void on_peer(void *owner, uint32_t events)
{
    (void)events;
    struct home *home = owner;
    struct supervisor *all = home->all;
    int fd = accept4(home->listener.fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0)
        return;
    struct ucred peer;
    socklen_t size = sizeof(peer);
    /* Another user's, or of another pid namespace: not a node of ours. */
    bool is_ours = getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 && peer.uid == geteuid() && peer.pid != 0;
    if (!is_ours || all->new_peers >= WAITING_MAX) {
        (void)close(fd);
        return;
    }
    struct connection *connection = connection_open(all, fd); /* closes it where it cannot be watched */
    if (connection == NULL)
        return;
    connection->pid = peer.pid;
    /* It may know the key, as it is the same user's: at least it cannot do harm by accident, or keep a node waiting. */
    if (is_of_a_run(all, peer.pid))
        connection_bye(connection, BYE_REFUSED, "a program of one of its runs is not its node");
}

static bool make_socket(struct home *home)
{
    struct supervisor *all = home->all;
    struct sockaddr_un address;
    source_close(&all->loop, &home->listener);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return false;
    home->listener = (struct source){.ready = on_peer, .owner = home, .fd = fd};
    address_of(home->directory, "socket.new", &address);
    if (unlinkat(home->directory, "socket.new", 0) < 0 && errno != ENOENT)
        return false;
    return bind(fd, (struct sockaddr *)&address, sizeof(address)) == 0 &&
           fchmodat(home->directory, "socket.new", 0600, 0) == 0 && listen(fd, BACKLOG) == 0 &&
           fstatat(home->directory, "socket.new", &home->socket, AT_SYMLINK_NOFOLLOW) == 0 &&
           renameat(home->directory, "socket.new", home->directory, "socket") == 0 &&
           source_watch(&all->loop, &home->listener, EPOLLIN);
}

void home_check(struct supervisor *all)
{
    struct home *home = all->home;
    struct stat now;
    timer_set(&all->loop, &home->timer, all->loop.now + LOOK_EVERY);
    if (home->listener.fd >= 0 && fstatat(home->directory, "socket", &now, AT_SYMLINK_NOFOLLOW) == 0 &&
        now.st_ino == home->socket.st_ino && now.st_dev == home->socket.st_dev)
        return;
    if (make_socket(home))
        tell_log(all, LOG_WARNING, "the socket was not there any more, and was made again");
    else
        tell_log(all, LOG_ERROR, "the socket cannot be made again: %s", strerror(errno));
}

static void on_look(void *owner)
{
    struct home *home = owner;
    home_check(home->all);
}

static bool describe(const struct home *home)
{
    const struct supervisor *all = home->all;
    char text[512];
    char boot[64] = "";
    char space[64] = "";
    char id[2 * SUPERVISOR_ID_SIZE + 1];
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    ssize_t size = fd < 0 ? 0 : read(fd, boot, sizeof(boot) - 1);
    if (fd >= 0)
        (void)close(fd);
    boot[size > 0 ? strcspn(boot, "\n") : 0] = '\0';
    size = readlink("/proc/self/ns/pid", space, sizeof(space) - 1);
    space[size > 0 ? size : 0] = '\0';
    for (size_t i = 0; i < SUPERVISOR_ID_SIZE; i++)
        (void)snprintf(id + 2 * i, 3, "%02x", all->id[i]);
    int length = snprintf(text, sizeof(text),
                          "{\"id\": \"%s\", \"pid\": %d, \"started\": %llu, \"boot_id\": \"%s\", \"pid_namespace\": "
                          "\"%s\"}\n",
                          id, (int)all->pid, (unsigned long long)all->pid_started, boot, space);
    return length > 0 && write_file(home->directory, "supervisor.json", text, (size_t)length);
}

bool home_listen(struct home *home, struct supervisor *all)
{
    home->all = all;
    timer_init(&home->timer, on_look, home);
    if (!machine_random(home->key, sizeof(home->key)) || !write_file(home->directory, "key", home->key, KEY_SIZE) ||
        !describe(home) || !make_socket(home))
        return false;
    timer_set(&all->loop, &home->timer, all->loop.now + LOOK_EVERY);
    return true;
}

bool home_has_peer(const struct home *home)
{
    struct pollfd listener = {.fd = home->listener.fd, .events = POLLIN};
    return poll(&listener, 1, 0) > 0;
}

void home_close(struct supervisor *all)
{
    /* Before the lock goes with the process: who connects from now on is refused, and starts over. */
    source_close(&all->loop, &all->home->listener);
}

void home_write_ends(struct supervisor *all)
{
    struct home *home = all->home;
    struct connection *file = connection_to_nobody(all);
    if (file == NULL)
        return;
    int fd = openat(home->directory, "ends", O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
    bool is_written = fd >= 0;
    while (is_written && buffer_size(&file->out) > 0) {
        ssize_t size = write(fd, buffer_front(&file->out), buffer_size(&file->out));
        is_written = size > 0;
        if (is_written)
            buffer_take(&file->out, (size_t)size);
        tell_news(all);
    }
    is_written = is_written && fsync(fd) == 0;
    if (fd >= 0)
        (void)close(fd);
    home_log(home, is_written ? "ends that nobody acknowledged were written to \"ends\""
                              : "ends that nobody acknowledged cannot be written, and are lost");
}

int home_connect(const char *path, uint8_t *key, size_t key_size, pid_t *pid)
{
    int directory = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_un address;
    struct ucred peer;
    socklen_t size = sizeof(peer);
    address_of(directory, "socket", &address);
    if (directory < 0 || fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0 ||
        getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0)
        return -1;
    int file = openat(directory, "key", O_RDONLY | O_CLOEXEC);
    if (file < 0 || read(file, key, key_size) != (ssize_t)key_size)
        return -1;
    (void)close(file);
    (void)close(directory);
    *pid = peer.pid;
    return fd;
}
