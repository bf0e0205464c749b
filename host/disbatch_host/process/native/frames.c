#include "frames.h"

#include <string.h>

enum {
    LENGTH_SIZE = 4,
    HEAD_SIZE = 5, /* length and type */
};

const struct form *frame_form(unsigned type)
{
    switch (type) {
#define AS_NUMBER(type, field) {#field, offsetof(record, field), sizeof(type), 0},
#define AS_BLOB(field, limit) {#field, offsetof(record, field), 0, limit},
#define NUMBER_SIZE(type, field) +sizeof(type)
#define BLOB_SIZE(field, limit) +LENGTH_SIZE
#define AS_FORM(number, name, NAME)                                                                                    \
    case number: {                                                                                                     \
        typedef struct name##_frame record;                                                                            \
        static const struct field fields[] = {NAME##_FIELDS(AS_NUMBER, AS_BLOB){NULL, (uint16_t)sizeof(record), 0, 0}};\
        static const struct form form = {                                                                              \
            #NAME, fields, sizeof(fields) / sizeof(fields[0]) - 1, 0 NAME##_FIELDS(NUMBER_SIZE, BLOB_SIZE)};           \
        return &form;                                                                                                  \
    }
        FRAMES(AS_FORM)
#undef AS_FORM
#undef BLOB_SIZE
#undef NUMBER_SIZE
#undef AS_BLOB
#undef AS_NUMBER
    default:
        return NULL;
    }
}

static uint64_t number_read(const uint8_t *data, size_t size)
{
    uint64_t number = 0;
    for (size_t i = 0; i < size; i++)
        number |= (uint64_t)data[i] << (8 * i);
    return number;
}

static void number_write(uint8_t *data, uint64_t number, size_t size)
{
    for (size_t i = 0; i < size; i++)
        data[i] = (uint8_t)(number >> (8 * i));
}

uint32_t number_u32(const uint8_t *data)
{
    return (uint32_t)number_read(data, 4);
}

uint64_t number_u64(const uint8_t *data)
{
    return number_read(data, 8);
}

static uint64_t number_of(const void *record, const struct field *field)
{
    const uint8_t *at = (const uint8_t *)record + field->offset;
    switch (field->size) {
    case 1:
        return *at;
    case 2: {
        uint16_t number;
        memcpy(&number, at, sizeof(number));
        return number;
    }
    case 4: {
        uint32_t number;
        memcpy(&number, at, sizeof(number));
        return number;
    }
    default: {
        uint64_t number;
        memcpy(&number, at, sizeof(number));
        return number;
    }
    }
}

static void number_set(void *record, const struct field *field, uint64_t value)
{
    uint8_t *at = (uint8_t *)record + field->offset;
    const uint8_t one = (uint8_t)value;
    const uint16_t two = (uint16_t)value;
    const uint32_t four = (uint32_t)value;
    switch (field->size) {
    case 1:
        memcpy(at, &one, sizeof(one));
        break;
    case 2:
        memcpy(at, &two, sizeof(two));
        break;
    case 4:
        memcpy(at, &four, sizeof(four));
        break;
    default:
        memcpy(at, &value, sizeof(value));
    }
}

static struct blob *blob_of(struct frame *frame, const struct field *field)
{
    return (struct blob *)(void *)((uint8_t *)&frame->body + field->offset);
}

/* The fixed part: numbers, and the lengths of blobs. */
static void read_fixed(struct frame *frame, const struct form *form, const uint8_t *data)
{
    for (size_t i = 0; i < form->count; i++) {
        const struct field *field = &form->fields[i];
        if (field->size > 0) {
            number_set(&frame->body, field, number_read(data, field->size));
            data += field->size;
        } else {
            *blob_of(frame, field) = (struct blob){NULL, number_u32(data)};
            data += LENGTH_SIZE;
        }
    }
}

/* Blobs follow one after the other. False: one has more bytes than it may, or than there are. */
static bool read_blobs(struct frame *frame, const struct form *form, const uint8_t *data, size_t size)
{
    for (size_t i = 0; i < form->count; i++) {
        const struct field *field = &form->fields[i];
        if (field->size > 0)
            continue;
        struct blob *blob = blob_of(frame, field);
        if (blob->size > field->limit || blob->size > size)
            return false;
        blob->data = data;
        data += blob->size;
        size -= blob->size;
    }
    return true;
}

enum reading frame_read(const uint8_t *data, size_t size, struct frame *frame, size_t *used, const char **why)
{
    *used = HEAD_SIZE;
    if (size < LENGTH_SIZE)
        return READ_PART;
    size_t length = number_u32(data);
    if (length < 1 || length > FRAME_MAX) {
        *why = "a frame has 1 to 16777216 bytes";
        return READ_BROKEN;
    }
    *used = LENGTH_SIZE + length;
    if (size < *used)
        return READ_PART;
    const struct form *form = frame_form(data[LENGTH_SIZE]);
    if (form == NULL)
        return READ_UNKNOWN;
    frame->type = (enum frame_type)data[LENGTH_SIZE];
    if (length - 1 < form->fixed) {
        *why = "a frame is shorter than its fields";
        return READ_BROKEN;
    }
    read_fixed(frame, form, data + HEAD_SIZE);
    if (!read_blobs(frame, form, data + HEAD_SIZE + form->fixed, length - 1 - form->fixed)) {
        *why = "a blob of a frame is longer than it may be";
        return READ_BROKEN;
    }
    return READ_WHOLE;
}

/* Bytes after the length; 0: a limit is exceeded. */
static size_t length_of(const struct frame *frame, const struct form *form)
{
    size_t length = 1 + form->fixed;
    for (size_t i = 0; i < form->count; i++) {
        const struct field *field = &form->fields[i];
        if (field->size > 0)
            continue;
        const struct blob *blob = blob_of((struct frame *)frame, field);
        if (blob->size > field->limit)
            return 0;
        length += blob->size;
    }
    return length <= FRAME_MAX ? length : 0;
}

bool frame_write(struct buffer *out, const struct frame *frame)
{
    const struct form *form = frame_form(frame->type);
    size_t length = form == NULL ? 0 : length_of(frame, form);
    if (length == 0 || !buffer_reserve(out, LENGTH_SIZE + length))
        return false;
    uint8_t *at = out->data + out->end;
    number_write(at, length, LENGTH_SIZE);
    at[LENGTH_SIZE] = (uint8_t)frame->type;
    at += HEAD_SIZE;
    uint8_t *blobs = at + form->fixed;
    for (size_t i = 0; i < form->count; i++) {
        const struct field *field = &form->fields[i];
        if (field->size > 0) {
            number_write(at, number_of(&frame->body, field), field->size);
            at += field->size;
            continue;
        }
        const struct blob *blob = blob_of((struct frame *)frame, field);
        number_write(at, blob->size, LENGTH_SIZE);
        at += LENGTH_SIZE;
        if (blob->size > 0)
            memcpy(blobs, blob->data, blob->size);
        blobs += blob->size;
    }
    out->end += LENGTH_SIZE + length;
    return true;
}

bool list_open(struct list *list, struct blob blob)
{
    if (blob.size < LENGTH_SIZE)
        return false;
    *list = (struct list){{blob.data + LENGTH_SIZE, blob.size - LENGTH_SIZE}, number_u32(blob.data)};
    struct blob rest = list->rest;
    for (uint32_t left = list->left; left > 0; left--) {
        if (rest.size < LENGTH_SIZE)
            return false;
        uint32_t size = number_u32(rest.data);
        if (size > rest.size - LENGTH_SIZE)
            return false;
        rest.data += LENGTH_SIZE + size;
        rest.size -= LENGTH_SIZE + size;
    }
    return true;
}

bool list_next(struct list *list, struct blob *item)
{
    if (list->left == 0)
        return false;
    *item = (struct blob){list->rest.data + LENGTH_SIZE, number_u32(list->rest.data)};
    list->rest.data += LENGTH_SIZE + item->size;
    list->rest.size -= LENGTH_SIZE + item->size;
    list->left--;
    return true;
}

bool list_begin(struct buffer *out)
{
    static const uint8_t none[LENGTH_SIZE];
    return buffer_append(out, none, sizeof(none));
}

bool list_append(struct buffer *out, const void *head, size_t head_size, const void *rest, size_t rest_size)
{
    if (!buffer_reserve(out, LENGTH_SIZE + head_size + rest_size))
        return false;
    uint8_t length[LENGTH_SIZE];
    number_write(length, head_size + rest_size, LENGTH_SIZE);
    bool appended = buffer_append(out, length, sizeof(length)) && buffer_append(out, head, head_size) &&
                    buffer_append(out, rest, rest_size);
    uint8_t *count = buffer_front(out);
    number_write(count, (uint64_t)number_u32(count) + 1, LENGTH_SIZE);
    return appended;
}
