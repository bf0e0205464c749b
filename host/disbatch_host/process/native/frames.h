/* The frames between a node and its supervisor, as records and as bytes.
 *
 * Responsible for: the form of every frame of version 2, and every length that the other side sends: no other file reads
 * one. Must not know: what a frame means. `frames.py` has the same forms, with what their fields mean;
 * protocol/vectors/supervisor.json holds both to them.
 *
 * Each frame is listed once, by N(type, name) for a number and B(name, limit) for a blob; records and tables are made
 * of these lists. A blob points into the bytes that it was read from.
 */
#ifndef DISBATCH_FRAMES_H
#define DISBATCH_FRAMES_H

#include "buffer.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifndef FRAMES_VERSION_MAX
#define FRAMES_VERSION_MAX 2 /* a test builds it with others */
#endif

enum {
    FRAMES_VERSION_MIN = 1, /* START has no words; known for ever: a later node can empty any supervisor */
    FRAME_MAX = 1 << 24,  /* bytes after the length */
    NOTE_MAX = 4096,
    PLUGIN_NOTE_MAX = 1 << 20,
    PART_MAX = 1 << 16,   /* bytes of one stream in one frame */
    ID_MAX = 1024,
    WORDS_MAX = 4096,
    LEFT_MAX = 1 << 16,
};

struct blob {
    const uint8_t *data;
    uint32_t size;
};

#define HELLO_FIELDS(N, B)                                                                                             \
    N(uint16_t, version_min) N(uint16_t, version_max) N(uint64_t, session) N(uint64_t, keep)                           \
    B(store_id, ID_MAX) B(node_id, ID_MAX) B(key, ID_MAX)
#define PLUGIN_FIELDS(N, B)                                                                                            \
    N(uint32_t, number) N(uint8_t, stop_signal) N(uint64_t, grace) N(uint64_t, drain) N(uint64_t, max_output)          \
    N(uint32_t, mask) N(uint32_t, uid) N(uint32_t, gid) N(uint8_t, flags)                                              \
    B(directory, WORDS_MAX) B(argv, FRAME_MAX) B(environment, FRAME_MAX) B(groups, LEFT_MAX) B(limits, 4096)           \
    B(note, PLUGIN_NOTE_MAX)
#define START_FIELDS(N, B)                                                                                             \
    N(uint64_t, run) N(uint32_t, plugin) N(uint64_t, timeout) N(uint64_t, idle_timeout) N(uint64_t, asked_at)          \
    N(uint64_t, trusted) N(uint64_t, total) N(uint8_t, flags)                                                          \
    B(note, NOTE_MAX) B(environment, FRAME_MAX) B(work_directory, WORDS_MAX) B(input, PART_MAX)
#define TASK_FIELDS(N, B)                                                                                              \
    N(uint64_t, run) N(uint32_t, number) N(uint64_t, timeout) N(uint64_t, idle_timeout) N(uint64_t, asked_at)          \
    N(uint64_t, trusted) N(uint64_t, total)                                                                            \
    B(note, NOTE_MAX) B(input, PART_MAX)
#define STDIN_FIELDS(N, B) N(uint64_t, run) B(data, PART_MAX)
#define STDIN_EOF_FIELDS(N, B) N(uint64_t, run)
#define STOP_FIELDS(N, B) N(uint64_t, run) N(uint8_t, reason)
#define KILL_FIELDS(N, B) N(uint64_t, run) N(uint8_t, reason)
#define WINDOW_FIELDS(N, B) N(uint64_t, run) N(uint8_t, stream) N(uint64_t, offset) N(uint64_t, size)
#define ACK_FIELDS(N, B)                                                                                               \
    N(uint64_t, run) N(uint64_t, out) N(uint64_t, err) N(uint64_t, events) N(uint8_t, what)
#define PING_FIELDS(N, B) N(uint64_t, number)
#define NODE_BYE_FIELDS(N, B) N(uint8_t, reason)
#define LOOK_FIELDS(N, B) B(key, ID_MAX)
#define ANSWER_FIELDS(N, B)                                                                                            \
    N(uint16_t, version) N(uint32_t, pid) N(uint64_t, started) N(uint64_t, session) N(uint64_t, next_run)              \
    N(uint32_t, capacity) N(uint64_t, mount_namespace)                                                                 \
    B(supervisor_id, ID_MAX) B(fingerprint, WORDS_MAX) B(program_hash, ID_MAX)
