/* A peer: bytes in, bytes out, and who it is.
 *
 * Responsible for: HELLO, taking over, cutting what comes into frames, never waiting in a send. Must not know: what a
 * frame does to a run (`orders`).
 */
#ifndef DISBATCH_CONNECTION_H
#define DISBATCH_CONNECTION_H

#include "supervisor.h"

enum {
    OUT_ROOM = 1 << 18,     /* bytes on their way to a node beyond which nothing new is made for it */
    OUT_MAX = 1 << 26,      /* a node that lets so many lie is not reading */
};

enum peer_state {
    PEER_NEW,               /* its HELLO has not come */
    PEER_NODE,
    PEER_LEAVING,           /* it was told BYE; only what is on its way is sent */
};

struct connection {
    struct supervisor *all;
    struct connection *next; /* of those that are not the node */
    struct source source;
    struct timer timer;
    enum peer_state state;
    pid_t pid;              /* of the other side; 0: it is not known */
    struct buffer in;
    struct buffer out;
    bool is_writing;
    struct plugin **plugins;
    size_t plugin_count;
    uint64_t keep;
    size_t before_ready;    /* runs in the queue that are told before READY */
    bool is_ready_due;
    bool takes_all;         /* every window is open */
};

/* A new peer. */
struct connection *connection_open(struct supervisor *all, int fd);

/* A node that takes everything, for a file: what a new connection would hear is appended to its `out`, and goes on to be by
 * `tell_news`. The node that is there is told BYE. */
struct connection *connection_to_nobody(struct supervisor *all);

/* Append a frame to what is sent. */
void connection_tell(struct connection *connection, const struct frame *frame);

/* Send what can be sent now. */
void connection_flush(struct connection *connection);

/* BYE, and the end of it once that is sent. */
void connection_bye(struct connection *connection, enum bye reason, const char *words);
void connection_close(struct connection *connection);
void connections_free_closed(struct supervisor *all);

/* The plugin that this connection calls so. */
struct plugin *connection_plugin(const struct connection *connection, uint32_t number);
void connection_name(struct connection *connection, struct plugin *plugin);

#endif
