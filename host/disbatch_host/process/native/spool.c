#define _GNU_SOURCE
#include "spool.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    SMALLEST = 512,      /* bytes of memory */
    PUNCH_SIZE = 1 << 20 /* dropped bytes of a log that are given back to the disk at once */
};

void spool_init(struct spool *spool, uint64_t offset, uint64_t ring)
{
    *spool = (struct spool){.begin = offset, .end = offset, .origin = offset, .ring = ring, .fd = -1};
}

static void free_memory(struct spools *all, struct spool *spool)
{
    if (spool->memory == NULL)
        return;
    explicit_bzero(spool->memory, spool->capacity);
    free(spool->memory);
    all->memory -= spool->capacity;
    spool->memory = NULL;
    spool->capacity = 0;
}

void spool_restart(struct spools *all, struct spool *spool, uint64_t offset, uint64_t ring)
{
    free_memory(all, spool);
    if (spool->fd >= 0)
        (void)close(spool->fd);
    spool_init(spool, offset, ring);
}

static uint64_t position(const struct spool *spool, uint64_t offset)
{
    return spool->ring > 0 ? (offset - spool->origin) % spool->ring : offset - spool->origin;
}

/* How many bytes lie together from an offset on. */
static size_t together(const struct spool *spool, uint64_t offset, size_t size)
{
    if (spool->ring == 0)
        return size;
    uint64_t left = spool->ring - position(spool, offset);
    return size < left ? size : (size_t)left;
}

static bool write_all(int fd, const uint8_t *data, size_t size, uint64_t at)
{
    while (size > 0) {
        ssize_t written = pwrite(fd, data, size, (off_t)at);
        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0)
            return false;
        data += written;
        size -= (size_t)written;
        at += (uint64_t)written;
    }
    return true;
}

static int open_file(int directory)
{
    int fd = openat(directory, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR && errno != ENOENT))
        return fd;
    /* A file system without O_TMPFILE: the name is there for a moment only. */
    char name[32] = ".spool";
    for (int i = 0; i < 16; i++)
        name[6 + i] = (char)('a' + random() % 26);
    fd = openat(directory, name, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600);
    if (fd >= 0)
        (void)unlinkat(directory, name, 0);
    return fd;
}

static bool move_to_file(struct spools *all, struct spool *spool)
{
    int fd = open_file(all->directory);
    if (fd < 0)
        return false;
    /* Position by position, so that a ring that has come round stays one. */
    uint64_t used = spool->end - spool->origin;
    if (used > spool->capacity)
        used = spool->capacity;
    if (!write_all(fd, spool->memory, (size_t)used, 0)) {
        int error = errno;
        (void)close(fd);
        errno = error;
        return false;
    }
    free_memory(all, spool);
    spool->fd = fd;
    return true;
}

/* Move what a log still has to position 0. */
static void compact(struct spool *spool)
{
    size_t gone = (size_t)(spool->begin - spool->origin);
    size_t size = (size_t)spool_size(spool);
    if (gone == 0 || spool->ring > 0 || spool->memory == NULL)
        return;
    memmove(spool->memory, spool->memory + gone, size);
    explicit_bzero(spool->memory + size, gone < size ? gone : size);
    spool->origin = spool->begin;
}

static bool reserve_memory(struct spools *all, struct spool *spool, size_t size, size_t memory_max)
{
    compact(spool);
    uint64_t needed = spool->end - spool->origin + size;
    if (spool->ring > 0 && needed > spool->ring)
        needed = spool->ring;
    if (needed <= spool->capacity)
        return true;
    if (needed > memory_max)
        return false;
    size_t capacity = spool->capacity > 0 ? spool->capacity : SMALLEST;
    while (capacity < needed)
        capacity *= 2;
    if (all->memory + capacity - spool->capacity > all->memory_max)
        return false;
    uint8_t *memory = malloc(capacity);
    if (memory == NULL)
        return false;
    size_t used = spool->capacity;
    if (used > 0)
        memcpy(memory, spool->memory, used);
    free_memory(all, spool);
    all->memory += capacity;
    spool->memory = memory;
    spool->capacity = (uint32_t)capacity;
    return true;
}