#define KEPT_PLUGIN_FIELDS(N, B) N(uint32_t, number) B(note, PLUGIN_NOTE_MAX)
#define RUN_FIELDS(N, B)                                                                                               \
    N(uint64_t, run) N(uint32_t, plugin) N(uint32_t, pid) N(uint64_t, pid_started) N(uint8_t, state) N(uint64_t, age)  \
    N(uint32_t, task) N(uint64_t, task_age)                                                                            \
    N(uint64_t, stored_out) N(uint64_t, stored_err) N(uint64_t, stored_events)                                         \
    N(uint64_t, task_out) N(uint64_t, task_err) N(uint64_t, task_events) N(uint64_t, stdin_left)                       \
    B(note, NOTE_MAX) B(task_note, NOTE_MAX)
#define READY_FIELDS(N, B)
#define STARTED_FIELDS(N, B) N(uint64_t, run) N(uint32_t, pid) N(uint64_t, pid_started)
#define NOT_STARTED_FIELDS(N, B) N(uint64_t, run) N(int32_t, error) N(uint8_t, step) N(uint8_t, stopped)
#define SAID_FIELDS(N, B) N(uint64_t, run) N(uint8_t, stream) N(uint64_t, offset) B(data, PART_MAX)
#define EVENTS_FIELDS(N, B)                                                                                            \
    N(uint64_t, run) N(uint64_t, offset) N(uint64_t, out_at) N(uint64_t, err_at) N(uint8_t, stopped)                   \
    N(uint64_t, cpu) N(uint64_t, memory) N(uint64_t, peak) N(uint64_t, stdin_left)                                     \
    B(data, PART_MAX)
#define CLOSED_FIELDS(N, B) N(uint64_t, run) N(uint8_t, stream)
#define END_FIELDS(N, B)                                                                                               \
    N(uint64_t, run) N(uint32_t, pid) N(uint64_t, pid_started) N(int32_t, status) N(uint8_t, stopped)                  \
    N(uint8_t, flags) N(int64_t, killed_after) N(uint64_t, cpu) N(uint64_t, peak) N(uint64_t, stdin_left)              \
    N(uint64_t, seconds) N(uint64_t, age) N(uint32_t, left_running)                                                    \
    N(uint64_t, out_at) N(uint64_t, out_end) N(uint64_t, err_at) N(uint64_t, err_end)                                  \
    N(uint64_t, events_at) N(uint64_t, events_end)                                                                     \
    B(out, PART_MAX) B(err, PART_MAX) B(events, PART_MAX) B(left_over, LEFT_MAX) B(ended, LEFT_MAX)
#define GONE_FIELDS(N, B) N(uint64_t, run)
#define PONG_FIELDS(N, B) N(uint64_t, number)
#define BYE_FIELDS(N, B) N(uint8_t, reason) B(words, WORDS_MAX)
#define LOG_FIELDS(N, B) N(uint8_t, level) B(words, WORDS_MAX)

#define FRAMES(F)                                                                                                      \
    F(1, hello, HELLO) F(2, plugin, PLUGIN) F(3, start, START) F(4, task, TASK) F(5, input, STDIN)                     \
    F(6, stdin_eof, STDIN_EOF) F(7, stop, STOP) F(8, kill, KILL) F(9, window, WINDOW) F(10, ack, ACK)                  \
    F(11, ping, PING) F(12, node_bye, NODE_BYE) F(13, look, LOOK)                                                      \
    F(129, answer, ANSWER) F(130, kept_plugin, KEPT_PLUGIN) F(131, run, RUN) F(132, ready, READY)                      \
    F(133, started, STARTED) F(134, not_started, NOT_STARTED) F(135, said, SAID) F(136, events, EVENTS)                \
    F(137, closed, CLOSED) F(138, end, END) F(139, gone, GONE) F(140, pong, PONG) F(141, bye, BYE) F(142, log, LOG)

