#define _GNU_SOURCE
#include "plugins.h"

#include "start.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    LIMIT_SIZE = 20, /* bytes of one in a frame */
    GROUP_SIZE = 4,
    MARK_SIZE = sizeof("DISBATCH_RUN=") + 2 * SUPERVISOR_ID_SIZE + 24,
};

/* Where texts are copied to, one behind the other, each with a NUL behind it. */
struct texts {
    char *at;
    bool has_nul; /* in one of them: no program can be given it */
};

static char *copy_text(struct texts *texts, struct blob blob)
{
    char *text = texts->at;
    if (blob.size > 0) {
        memcpy(text, blob.data, blob.size);
        texts->has_nul = texts->has_nul || memchr(text, '\0', blob.size) != NULL;
    }
    text[blob.size] = '\0';
    texts->at += blob.size + 1;
    return text;
}

/* The bytes that the texts of a list take. */
static size_t texts_size(const struct list *list)
{
    return (size_t)list->rest.size + list->left;
}

static void copy_texts(struct texts *texts, struct list list, char **to)
{
    struct blob item;
    while (list_next(&list, &item))
        *to++ = copy_text(texts, item);
    *to = NULL;
}

static void copy_numbers(struct plugin *plugin, const struct plugin_frame *frame)
{
    for (size_t i = 0; i < plugin->group_count; i++)
        plugin->groups[i] = number_u32(frame->groups.data + i * GROUP_SIZE);
    for (size_t i = 0; i < plugin->limit_count; i++) {
        const uint8_t *at = frame->limits.data + i * LIMIT_SIZE;
        plugin->limits[i].resource = (int)number_u32(at);
        plugin->limits[i].value.rlim_cur = number_u64(at + 4);
        plugin->limits[i].value.rlim_max = number_u64(at + 12);
    }
}

struct plugin *plugin_new(const struct plugin_frame *frame, const char **why)
{
    struct list argv;
    struct list environment;
    if (!list_open(&argv, frame->argv) || !list_open(&environment, frame->environment) ||
        frame->groups.size % GROUP_SIZE != 0 || frame->limits.size % LIMIT_SIZE != 0) {
        *why = "a list of PLUGIN is longer or shorter than its blob";
        return NULL;
    }
    struct plugin *plugin = must_allocate(sizeof(*plugin));
    *plugin = (struct plugin){
        .holders = 1, .number = frame->number, .grace = frame->grace, .drain = frame->drain,
        .half = frame->max_output / 2, .mask = frame->mask, .uid = frame->uid, .gid = frame->gid,
        .stop_signal = frame->stop_signal, .flags = frame->flags, .variables = environment.left,
        .group_count = frame->groups.size / GROUP_SIZE, .limit_count = frame->limits.size / LIMIT_SIZE,
    };
    plugin->argv = must_allocate((argv.left + 1) * sizeof(char *));
    plugin->environment = must_allocate((environment.left + 1) * sizeof(char *));
    plugin->groups = must_allocate((plugin->group_count + 1) * sizeof(gid_t));
    plugin->limits = must_allocate((plugin->limit_count + 1) * sizeof(struct limit));
    plugin->bytes = must_allocate(texts_size(&argv) + texts_size(&environment) + frame->directory.size + 1 +
                                  frame->note.size);
    struct texts texts = {.at = (char *)plugin->bytes};
    plugin->is_startable = argv.left > 0;
    copy_texts(&texts, argv, plugin->argv);
    copy_texts(&texts, environment, plugin->environment);
    plugin->directory = copy_text(&texts, frame->directory);
    plugin->is_startable = plugin->is_startable && !texts.has_nul;
    if (frame->note.size > 0)
        memcpy(texts.at, frame->note.data, frame->note.size);
    plugin->note = (struct blob){(uint8_t *)texts.at, frame->note.size};
    copy_numbers(plugin, frame);
    return plugin;
}

void plugin_drop(struct plugin *plugin)
{
    if (--plugin->holders > 0)
        return;
    free(plugin->argv);
    free(plugin->environment);
    free(plugin->groups);
    free(plugin->limits);
    free(plugin->bytes);
    free(plugin);
}

