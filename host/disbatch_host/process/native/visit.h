/* What a person asks of the supervisor in a directory.
 *
 * Responsible for: showing its runs, ending it. Must not know: how it lives.
 */
#ifndef DISBATCH_VISIT_H
#define DISBATCH_VISIT_H

int visit_list(const char *directory);
int visit_stop(const char *directory);

#endif
