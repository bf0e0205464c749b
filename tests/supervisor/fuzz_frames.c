/* For libFuzzer: the reader of frames and lists, and that what it has read is written as the same bytes.
 *
 *     clang -g -O1 -fsanitize=fuzzer,address,undefined -Ihost/disbatch_host/process/native \
 *         tests/supervisor/fuzz_frames.c host/disbatch_host/process/native/{frames,buffer}.c -o fuzz-frames
 */
#include "frames.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Every byte of a blob is there. */
static uint8_t touch(struct blob blob)
{
    uint8_t sum = 0;
    for (uint32_t i = 0; i < blob.size; i++)
        sum = (uint8_t)(sum + blob.data[i]);
    struct list list;
    struct blob item;
    if (list_open(&list, blob))
        while (list_next(&list, &item))
            sum = (uint8_t)(sum + (item.size > 0 ? item.data[item.size - 1] : 0));
    return sum;
}

static void check(const struct frame *frame, const uint8_t *data)
{
    const struct form *form = frame_form(frame->type);
    size_t written = form->fixed + 1;
    for (size_t i = 0; i < form->count; i++)
        if (form->fields[i].size == 0) {
            struct blob blob;
            memcpy(&blob, (const uint8_t *)&frame->body + form->fields[i].offset, sizeof(blob));
            __asm__ volatile("" : : "r"(touch(blob))); /* not to be optimized away */
            written += blob.size;
        }
    struct buffer again = {0};
    if (!frame_write(&again, frame) || buffer_size(&again) != written + 4 ||
        memcmp(buffer_front(&again) + 4, data + 4, written) != 0)
        abort();
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
            check(&frame, data);
        data += used;
        size -= used;
    }
}