static bool have_same_name(const char *one, const char *other)
{
    while (*one == *other && *one != '=' && *one != '\0')
        one++, other++;
    return *one == *other;
}

/* Set a variable: a later one replaces an earlier one of the same name. */
static void set_variable(struct launch *launch, size_t *count, char *variable)
{
    size_t i = 0;
    while (i < *count && !have_same_name(launch->environment[i], variable))
        i++;
    launch->environment[i] = variable;
    if (i == *count)
        ++*count;
}

static void set_environment(struct launch *launch, const struct run *run, struct list added, struct texts *texts)
{
    const struct plugin *plugin = run->plugin;
    size_t count = plugin->variables;
    if (count > 0)
        memcpy(launch->environment, plugin->environment, count * sizeof(char *));
    struct blob item;
    while (list_next(&added, &item))
        set_variable(launch, &count, copy_text(texts, item));
    int size = snprintf(texts->at, MARK_SIZE, "%s%llu", run->all->mark_name, (unsigned long long)run->number);
    set_variable(launch, &count, texts->at);
    texts->at += size + 1;
    launch->environment[count] = NULL;
}

/* The list behind another one in the same blob; none is an empty one. False: a length in it is wrong. */
static bool list_behind(struct list *second, struct list first)
{
    struct blob item;
    while (list_next(&first, &item))
        ;
    *second = (struct list){.left = 0};
    return first.rest.size == 0 || list_open(second, first.rest);
}

/* Most runs add no words, and share the array of their plugin. */
static char **own_argv(const struct plugin *plugin, struct list words, struct texts *texts)
{
    if (words.left == 0)
        return NULL;
    size_t count = 0;
    while (plugin->argv[count] != NULL)
        count++;
    char **argv = must_allocate((count + words.left + 1) * sizeof(char *));
    if (count > 0)
        memcpy(argv, plugin->argv, count * sizeof(char *));
    copy_texts(texts, words, argv + count);
    return argv;
}

struct launch *launch_new(struct run *run, const struct start_frame *frame, bool *is_startable, const char **why)
{
    struct list added;
    struct list words;
    if (!list_open(&added, frame->environment) || !list_behind(&words, added)) {
        *why = "the environment of START is longer than its blob";
        return NULL;
    }
    const struct plugin *plugin = run->plugin;
    bool is_whole = frame->input.size == frame->total;
    struct launch *launch = must_allocate(sizeof(*launch));
    launch->size = texts_size(&added) + texts_size(&words) + MARK_SIZE + frame->work_directory.size + 1 + frame->input.size;
    launch->bytes = must_allocate(launch->size);
    launch->environment = must_allocate((plugin->variables + added.left + 2) * sizeof(char *));
    struct texts texts = {.at = (char *)launch->bytes};
    set_environment(launch, run, added, &texts);
    launch->own_argv = own_argv(plugin, words, &texts);
    launch->argv = launch->own_argv != NULL ? launch->own_argv : plugin->argv;
    launch->directory = frame->work_directory.size > 0 ? copy_text(&texts, frame->work_directory) : plugin->directory;
    *is_startable = plugin->is_startable && !texts.has_nul;
    if (is_whole) {
        if (frame->input.size > 0)
            memcpy(texts.at, frame->input.data, frame->input.size);
        launch->input = (uint8_t *)texts.at;
        launch->input_size = frame->input.size;
    }
    launch->run = run;
    launch->run_number = run->number;
    launch->plugin = plugin;
    launch->all = run->all;
    launch->asked_at = frame->asked_at;
    launch->trusted = frame->trusted;
    launch->flags = frame->flags;
    launch->unread = -1;
    launch->group = -1;
    atomic_init(&launch->pidfd, -1);
    atomic_init(&launch->step, 0);
    for (int i = 0; i < 4; i++)
        launch->ends[i] = -1;
    return launch;
}

void launch_free(struct launch *launch)
{
    if (launch == NULL)
        return;
    explicit_bzero(launch->bytes, launch->size);
    free(launch->bytes);
    free(launch->environment);
    free(launch->own_argv);
    free(launch);
}
