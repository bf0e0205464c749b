#define _GNU_SOURCE
#include "connection.h"

#include "groups.h"
#include "home.h"
#include "life.h"
#include "machine.h"
#include "orders.h"
#include "plugins.h"
#include "tell.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

static const uint64_t HELLO_WITHIN = 1 * SECOND;
static const uint64_t BYE_WITHIN = 1 * SECOND;

enum {
    RECEIVED = 1 << 16,   /* bytes a round */
    HELLO_MAX = 1 << 16,  /* bytes of a peer that has not said HELLO */
    DIFFERENCES = 256,    /* of the names of what the supervisor and its node have not in common */
};

static void on_ready(void *owner, uint32_t events);

static void on_late(void *owner)
{
    connection_close(owner);
}

struct connection *connection_open(struct supervisor *all, int fd)
{
    struct connection *connection = must_allocate(sizeof(*connection));
    connection->all = all;
    connection->source = (struct source){.ready = on_ready, .owner = connection, .fd = fd};
    timer_init(&connection->timer, on_late, connection);
    timer_set(&all->loop, &connection->timer, all->loop.now + HELLO_WITHIN);
    connection->next = all->peers;
    all->peers = connection;
    all->new_peers++;
    if (!source_watch(&all->loop, &connection->source, EPOLLIN)) {
        connection_close(connection);
        return NULL;
    }
    return connection;
}

static void set_aside(struct connection *connection)
{
    struct supervisor *all = connection->all;
    struct connection **place = &all->peers;
    while (*place != connection)
        place = &(*place)->next;
    *place = connection->next;
    if (connection->state == PEER_NEW)
        all->new_peers--;
}

void connection_close(struct connection *connection)
{
    struct supervisor *all = connection->all;
    if (connection->source.fd < 0)
        return;
    source_close(&all->loop, &connection->source);
    timer_set(&all->loop, &connection->timer, NEVER);
    bool was_node = all->node == connection;
    if (was_node)
        all->node = NULL;
    else
        set_aside(connection);
    connection->next = all->closed;
    all->closed = connection;
    if (was_node)
        life_node_left(all);
}

void connections_free_closed(struct supervisor *all)
{
    while (all->closed != NULL) {
        struct connection *connection = all->closed;
        all->closed = connection->next;
        for (size_t i = 0; i < connection->plugin_count; i++)
            plugin_drop(connection->plugins[i]);
        free(connection->plugins);
        buffer_free(&connection->in);
        buffer_free(&connection->out);
        free(connection);
    }
}

void connection_flush(struct connection *connection)
{
    struct supervisor *all = connection->all;
    while (buffer_size(&connection->out) > 0) {
        ssize_t sent = send(connection->source.fd, buffer_front(&connection->out), buffer_size(&connection->out),
                            MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent > 0) {
            buffer_take(&connection->out, (size_t)sent);
        } else if (sent < 0 && errno == EAGAIN) {
            connection->is_writing = source_watch(&all->loop, &connection->source, EPOLLIN | EPOLLOUT);
            return;
        } else if (sent == 0 || errno != EINTR) {
            connection_close(connection);
            return;
        }
    }
    if (connection->state == PEER_LEAVING) {
        connection_close(connection);
    } else if (connection->is_writing) {
        connection->is_writing = false;
        (void)source_watch(&all->loop, &connection->source, EPOLLIN);
    }
}

void connection_tell(struct connection *connection, const struct frame *frame)
{
    /* What is longer than a frame may be was refused before; only memory can be missing, and a gap would be a lie. */
    if (!frame_write(&connection->out, frame))
        abort();
}

void connection_bye(struct connection *connection, enum bye reason, const char *words)
{
    struct supervisor *all = connection->all;
    if (connection->source.fd < 0)
        return;
    struct frame frame = {.type = FRAME_BYE};
    frame.bye = (struct bye_frame){(uint8_t)reason, {(const uint8_t *)words, (uint32_t)strlen(words)}};
    connection_tell(connection, &frame);
    bool was_node = all->node == connection;
    if (was_node) {
        all->node = NULL;
        connection->next = all->peers;
        all->peers = connection;
    } else if (connection->state == PEER_NEW) {
        all->new_peers--;
    }
    connection->state = PEER_LEAVING;
    timer_set(&all->loop, &connection->timer, all->loop.now + BYE_WITHIN);
    connection_flush(connection);
    if (was_node && reason == BYE_TAKEN_OVER)
        orders_void(all);
    else if (was_node)
        life_node_left(all);
}

