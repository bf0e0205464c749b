#define _GNU_SOURCE
#include "output.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

static const uint64_t SOON = 10 * MILLISECOND; /* pieces that are less apart come one after the other */
static const uint64_t BUSY_FOR = SECOND;

enum {
    BUSY_PIPE_SIZE = 1 << 20,        /* a stream that keeps its pipe full gets a larger one (the limit for users) */
    LAST_RESORT = STREAM_MEMORY_MAX / 2, /* bytes of the end that are kept where no file can be written */
};

void stream_init(struct stream *stream, uint64_t half)
{
    *stream = (struct stream){.source.fd = -1, .half = half, .memory_max = STREAM_MEMORY_MAX};
    spool_init(&stream->head, 0, 0);
    spool_init(&stream->tail, 0, half);
}

ssize_t stream_read(struct loop *loop, struct stream *stream, uint8_t *block, size_t most)
{
    if (stream->source.fd < 0)
        return -1;
    ssize_t size;
    do
        size = read(stream->source.fd, block, most);
    while (size < 0 && errno == EINTR);
    if (size < 0 && errno == EAGAIN)
        return -1;
    if (size <= 0) { /* an error would come again and again: as good as the end */
        source_close(loop, &stream->source);
        return 0;
    }
    if (size == READ_SIZE && !stream->is_large) {
        stream->is_large = true;
        /* Refused where the user's share of pipe memory is used up; the usual size works as well, only slower. */
        (void)fcntl(stream->source.fd, F_SETPIPE_SZ, BUSY_PIPE_SIZE);
    }
    return size;
}

bool stream_may_rest(struct stream *stream, size_t size, uint64_t now)
{
    bool is_soon = stream->read_at > 0 && now - stream->read_at < SOON;
    stream->read_at = now;
    if (!is_soon || now < stream->busy_until || stream->source.fd < 0)
        return false;
    if (stream->busy_size == 0) {
        int pipe_size = fcntl(stream->source.fd, F_GETPIPE_SZ);
        stream->busy_size = pipe_size > 0 ? (uint32_t)pipe_size / 2 : 1;
    }
    if (size < stream->busy_size)
        return true;
    stream->busy_until = now + BUSY_FOR; /* a program that is faster would have to wait for room in its pipe */
    return false;
}

size_t stream_waiting(const struct stream *stream)
{
    int waiting = 0;
    if (stream->source.fd < 0 || ioctl(stream->source.fd, FIONREAD, &waiting) < 0 || waiting < 0)
        return 0;
    return (size_t)waiting;
}

static size_t memory_left(const struct stream *stream, const struct spool *other)
{
    return other->capacity < stream->memory_max ? stream->memory_max - other->capacity : 0;
}

static bool keep_tail(struct spools *all, struct stream *stream, const uint8_t *data, size_t size)
{
    uint64_t at = stream->read;
    struct spool *tail = &stream->tail;
    if (stream->half == 0)
        return true;
    if (spool_size(tail) == 0)
        spool_restart(all, tail, at, tail->ring);
    if (spool_put(all, tail, data, size, memory_left(stream, &stream->head)))
        return true;
    /* No file can be written: the middle is lost, and as much of the end as memory may have is kept. */
    uint64_t ring = tail->ring < LAST_RESORT ? tail->ring : LAST_RESORT;
    spool_restart(all, tail, at, ring);
    if (!spool_put(all, tail, data, size, (size_t)ring))
        spool_restart(all, tail, at + size, ring);
    return false;
}

bool stream_keep(struct spools *all, struct stream *stream, const uint8_t *data, size_t size)
{
    size_t first = 0;
    bool is_kept = true;
    if (!stream->is_head_full) {
        uint64_t room = stream->half - spool_size(&stream->head);
        first = size < room ? size : (size_t)room;
        if (!spool_put(all, &stream->head, data, first, memory_left(stream, &stream->tail))) {
            first = 0;
            is_kept = false;
            stream->is_head_full = true;
        } else if (first < size || first == room) {
            stream->is_head_full = true;
        }
        stream->read += first;
    }
    if (first < size) {
        is_kept = keep_tail(all, stream, data + first, size - first) && is_kept;
        stream->read += size - first;
    }
    return is_kept;
}

