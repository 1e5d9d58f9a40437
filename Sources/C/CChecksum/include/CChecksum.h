#pragma once
#include <stddef.h>
#include <stdint.h>

/// CRC-32C (Castagnoli), by SSE 4.2 where the processor has it. `crc` is the value so far, 0 to begin.
uint32_t tl_crc32c(uint32_t crc, const void *data, size_t length);

/// The table form, for processors without the instruction and for the test that compares the two.
uint32_t tl_crc32c_table(uint32_t crc, const void *data, size_t length);

/// A 64-bit hash by folded 64 x 64 multiplication of little-endian words, the last one padded with zeros; from 64 bytes on
/// in four chains, 32 bytes at a time, that are folded together.
/// The same on every machine: partitions, sketches and digests are made of it, so it never changes.
uint64_t tl_hash64(const void *data, size_t length, uint64_t seed);

typedef struct {
    uint64_t low;
    uint64_t high;
} tl_hash128_t;

/// Two independent lanes of one chain each, in one pass, for identifiers that must not collide.
tl_hash128_t tl_hash128(const void *data, size_t length, uint64_t seed);

static inline void tl_prefetch_line(const void *address) { __builtin_prefetch(address); }
