/* Bytes that are kept in order, in memory while they are few, then in a file without a name.
 *
 * Responsible for: a log from which the front is dropped, and a ring that keeps the last bytes. Must not know: whose
 * bytes they are. A file that cannot be written is an answer, not an end.
 */
#ifndef DISBATCH_SPOOL_H
#define DISBATCH_SPOOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What all spools of a supervisor share. */
struct spools {
    size_t memory;     /* bytes in use */
    size_t memory_max;
    int directory;     /* where the files are made */
};

struct spool {
    uint64_t begin;    /* offset of the first byte that is kept */
    uint64_t end;
    uint64_t origin;   /* the offset at position 0 of the memory or file */
    uint64_t ring;     /* 0: a log; else only this many bytes are kept */
    uint8_t *memory;
    uint32_t capacity; /* of the memory */
    int fd;            /* below 0: in memory */
};

static inline uint64_t spool_size(const struct spool *spool)
{
    return spool->end - spool->begin;
}

void spool_init(struct spool *spool, uint64_t offset, uint64_t ring);

/* Room for `size` bytes, so that `spool_put` of them does not fail. False, with errno: it cannot be had. */
bool spool_reserve(struct spools *all, struct spool *spool, size_t size, size_t memory_max);

/* Append; at most `memory_max` bytes stay in memory. False, with errno: the file cannot be written, and nothing was
 * appended. */
bool spool_put(struct spools *all, struct spool *spool, const uint8_t *data, size_t size, size_t memory_max);

/* Copy up to `size` bytes from an offset that is kept. Returns how many; fewer only at the end or where a file cannot be
 * read. */
size_t spool_get(const struct spool *spool, uint64_t offset, uint8_t *data, size_t size);

/* The bytes in memory from the front on, without a copy; 0 where they are in a file. */
size_t spool_front(const struct spool *spool, const uint8_t **data);

/* Forget everything before an offset, and overwrite it where it is in memory. */
void spool_drop(struct spools *all, struct spool *spool, uint64_t offset);

/* Forget everything, and begin again at an offset. */
void spool_restart(struct spools *all, struct spool *spool, uint64_t offset, uint64_t ring);

#endif
