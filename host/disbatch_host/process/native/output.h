/* What one run writes: stdout, stderr and descriptor 3.
 *
 * Responsible for: reading it in blocks, keeping the first and the last part of it, the offsets of what was read, told
 * and stored. Must not know: lines, characters, when a node is told.
 */
#ifndef DISBATCH_OUTPUT_H
#define DISBATCH_OUTPUT_H

#include "frames.h"
#include "loop.h"
#include "spool.h"

#include <sys/types.h>

enum {
    STREAMS = 3,
    READ_SIZE = 1 << 16,            /* bytes a read */
    STREAM_MEMORY_MAX = 1 << 16,    /* bytes of a stream in memory */
    LIVE_MEMORY_MAX = 1 << 21,      /* and of a run that is followed live: what waits, and all that its pipe may hold */
    LIVE_WAITING_MAX = 1 << 18,     /* bytes of such a stream that the node has not taken; then it is not read */
    EVENTS_KEPT_MAX = 1 << 26,      /* bytes of events that are not stored; then descriptor 3 is not read */
    EVENT_BLOCKS_MAX = 1 << 16,     /* and blocks */
};

struct stream {
    struct source source;
    uint64_t read;        /* offset up to which it was read */
    uint64_t stored;      /* the store has it up to here */
    uint64_t told;        /* this connection was told up to here */
    uint64_t window;      /* the node takes it up to here */
    uint64_t task_at;     /* `read` when the task was given */
    uint64_t read_at;     /* when something was last read of it */
    uint64_t busy_until;  /* so much was read at once that it is not to be kept waiting */
    uint64_t half;        /* bytes kept at each end */
    uint32_t memory_max;
    uint32_t busy_size;   /* half of its pipe; 0: not known yet */
    struct spool head;
    struct spool tail;
    bool is_head_full;    /* what comes goes to the tail */
    bool is_large;        /* its pipe was enlarged */
    bool is_closed_told;
    bool is_resting;      /* not watched for a moment, since it comes in small pieces */
};

/* What was read of stdout and stderr when a block of events had been read. */
struct event_block {
    uint64_t end;         /* offset behind it */
    uint64_t out_at;
    uint64_t err_at;
    uint8_t stopped;      /* why it was being stopped by then, if it was */
};

struct event_blocks {
    struct event_block *items;
    uint32_t first;
    uint32_t count;
    uint32_t capacity;
};

/* `half`: bytes kept at each end; 0 is allowed, UINT64_MAX keeps everything. */
void stream_init(struct stream *stream, uint64_t half);

/* A new stream that is told as it comes, and of which everything that was not told is kept. */
void stream_follow(struct stream *stream);

/* Read a block into `block` (READ_SIZE bytes), at most `most`. Returns its size; 0 at the end of file, which closes the
 * stream; below 0 if there is nothing now. */
ssize_t stream_read(struct loop *loop, struct stream *stream, uint8_t *block, size_t most);

/* Keep what was read. False: it is lost, since no file can be written. */
bool stream_keep(struct spools *all, struct stream *stream, const uint8_t *data, size_t size);

/* Whether the next read can wait for a moment, in which the small pieces that come one after the other become one; `now`
 * is when `size` bytes of it were read. */
bool stream_may_rest(struct stream *stream, size_t size, uint64_t now);

/* How many bytes its pipe holds now. */
size_t stream_waiting(const struct stream *stream);

/* The first offset from `offset` on that is kept; `read` if there is none. */
uint64_t stream_next(const struct stream *stream, uint64_t offset);

/* Copy bytes that lie together from an offset that is kept. Returns how many, at least 1 unless a file is unreadable. */
size_t stream_copy(const struct stream *stream, uint64_t offset, uint8_t *data, size_t size);

/* Forget what came before the task and is stored. */
void stream_forget_before(struct spools *all, struct stream *stream, uint64_t offset);
void stream_free(struct spools *all, struct stream *stream);

/* A block of events ended here. */
void blocks_add(struct event_blocks *blocks, struct event_block block);

/* The block that holds the byte at `offset`, or the last one. NULL: there is none. */
const struct event_block *blocks_find(const struct event_blocks *blocks, uint64_t offset);
void blocks_drop(struct event_blocks *blocks, uint64_t stored);

#endif