static bool put_together(struct spool *spool, const uint8_t *data, size_t size)
{
    uint64_t at = position(spool, spool->end);
    if (spool->fd >= 0) {
        if (!write_all(spool->fd, data, size, at))
            return false;
    } else if (size > 0) {
        memcpy(spool->memory + at, data, size);
    }
    spool->end += size;
    if (spool->ring > 0 && spool->end - spool->begin > spool->ring)
        spool->begin = spool->end - spool->ring;
    return true;
}

bool spool_reserve(struct spools *all, struct spool *spool, size_t size, size_t memory_max)
{
    if (spool->fd < 0 && reserve_memory(all, spool, size, memory_max))
        return true;
    if (spool->fd < 0 && !move_to_file(all, spool))
        return false;
    return fallocate(spool->fd, FALLOC_FL_KEEP_SIZE, (off_t)(spool->end - spool->origin), (off_t)size) == 0 ||
           errno == EOPNOTSUPP || errno == ENOSYS;
}

bool spool_put(struct spools *all, struct spool *spool, const uint8_t *data, size_t size, size_t memory_max)
{
    if (spool->fd < 0 && !reserve_memory(all, spool, size, memory_max) && !move_to_file(all, spool))
        return false;
    if (spool->ring > 0 && size > spool->ring) {
        size_t skipped = size - (size_t)spool->ring;
        spool->end += skipped;
        spool->begin = spool->end; /* all that was there is overwritten now */
        data += skipped;
        size -= skipped;
    }
    size_t first = together(spool, spool->end, size);
    struct spool before = *spool;
    if (put_together(spool, data, first) && put_together(spool, data + first, size - first))
        return true;
    spool->end = before.end;
    return false;
}

size_t spool_get(const struct spool *spool, uint64_t offset, uint8_t *data, size_t size)
{
    if (size > spool->end - offset)
        size = (size_t)(spool->end - offset);
    size_t copied = 0;
    while (copied < size) {
        size_t part = together(spool, offset + copied, size - copied);
        uint64_t at = position(spool, offset + copied);
        if (spool->fd < 0) {
            memcpy(data + copied, spool->memory + at, part);
        } else {
            ssize_t got = pread(spool->fd, data + copied, part, (off_t)at);
            if (got < 0 && errno == EINTR)
                continue;
            if (got <= 0)
                break;
            part = (size_t)got;
        }
        copied += part;
    }
    return copied;
}

size_t spool_front(const struct spool *spool, const uint8_t **data)
{
    if (spool->fd >= 0 || spool->memory == NULL)
        return 0;
    *data = spool->memory + position(spool, spool->begin);
    return together(spool, spool->begin, (size_t)spool_size(spool));
}

static void punch(struct spool *spool, uint64_t before)
{
#ifdef FALLOC_FL_PUNCH_HOLE
    uint64_t from = (before - spool->origin) / PUNCH_SIZE;
    uint64_t to = (spool->begin - spool->origin) / PUNCH_SIZE;
    if (to > from) /* refused by some file systems: then the disk gets it back at the end */
        (void)fallocate(spool->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)(from * PUNCH_SIZE),
                        (off_t)((to - from) * PUNCH_SIZE));
#endif
}

void spool_drop(struct spools *all, struct spool *spool, uint64_t offset)
{
    if (offset <= spool->begin)
        return;
    if (offset >= spool->end) {
        spool_restart(all, spool, spool->end, spool->ring);
        return;
    }
    uint64_t before = spool->begin;
    spool->begin = offset;
    if (spool->fd >= 0 && spool->ring == 0)
        punch(spool, before);
    else if (spool->memory != NULL && spool->ring == 0)
        explicit_bzero(spool->memory + (before - spool->origin), (size_t)(offset - before));
}