struct plugin *connection_plugin(const struct connection *connection, uint32_t number)
{
    for (size_t i = connection->plugin_count; i > 0; i--)
        if (connection->plugins[i - 1]->number == number)
            return connection->plugins[i - 1];
    return NULL;
}

void connection_name(struct connection *connection, struct plugin *plugin)
{
    for (size_t i = 0; i < connection->plugin_count; i++)
        if (connection->plugins[i]->number == plugin->number) {
            connection->plugins[i]->number = 0; /* its runs keep it, and the number is another plugin's now */
            plugin_drop(connection->plugins[i]);
            connection->plugins[i] = connection->plugins[--connection->plugin_count];
            break;
        }
    size_t size = (connection->plugin_count + 1) * sizeof(struct plugin *);
    struct plugin **plugins = realloc(connection->plugins, size);
    if (plugins == NULL)
        abort();
    plugin->holders++;
    connection->plugins = plugins;
    connection->plugins[connection->plugin_count++] = plugin;
}

static bool is_equal(struct blob one, struct blob other)
{
    uint8_t difference = 0;
    if (one.size != other.size)
        return false;
    for (uint32_t i = 0; i < one.size; i++) /* all of it, so that the time says nothing about a key */
        difference |= (uint8_t)(one.data[i] ^ other.data[i]);
    return difference == 0;
}

static struct blob copy(struct blob blob)
{
    uint8_t *data = must_allocate((size_t)blob.size + 1);
    memcpy(data, blob.data, blob.size);
    return (struct blob){data, blob.size};
}

#define TEXT_OF(number) #number
#define TEXT(macro) TEXT_OF(macro)

/* Why this node is refused, or NULL. */
static const char *refusal(const struct supervisor *all, const struct hello_frame *hello)
{
    if (all->home != NULL && !is_equal(hello->key, home_key(all->home)))
        return "another key than the one in the directory";
    if (hello->version_min > FRAMES_VERSION_MAX || hello->version_max < FRAMES_VERSION_MIN)
        return "no common version of the frames: this supervisor has 1 to " TEXT(FRAMES_VERSION_MAX);
    if (all->store_id.data != NULL && !is_equal(hello->store_id, all->store_id))
        return "this supervisor belongs to another store";
    if (all->node_id.data != NULL && !is_equal(hello->node_id, all->node_id))
        return "this supervisor belongs to another node";
    if (hello->session < all->session)
        return "a node with a higher session has been here";
    return NULL;
}

static void answer(struct connection *connection, unsigned version)
{
    struct supervisor *all = connection->all;
    struct frame frame = {.type = FRAME_ANSWER};
    frame.answer = (struct answer_frame){
        .version = (uint16_t)version, .pid = (uint32_t)all->pid, .started = all->pid_started, .session = all->session,
        .next_run = all->next_run, .capacity = all->capacity, .mount_namespace = all->mount_namespace,
        .supervisor_id = {all->id, sizeof(all->id)},
        .fingerprint = {(const uint8_t *)all->fingerprint, (uint32_t)all->fingerprint_size},
        .program_hash = {(const uint8_t *)SOURCE_HASH, sizeof(SOURCE_HASH) - 1},
    };
    connection_tell(connection, &frame);
}

static void take_over(struct connection *connection, const struct hello_frame *hello)
{
    struct supervisor *all = connection->all;
    if (all->node != NULL)
        connection_bye(all->node, BYE_TAKEN_OVER, "a node with an equal or higher session is here");
    set_aside(connection);
    connection->state = PEER_NODE;
    timer_set(&all->loop, &connection->timer, NEVER);
    if (all->store_id.data == NULL) {
        all->store_id = copy(hello->store_id);
        all->node_id = copy(hello->node_id);
    }
    all->session = hello->session;
    all->keep = hello->keep;
    all->node = connection;
    life_node_came(all);
    answer(connection, hello->version_max < FRAMES_VERSION_MAX ? hello->version_max : FRAMES_VERSION_MAX);
    tell_everything(all);
    groups_meet(all, connection->pid);
    char names[DIFFERENCES];
    if (connection->pid > 0 && machine_differs(all->fingerprint, connection->pid, names, sizeof(names)))
        tell_log(all, LOG_WARNING, "its programs have what was set before this node started, in: %s", names);
}

