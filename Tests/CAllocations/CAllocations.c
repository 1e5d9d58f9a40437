#include "CAllocations.h"

#include <errno.h>

// glibc lets a program replace malloc and keeps its own under these names. For tests alone.

void *__libc_malloc(size_t);
void *__libc_calloc(size_t, size_t);
void *__libc_realloc(void *, size_t);
void *__libc_memalign(size_t, size_t);

static __thread size_t count;

size_t allocations_of_thread(void) { return count; }

void *malloc(size_t size) { return count++, __libc_malloc(size); }

void *calloc(size_t n, size_t size) { return count++, __libc_calloc(n, size); }

void *realloc(void *p, size_t size) { return count++, __libc_realloc(p, size); }

void *memalign(size_t alignment, size_t size) { return count++, __libc_memalign(alignment, size); }

void *aligned_alloc(size_t alignment, size_t size) { return count++, __libc_memalign(alignment, size); }

int posix_memalign(void **out, size_t alignment, size_t size) {
    void *p = memalign(alignment, size);
    if (!p) return ENOMEM;
    *out = p;
    return 0;
}
