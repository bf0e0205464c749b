#define _GNU_SOURCE
#include "buffer.h"

#include <stdlib.h>
#include <string.h>

enum {
    SMALLEST = 4096,
    KEPT_MAX = 1 << 18, /* an empty buffer above this gives its memory back */
};

void *must_allocate(size_t size)
{
    void *memory = calloc(1, size);
    if (memory == NULL)
        abort();
    return memory;
}

bool buffer_reserve(struct buffer *buffer, size_t room)
{
    if (buffer->capacity - buffer->end >= room)
        return true;
    size_t size = buffer_size(buffer);
    size_t capacity = buffer->capacity > SMALLEST ? buffer->capacity : SMALLEST;
    while (capacity - size < room)
        capacity *= 2;
    /* Not realloc: it would leave a copy behind, and it would copy what has been taken already. */
    uint8_t *data = malloc(capacity);
    if (data == NULL)
        return false;
    if (size > 0)
        memcpy(data, buffer_front(buffer), size);
    if (buffer->data != NULL)
        explicit_bzero(buffer->data, buffer->end);
    free(buffer->data);
    *buffer = (struct buffer){.data = data, .begin = 0, .end = size, .capacity = capacity};
    return true;
}

bool buffer_append(struct buffer *buffer, const void *bytes, size_t size)
{
    if (!buffer_reserve(buffer, size))
        return false;
    if (size > 0)
        memcpy(buffer->data + buffer->end, bytes, size);
    buffer->end += size;
    return true;
}

void buffer_take(struct buffer *buffer, size_t size)
{
    buffer->begin += size;
    if (buffer->begin < buffer->end)
        return;
    buffer->begin = buffer->end = 0;
    if (buffer->capacity > KEPT_MAX)
        buffer_free(buffer);
}

void buffer_wipe(struct buffer *buffer, size_t size)
{
    if (size > 0)
        explicit_bzero(buffer_front(buffer), size);
    buffer_take(buffer, size);
}

void buffer_free(struct buffer *buffer)
{
    if (buffer->data != NULL)
        explicit_bzero(buffer->data, buffer->capacity);
    free(buffer->data);
    *buffer = (struct buffer){0};
}