void stream_follow(struct stream *stream)
{
    stream->half = UINT64_MAX;
    stream->memory_max = LIVE_MEMORY_MAX;
    stream->window = NEVER;
}

uint64_t stream_next(const struct stream *stream, uint64_t offset)
{
    const struct spool *head = &stream->head;
    const struct spool *tail = &stream->tail;
    if (offset < head->begin)
        offset = head->begin;
    if (offset < head->end)
        return offset;
    if (spool_size(tail) == 0)
        return stream->read;
    return offset < tail->begin ? tail->begin : offset;
}

size_t stream_copy(const struct stream *stream, uint64_t offset, uint8_t *data, size_t size)
{
    const struct spool *from = offset < stream->head.end ? &stream->head : &stream->tail;
    return spool_get(from, offset, data, size);
}

static void restart(struct spools *all, struct stream *stream, uint64_t offset)
{
    spool_restart(all, &stream->head, offset, 0);
    spool_restart(all, &stream->tail, offset, stream->half);
    stream->is_head_full = false;
}

void stream_forget_before(struct spools *all, struct stream *stream, uint64_t offset)
{
    if (offset <= stream->head.begin)
        return;
    uint64_t left = stream->read - offset;
    if (left == 0) {
        restart(all, stream, stream->read);
    } else if (!stream->is_head_full) {
        spool_drop(all, &stream->head, offset);
    } else if (left <= READ_SIZE && stream_next(stream, offset) == offset) {
        /* The task has only begun: what it has said becomes the head of its own output. */
        uint8_t *said = must_allocate(left);
        size_t size = stream_copy(stream, offset, said, (size_t)left);
        size += stream_copy(stream, offset + size, said + size, (size_t)left - size);
        restart(all, stream, offset);
        stream->read = offset;
        (void)stream_keep(all, stream, said, size);
        stream->read = offset + left;
        free(said);
    }
}

void stream_free(struct spools *all, struct stream *stream)
{
    spool_restart(all, &stream->head, stream->read, 0);
    spool_restart(all, &stream->tail, stream->read, 0);
}

void blocks_add(struct event_blocks *blocks, struct event_block block)
{
    if (blocks->count > 0) {
        struct event_block *last = &blocks->items[blocks->first + blocks->count - 1];
        if (last->out_at == block.out_at && last->err_at == block.err_at) {
            last->end = block.end;
            return;
        }
    }
    if (blocks->first + blocks->count == blocks->capacity) {
        if (blocks->first > 0) {
            memmove(blocks->items, blocks->items + blocks->first, blocks->count * sizeof(block));
            blocks->first = 0;
        } else {
            uint32_t capacity = blocks->capacity > 0 ? 2 * blocks->capacity : 4;
            struct event_block *items = realloc(blocks->items, capacity * sizeof(block));
            if (items == NULL)
                abort();
            blocks->items = items;
            blocks->capacity = capacity;
        }
    }
    blocks->items[blocks->first + blocks->count++] = block;
}

const struct event_block *blocks_find(const struct event_blocks *blocks, uint64_t offset)
{
    for (uint32_t i = 0; i < blocks->count; i++)
        if (offset < blocks->items[blocks->first + i].end)
            return &blocks->items[blocks->first + i];
    return NULL;
}

void blocks_drop(struct event_blocks *blocks, uint64_t stored)
{
    while (blocks->count > 0 && blocks->items[blocks->first].end <= stored) {
        blocks->first++;
        blocks->count--;
    }
    if (blocks->count == 0)
        blocks->first = 0;
}