struct connection *connection_to_nobody(struct supervisor *all)
{
    if (all->node != NULL)
        connection_bye(all->node, BYE_ENDS, "the supervisor ends");
    struct connection *connection = must_allocate(sizeof(*connection));
    connection->all = all;
    connection->source.fd = -1;
    connection->state = PEER_NODE;
    connection->takes_all = true;
    all->node = connection;
    answer(connection, FRAMES_VERSION_MIN); /* any later node reads it */
    tell_everything(all);
    return connection;
}

/* The first frame of a peer. */
static void meet(struct connection *connection, const struct frame *frame)
{
    const struct home *home = connection->all->home;
    if (frame->type == FRAME_LOOK && home != NULL && is_equal(frame->look.key, home_key(home))) {
        answer(connection, FRAMES_VERSION_MIN);
        tell_runs(connection->all, connection);
        connection_bye(connection, BYE_ENDS, "that is all");
        return;
    }
    if (frame->type != FRAME_HELLO) {
        connection_close(connection);
        return;
    }
    const char *why = refusal(connection->all, &frame->hello);
    if (why != NULL)
        connection_bye(connection, BYE_REFUSED, why);
    else
        take_over(connection, &frame->hello);
}

static void handle(struct connection *connection, const struct frame *frame)
{
    if (connection->state == PEER_NEW) {
        meet(connection, frame);
    } else if (frame->type == FRAME_NODE_BYE) {
        struct supervisor *all = connection->all;
        connection_close(connection);
        if (frame->node_bye.reason == BYE_ENDS)
            life_node_ended(all);
    } else {
        const char *why = order(connection, frame);
        if (why != NULL)
            connection_bye(connection, BYE_RULE_BROKEN, why);
    }
}

static void on_broken(struct connection *connection, const char *why)
{
    if (connection->state == PEER_NODE)
        connection_bye(connection, BYE_RULE_BROKEN, why);
    else
        connection_close(connection);
}

static bool is_listening(const struct connection *connection)
{
    return connection->source.fd >= 0 && connection->state != PEER_LEAVING;
}

/* Carry out the frames that are whole. Returns how many bytes the next one still needs. */
static size_t handle_frames(struct connection *connection)
{
    size_t used = 0;
    while (is_listening(connection)) {
        struct frame frame;
        const char *why = NULL;
        size_t size = buffer_size(&connection->in);
        switch (frame_read(buffer_front(&connection->in), size, &frame, &used, &why)) {
        case READ_PART:
            if (connection->state == PEER_NEW && used > HELLO_MAX)
                connection_close(connection);
            return used - size;
        case READ_BROKEN:
            on_broken(connection, why);
            return 0;
        case READ_UNKNOWN:
            break;
        case READ_WHOLE:
            handle(connection, &frame);
        }
        buffer_wipe(&connection->in, used);
    }
    return 0;
}

/* Nothing is carried out for a node that has ended where its runs end with it: by now a task may be another node's. */
static bool has_ended(const struct connection *connection)
{
    struct pollfd state = {.fd = connection->source.fd};
    return connection->all->home == NULL && poll(&state, 1, 0) > 0 && (state.revents & POLLHUP) != 0;
}

static void receive(struct connection *connection)
{
    size_t room = RECEIVED;
    if (!buffer_reserve(&connection->in, room)) {
        on_broken(connection, "there is no memory for this frame");
        return;
    }
    ssize_t got = recv(connection->source.fd, connection->in.data + connection->in.end, room, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (got <= 0 || has_ended(connection)) { /* it may have ended since the round began, which may be long ago */
        connection_close(connection);
        return;
    }
    connection->in.end += (size_t)got;
    size_t needed = handle_frames(connection);
    if (is_listening(connection) && needed > RECEIVED)
        (void)buffer_reserve(&connection->in, needed); /* at once instead of by doubling */
    if (is_listening(connection) && buffer_size(&connection->out) > OUT_MAX)
        on_broken(connection, "the answers are not read");
}

static void on_ready(void *owner, uint32_t events)
{
    struct connection *connection = owner;
    if ((events & EPOLLHUP) != 0 && connection->all->home == NULL) {
        connection_close(connection);
        return;
    }
    if ((events & EPOLLOUT) != 0)
        connection_flush(connection);
    if ((events & ~(uint32_t)EPOLLOUT) == 0 || connection->source.fd < 0)
        return;
    if (connection->state == PEER_LEAVING) {
        if ((events & (EPOLLHUP | EPOLLERR)) != 0)
            connection_close(connection);
        else
            source_forget(&connection->all->loop, &connection->source); /* it is not listened to any more */
        return;
    }
    receive(connection);
}
