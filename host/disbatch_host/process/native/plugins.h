/* Plugins as a node names them, and launches: what a child needs, complete before the fork.
 *
 * Responsible for: checking texts and lists, environments. Must not know: when something is started.
 */
#ifndef DISBATCH_PLUGINS_H
#define DISBATCH_PLUGINS_H

#include "supervisor.h"

/* NULL, with `why`: a list in it is wrong. Its one holder is the caller. */
struct plugin *plugin_new(const struct plugin_frame *frame, const char **why);
void plugin_drop(struct plugin *plugin);

/* NULL, with `why`: a list in it is wrong. `is_startable`: whether its texts can be given to a program. */
struct launch *launch_new(struct run *run, const struct start_frame *frame, bool *is_startable, const char **why);
void launch_free(struct launch *launch);

#endif
