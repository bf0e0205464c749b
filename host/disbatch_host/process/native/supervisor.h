/* The records that the parts of the supervisor share. */
#ifndef DISBATCH_SUPERVISOR_H
#define DISBATCH_SUPERVISOR_H

#include "buffer.h"
#include "frames.h"
#include "loop.h"
#include "output.h"
#include "spool.h"

#include <stdatomic.h>
#include <sys/resource.h>
#include <sys/types.h>

struct launch;
struct starters;
struct connection;
struct home;
struct group;
struct groups;
struct supervisor;

enum {
    SUPERVISOR_ID_SIZE = 16,
    RUN_MARK_BITS = 40,     /* numbers of runs are below 2^40 */
    BUCKETS_MIN = 64,
};

/* What the processes of one version of a plugin have in common. Runs and a connection hold it. */
struct plugin {
    size_t holders;
    uint32_t number;        /* of this connection; 0: it has no name there */
    uint64_t grace;
    uint64_t drain;
    uint64_t half;          /* of max_output */
    uint32_t mask;
    uint32_t uid;
    uint32_t gid;
    uint8_t stop_signal;
    uint8_t flags;
    bool is_startable;      /* its texts have no NUL byte, and there is an argv */
    unsigned starting;      /* starts in the hands of a thread; the starters' lock guards it */
    char *directory;
    char **argv;
    char **environment;
    size_t variables;
    gid_t *groups;
    size_t group_count;
    struct limit {
        int resource;
        struct rlimit value;
    } *limits;
    size_t limit_count;
    struct blob note;
    uint8_t *bytes;         /* all that the pointers above point into */
};

enum phase {
    RUN_COMING,             /* its input is still coming */
    RUN_STARTING,           /* in the hands of the starters */
    RUN_RUNNING,
    RUN_ENDING,             /* its first process has ended */
    RUN_ENDED,              /* its END is made */
};

/* What a node writes to a process, and how much of it was read. */
struct input {
    struct source source;   /* the end that is written; closed once everything is */
    int unread;             /* the other end, which says then how much was not read */
    uint64_t left;          /* not read when it ended, or closed its stdin */
    uint64_t expected;      /* bytes that were announced and have not come */
    struct spool waiting;
    bool stays_open;
    bool is_over;           /* close it once everything is written */
    bool is_refused;
};

/* A task that a process gets once its input is whole and what was written before is out. */
struct next_task {
    bool is_there;
    struct task_frame frame;
    struct spool input;
    uint8_t *note;
};

struct run {
    struct supervisor *all;
    struct run *next_in_bucket;
    struct run *next_news;  /* queue of runs that a node is to be told of */
    struct run *next_free;
    struct plugin *plugin;
    struct launch *launch;
    struct group *group;    /* its control group; NULL: it has none */
    uint64_t number;
    enum phase phase;
    pid_t pid;
    uint64_t pid_started;   /* 0: nobody has looked yet */
    struct source exit;     /* its pidfd */
    struct timer timer;
    struct input input;
    struct stream streams[STREAMS];
    struct event_blocks blocks;

    uint64_t started_at;    /* and all times: CLOCK_MONOTONIC, microseconds */
    uint64_t task_given_at;
    uint64_t active_at;     /* the last output */
    uint64_t watch_at;      /* its output is watched from then on */
    uint64_t read_on_at;    /* and what rests then is read again */
    uint64_t tell_started_at;
    uint64_t closed_at;     /* a closed stream is told then, if it still runs */
    uint64_t timeout_at;
    uint64_t idle_limit;
    uint64_t timeout;       /* until it is started: a time, not a date */
    uint64_t kill_at;
    uint64_t drain_at;
    uint64_t pass_at;       /* the next pass of SIGKILL, or the next look */
    uint64_t kill_until;
    uint64_t look_at;       /* its group is not empty, and nobody was found in it: another look */
    uint64_t look_until;
    uint64_t stop_sent_at;
    uint64_t ended_at;

    uint8_t stopped;
    uint8_t end_flags;
    bool is_watched;
    bool is_live;           /* what was told is not kept, and the program waits where the node takes no more */
    bool is_killed;         /* SIGKILL was decided on */
    bool is_ending_rest;    /* what was left of it was asked to end */
    uint8_t empty_passes;
    uint32_t pass_wait;
    int64_t killed_after;
    int status;
    bool is_reaped;
    uint64_t cpu;           /* of everything that was reaped */
    uint64_t cpu_before;    /* its first process's when it was given its task */
    uint64_t peak;
    struct signalled {
        pid_t pid;
        uint64_t started;
    } *signalled;           /* processes that had the stop signal */
    size_t signalled_count;
    struct buffer ended;    /* lists for END */
    struct buffer left_over;
    uint32_t left_running;  /* processes that go on, since its plugin wants that */
    uint64_t memory_now;    /* last looked at, for EVENTS */
    uint64_t memory_peak;
    uint64_t memory_at;

    uint32_t task;
    uint8_t *note;
    uint32_t note_size;
    uint8_t *task_note;
    uint32_t task_note_size;
    struct next_task next;

    bool is_news;           /* it is in the queue */
    bool wants_started;     /* STARTED is to be told */
    bool is_end_told;
    bool is_end_stored;
    bool is_gone;           /* what was left over has ended */
    bool is_gone_told;
    bool is_loss_told;
    bool lacks_room;        /* more of its events cannot be kept now; descriptor 3 is not read */
    bool is_room_told;
    bool is_hurried;        /* it was stopped after its first process had ended: its events do not wait for room */
};

struct supervisor {
    struct loop loop;
    struct spools spools;
    struct starters *starters;
    struct source launched; /* eventfd of the starters */
    struct source signals;
    struct connection *node;
    struct home *home;      /* NULL: one connection in the foreground */
    struct groups *groups;
    pid_t *children;        /* of other threads than the main one, found in groups: to be reaped */
    size_t child_count;
    uint8_t id[SUPERVISOR_ID_SIZE];
    char mark_name[sizeof("DISBATCH_RUN=") + 2 * SUPERVISOR_ID_SIZE];
    pid_t pid;
    uint64_t pid_started;
    uint64_t mark_base;     /* of RLIMIT_RTTIME; 0: it cannot be used */
    struct rlimit files;    /* as it was before */
    char oom_score[8];      /* of programs, in words; empty: as it is */
    uint32_t capacity;
    char *fingerprint;
    size_t fingerprint_size;
    uint64_t mount_namespace;

    uint64_t session;       /* the highest seen */
    uint64_t next_run;
    struct run **buckets;
    size_t bucket_count;
    size_t run_count;
    size_t active_count;    /* of them, not ended */
    size_t rest_count;      /* of them, those of whose processes some may be left */
    struct run *released;
    struct run *first_news;
    struct run *last_news;
    size_t news_count;
    bool has_orphans;
    uint64_t reaped_round;
    uint64_t *left_running; /* numbers of runs whose processes go on by permission */
    size_t left_running_count;

    struct connection *peers;  /* those that are not the node */
    struct connection *closed; /* freed at the end of the round */
    size_t new_peers;
    uint64_t keep;
    struct blob store_id;      /* of its first node; both are copies */
    struct blob node_id;
    struct timer keep_timer;
    struct timer end_timer;
    uint8_t ending;         /* a stop reason: all runs are stopped, and none is started */
    bool is_over;
    uint64_t flush_at;
    unsigned ends_waiting;
    uint8_t block[READ_SIZE];
    uint8_t parts[STREAMS][PART_MAX];
};

#endif
