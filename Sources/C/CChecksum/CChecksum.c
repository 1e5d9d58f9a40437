#include "CChecksum.h"

#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

static uint32_t table[8][256];

// Filled before main: no lock on the path of a batch.
__attribute__((constructor)) static void fill_table(void) {
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;
        for (int bit = 0; bit < 8; bit++) c = (c & 1) ? (c >> 1) ^ 0x82F63B78u : c >> 1;
        table[0][i] = c;
    }
    for (uint32_t i = 0; i < 256; i++)
        for (int k = 1; k < 8; k++) table[k][i] = (table[k - 1][i] >> 8) ^ table[0][table[k - 1][i] & 0xFF];
}

uint32_t tl_crc32c_table(uint32_t crc, const void *data, size_t length) {
    const uint8_t *p = data;
    uint32_t c = ~crc;
    while (length >= 8) {
        uint64_t w;
        memcpy(&w, p, 8);
        w ^= c;
        c = table[7][w & 0xFF] ^ table[6][(w >> 8) & 0xFF] ^ table[5][(w >> 16) & 0xFF] ^ table[4][(w >> 24) & 0xFF] ^
            table[3][(w >> 32) & 0xFF] ^ table[2][(w >> 40) & 0xFF] ^ table[1][(w >> 48) & 0xFF] ^ table[0][w >> 56];
        p += 8;
        length -= 8;
    }
    while (length--) c = (c >> 8) ^ table[0][(c ^ *p++) & 0xFF];
    return ~c;
}

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) static uint32_t crc32c_sse(uint32_t crc, const void *data, size_t length) {
    const uint8_t *p = data;
    uint64_t c = ~crc;
    while (length >= 8) {
        uint64_t w;
        memcpy(&w, p, 8);
        c = _mm_crc32_u64(c, w);
        p += 8;
        length -= 8;
    }
    while (length--) c = _mm_crc32_u8((uint32_t)c, *p++);
    return ~(uint32_t)c;
}
#endif

uint32_t tl_crc32c(uint32_t crc, const void *data, size_t length) {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("sse4.2")) return crc32c_sse(crc, data, length);
#endif
    return tl_crc32c_table(crc, data, length);
}

static const uint64_t K0 = 0x9E3779B97F4A7C15ull;
static const uint64_t K1 = 0xE7037ED1A0B428DBull;
static const uint64_t K2 = 0x8EBC6AF09C88C6E3ull;

static inline uint64_t fold(uint64_t a, uint64_t b) {
    __uint128_t product = (__uint128_t)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static inline uint64_t word(const uint8_t *p) {
    uint64_t w;
    memcpy(&w, p, 8);
    return w;
}

/// The last `left` (1 to 7) bytes of `length`, in the low bytes of a word.
static inline uint64_t tail_word(const uint8_t *p, size_t left, size_t length) {
    if (length >= 8) return word(p + left - 8) >> (8 * (8 - left));
    uint64_t w = 0;
    for (size_t i = 0; i < left; i++) w |= (uint64_t)p[i] << (8 * i);
    return w;
}

uint64_t tl_hash64(const void *data, size_t length, uint64_t seed) {
    const uint8_t *p = data;
    uint64_t h = seed ^ K0;
    size_t left = length;
    if (left >= 64) {
        // Four chains side by side: a single one waits for each multiplication.
        uint64_t a = h, b = h + K1, c = h + K2, d = h ^ K2;
        for (; left >= 32; left -= 32, p += 32) {
            a = fold(a ^ word(p), K1);
            b = fold(b ^ word(p + 8), K1);
            c = fold(c ^ word(p + 16), K1);
            d = fold(d ^ word(p + 24), K1);
        }
        h = fold(a ^ fold(b ^ fold(c ^ d, K1), K1), K1);
    }
    for (; left >= 8; left -= 8, p += 8) h = fold(h ^ word(p), K1);
    if (left) h = fold(h ^ tail_word(p, left, length), K1);
    return fold(h ^ length, K2);
}

tl_hash128_t tl_hash128(const void *data, size_t length, uint64_t seed) {
    const uint8_t *p = data;
    uint64_t a = seed ^ K0, b = (seed + K2) ^ K1;
    size_t left = length;
    for (; left >= 8; left -= 8, p += 8) {
        uint64_t w = word(p);
        a = fold(a ^ w, K1);
        b = fold(b ^ w, K2);
    }
    if (left) {
        uint64_t w = tail_word(p, left, length);
        a = fold(a ^ w, K1);
        b = fold(b ^ w, K2);
    }
    tl_hash128_t out = {fold(a ^ length, K2), fold(b ^ length, K0 | 1)};
    return out;
}
