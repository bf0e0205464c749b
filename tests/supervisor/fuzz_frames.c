/* For libFuzzer (test_fuzzing.py builds it): the reader of frames and lists, and that what it has read is written as the
 * same bytes.
 */
#include "frames.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool holds)
{
    if (!holds)
        abort();
}

/* A list is read as items, and written from them as it was. */
static void check_list(struct blob blob)
{
    struct list list;
    struct blob item;
    struct buffer again = {0};
    if (!list_open(&list, blob))
        return;
    require(list_begin(&again));
    while (list_next(&list, &item))
        require(list_append(&again, item.data, item.size / 2, item.data + item.size / 2, item.size - item.size / 2));
    require(buffer_size(&again) == blob.size - list.rest.size);
    require(memcmp(buffer_front(&again), blob.data, buffer_size(&again)) == 0);
    buffer_free(&again);
}

/* Every byte of a blob is there. */
static void check_blob(struct blob blob)
{
    uint8_t sum = 0;
    for (uint32_t i = 0; i < blob.size; i++)
        sum = (uint8_t)(sum + blob.data[i]);
    __asm__ volatile("" : : "r"(sum)); /* not to be optimized away */
    if (blob.size >= sizeof(uint64_t))
        require((uint32_t)number_u64(blob.data) == number_u32(blob.data));
    check_list(blob);
}

static struct blob *blob_at(struct frame *frame, const struct field *field)
{
    return (struct blob *)(void *)((uint8_t *)&frame->body + field->offset);
}

/* With a blob of more than it may have, a frame is not written, and nothing of it is. */
static void check_limit(struct frame frame, const struct field *field, struct buffer *out)
{
    size_t before = buffer_size(out);
    blob_at(&frame, field)->size = field->limit + 1;
    require(!frame_write(out, &frame) && buffer_size(out) == before);
}

static void check_frame(struct frame *frame, const uint8_t *data)
{
    const struct form *form = frame_form(frame->type);
    struct buffer again = {0};
    size_t written = form->fixed + 1;
    for (size_t i = 0; i < form->count; i++)
        if (form->fields[i].size == 0) {
            check_blob(*blob_at(frame, &form->fields[i]));
            written += blob_at(frame, &form->fields[i])->size;
            check_limit(*frame, &form->fields[i], &again);
        }
    require(frame_write(&again, frame) && buffer_size(&again) == written + 4);
    require(memcmp(buffer_front(&again) + 4, data + 4, written) == 0);
    buffer_free(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    for (;;) {
        struct frame frame;
        size_t used;
        const char *why;
        enum reading reading = frame_read(data, size, &frame, &used, &why);
        if (reading == READ_PART || reading == READ_BROKEN)
            return 0;
        if (reading == READ_WHOLE)
            check_frame(&frame, data);
        data += used;
        size -= used;
    }
}