#define AS_NUMBER(type, name) type name;
#define AS_BLOB(name, limit) struct blob name;
#define AS_RECORD(number, name, NAME) struct name##_frame { NAME##_FIELDS(AS_NUMBER, AS_BLOB) };
FRAMES(AS_RECORD)
#undef AS_RECORD
#undef AS_BLOB
#undef AS_NUMBER

#define AS_TYPE(number, name, NAME) FRAME_##NAME = number,
enum frame_type { FRAMES(AS_TYPE) };
#undef AS_TYPE

#define AS_MEMBER(number, name, NAME) struct name##_frame name;
struct frame {
    enum frame_type type;
    union {
        union { FRAMES(AS_MEMBER) } body;
        union { FRAMES(AS_MEMBER) };
    };
};
#undef AS_MEMBER

enum stop_reason { STOP_NOT, STOP_TIMEOUT, STOP_IDLE_TIMEOUT, STOP_CANCELLED, STOP_SHUTDOWN, STOP_LOST, STOP_REPLACED };
enum step {
    STEP_PIPES = 1, STEP_FORK, STEP_SESSION, STEP_DIRECTORY, STEP_LIMITS, STEP_ACCOUNT, STEP_EXEC, STEP_TOO_OLD,
    STEP_STOPPED, STEP_SPOOL,
};
enum stream_number { STREAM_OUT = 1, STREAM_ERR, STREAM_EVENTS };
enum wire_state { STATE_STARTING = 1, STATE_RUNNING, STATE_ENDED, STATE_LEFT_OVER };
enum acknowledged { ACK_OFFSETS, ACK_END, ACK_GONE };
enum bye { BYE_ENDS, BYE_TAKEN_OVER, BYE_RULE_BROKEN, BYE_REFUSED, BYE_KEEP };
enum plugin_flags { PLUGIN_ACCOUNT = 1, PLUGIN_LEAVE_RUNNING = 2 };
enum input_flags { INPUT_NULL = 1, INPUT_OPEN = 2, INPUT_TELL = 4, INPUT_LIVE = 8 };
enum end_flags { END_HELD_OPEN = 1, END_STDIN_REFUSED = 2, END_PEAK_IS_BOUND = 4, END_MEMORY_BY_GROUP = 8,
                 END_MEMORY_LIMIT = 16 };

enum reading {
    READ_WHOLE,   /* a frame; `used` bytes of the input are its */
    READ_UNKNOWN, /* one of a later version, to be skipped: `used` bytes */
    READ_PART,    /* it has not come whole; `used` is how many bytes it has, at least 5 */
    READ_BROKEN,  /* a rule was broken; `why` says which */
};

/* Read the frame at the front of some bytes. */
enum reading frame_read(const uint8_t *data, size_t size, struct frame *frame, size_t *used, const char **why);

/* Append a frame with its length. False: it exceeds a limit or there is no memory, and nothing was appended. */
bool frame_write(struct buffer *out, const struct frame *frame);

/* A list in a blob: a count and the items, each a length and its bytes. */
struct list {
    struct blob rest;
    uint32_t left; /* items */
};

/* False: a length in it is wrong. After true, `list_next` gives every item. */
bool list_open(struct list *list, struct blob blob);
bool list_next(struct list *list, struct blob *item);

/* Append to a list that `list_begin` began in an empty buffer. */
bool list_begin(struct buffer *out);
bool list_append(struct buffer *out, const void *head, size_t head_size, const void *rest, size_t rest_size);

/* Numbers of a blob that is an array of them. */
uint32_t number_u32(const uint8_t *data);
uint64_t number_u64(const uint8_t *data);

/* For tests: the fields of a frame, in words. */
struct field {
    const char *name;
    uint16_t offset; /* in the record */
    uint16_t size;   /* of a number; 0: a blob */
    uint32_t limit;  /* of a blob */
};
struct form {
    const char *name;
    const struct field *fields;
    size_t count;
    size_t fixed; /* bytes before the first blob, lengths included */
};
const struct form *frame_form(unsigned type);

#endif
