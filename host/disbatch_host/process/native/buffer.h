/* A queue of bytes that grows.
 *
 * Responsible for: memory that never leaks, and that is wiped where it may hold a program's input. Must not know: what
 * the bytes are.
 */
#ifndef DISBATCH_BUFFER_H
#define DISBATCH_BUFFER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buffer {
    uint8_t *data;
    size_t begin;    /* of what is in it */
    size_t end;
    size_t capacity;
};

/* Memory, or the end of this program: for records of a few kilobytes, without which nothing can go on. */
void *must_allocate(size_t size);

static inline size_t buffer_size(const struct buffer *buffer)
{
    return buffer->end - buffer->begin;
}

static inline uint8_t *buffer_front(const struct buffer *buffer)
{
    return buffer->data + buffer->begin;
}

/* Room for this many bytes behind `end`. False: there is no memory. */
bool buffer_reserve(struct buffer *buffer, size_t room);

/* Append bytes. False: there is no memory, and nothing was appended. */
bool buffer_append(struct buffer *buffer, const void *bytes, size_t size);

/* Take bytes from the front. */
void buffer_take(struct buffer *buffer, size_t size);

/* The same, and overwrite them: they may have been a program's input. */
void buffer_wipe(struct buffer *buffer, size_t size);

void buffer_free(struct buffer *buffer);

#endif
