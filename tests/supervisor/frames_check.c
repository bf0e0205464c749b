/* Reads lines "frames HEX" and "list HEX", and says what frames.c makes of the bytes: for each frame a line of its type, its
 * fields and its bytes as written again; then "rest N" or "broken". For a list its items, or "broken". */
#define _GNU_SOURCE
#include "frames.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* In memory of exactly its size, so that a sanitizer sees a read behind it. */
static uint8_t *bytes_of(const char *hex, size_t *size)
{
    *size = strlen(hex) / 2;
    uint8_t *bytes = malloc(*size > 0 ? *size : 1);
    if (bytes == NULL)
        abort();
    for (size_t i = 0; i < *size; i++) {
        unsigned byte;
        if (sscanf(hex + 2 * i, "%2x", &byte) != 1)
            abort();
        bytes[i] = (uint8_t)byte;
    }
    return bytes;
}

static void print_hex(const uint8_t *data, size_t size)
{
    putchar('=');
    for (size_t i = 0; i < size; i++)
        printf("%02x", data[i]);
}

static void print_field(const struct frame *frame, const struct field *field)
{
    const uint8_t *at = (const uint8_t *)&frame->body + field->offset;
    putchar(' ');
    if (field->size == 0) {
        struct blob blob;
        memcpy(&blob, at, sizeof(blob));
        print_hex(blob.data, blob.size);
        return;
    }
    uint64_t number = 0;
    for (unsigned i = 0; i < field->size; i++)
        number |= (uint64_t)at[i] << (8 * i); /* both machines that this runs on are little endian */
    printf("%" PRIu64, number);
}

static void print_frame(const struct frame *frame)
{
    const struct form *form = frame_form(frame->type);
    printf("%d", (int)frame->type);
    for (size_t i = 0; i < form->count; i++)
        print_field(frame, &form->fields[i]);
    struct buffer again = {0};
    if (!frame_write(&again, frame))
        abort();
    putchar(' ');
    print_hex(buffer_front(&again), buffer_size(&again));
    putchar('\n');
    buffer_free(&again);
}

static void check_frames(const uint8_t *data, size_t size)
{
    for (;;) {
        struct frame frame;
        size_t used;
        const char *why;
        enum reading reading = frame_read(data, size, &frame, &used, &why);
        if (reading == READ_BROKEN)
            puts("broken");
        if (reading == READ_PART)
            printf("rest %zu\n", size);
        if (reading == READ_BROKEN || reading == READ_PART)
            return;
        if (reading == READ_WHOLE)
            print_frame(&frame);
        data += used;
        size -= used;
    }
}

static void check_list(const uint8_t *data, size_t size)
{
    struct list list;
    struct blob item;
    if (!list_open(&list, (struct blob){data, (uint32_t)size})) {
        puts("broken");
        return;
    }
    fputs("items", stdout);
    while (list_next(&list, &item)) {
        putchar(' ');
        print_hex(item.data, item.size);
    }
    putchar('\n');
}

int main(void)
{
    char *line = NULL;
    size_t capacity = 0;
    while (getline(&line, &capacity, stdin) > 0) {
        char *hex = strchr(line, ' ');
        if (hex == NULL)
            abort();
        hex[strcspn(hex, "\n")] = '\0';
        size_t size;
        uint8_t *bytes = bytes_of(hex + 1, &size);
        if (line[0] == 'l')
            check_list(bytes, size);
        else
            check_frames(bytes, size);
        puts(".");
        free(bytes);
    }
    free(line);
    return 0;
}
