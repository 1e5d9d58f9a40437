#include "CVectors.h"

#include <math.h>
#include <stdatomic.h>
#include <string.h>

typedef float v16f __attribute__((vector_size(64)));
typedef int32_t v16i __attribute__((vector_size(64)));

// MARK: The k best

static bool is_before(float distance, uint64_t id, const tl_hit *other) {
    return distance < other->distance || (distance == other->distance && id < other->id);
}

static void keep(tl_best *best, const tl_rows *rows, uint32_t slot, float distance) {
    uint64_t id = rows->ids[slot];
    if (best->count == best->k && !is_before(distance, id, &best->hits[best->k - 1])) return;
    uint32_t low = 0, high = best->count;
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        if (is_before(distance, id, &best->hits[middle])) high = middle; else low = middle + 1;
    }
    uint32_t last = best->count < best->k ? best->count++ : best->k - 1;
    memmove(best->hits + low + 1, best->hits + low, (size_t)(last - low) * sizeof(tl_hit));
    best->hits[low] = (tl_hit){
        .id = id, .time = rows->times[slot], .distance = distance, .score = rows->scores[slot],
        .flags = rows->flags[slot], .tenant = rows->tenants[slot], .entity = rows->entities[slot],
        .label = rows->labels[slot]};
}

static inline bool is_there(const tl_rows *rows, uint32_t slot, uint64_t sequence) {
    return __atomic_load_n(&rows->born[slot], __ATOMIC_RELAXED) <= sequence
        && __atomic_load_n(&rows->died[slot], __ATOMIC_RELAXED) > sequence;
}

// MARK: The scan, one body for all forms

#define INLINE static inline __attribute__((always_inline))

/// Which rows of a group pass the filter's ranges; bit by lane.
INLINE uint32_t passing(const tl_rows *rows, uint32_t first, const tl_filter *filter) {
    uint32_t mask = 0;
    for (uint32_t lane = 0; lane < TL_LANES; lane++) {
        uint32_t slot = first + lane;
        bool in_time = (rows->times[slot] >= filter->time_min) & (rows->times[slot] <= filter->time_max);
        bool in_score =
            filter->any_score | ((rows->scores[slot] >= filter->score_min) & (rows->scores[slot] <= filter->score_max));
        bool flagged = (rows->flags[slot] & filter->flags_all) == filter->flags_all;
        bool named = (filter->any_entity | (rows->entities[slot] == filter->entity))
            & (filter->any_label | (rows->labels[slot] == filter->label));
        mask |= (uint32_t)(in_time & in_score & flagged & named) << lane;
    }
    return mask;
}

INLINE bool any(const v16i *lanes) {
    return __builtin_reduce_or(*lanes) != 0;
}

/// Sixteen squared distances; false when every partial sum is beyond `limit` already, as sums of squares only grow.
INLINE bool squared_l2(const float *group, const float *query, uint32_t dimensions, float limit, v16f *result) {
    v16f a0 = {0}, a1 = {0}, a2 = {0}, a3 = {0};
    const v16f *rows = (const v16f *)group;
    uint32_t d = 0;
    while (d + 4 <= dimensions) {
        uint32_t end = d + 16 <= dimensions ? d + 16 : dimensions - dimensions % 4;
        for (; d < end; d += 4) {
            v16f x0 = rows[d] - query[d], x1 = rows[d + 1] - query[d + 1];
            v16f x2 = rows[d + 2] - query[d + 2], x3 = rows[d + 3] - query[d + 3];
            a0 += x0 * x0;
            a1 += x1 * x1;
            a2 += x2 * x2;
            a3 += x3 * x3;
        }
        if (d < dimensions) {
            v16i near = ((a0 + a1) + (a2 + a3)) <= limit;
            if (!any(&near)) return false;
        }
    }
    if (d < dimensions) { v16f x = rows[d] - query[d]; a0 += x * x; }
    if (d + 1 < dimensions) { v16f x = rows[d + 1] - query[d + 1]; a1 += x * x; }
    if (d + 2 < dimensions) { v16f x = rows[d + 2] - query[d + 2]; a2 += x * x; }
    *result = (a0 + a1) + (a2 + a3);
    return true;
}

INLINE void negated_product(const float *group, const float *query, uint32_t dimensions, v16f *result) {
    v16f a0 = {0}, a1 = {0}, a2 = {0}, a3 = {0};
    const v16f *rows = (const v16f *)group;
    uint32_t d = 0;
    for (; d + 4 <= dimensions; d += 4) {
        a0 += rows[d] * query[d];
        a1 += rows[d + 1] * query[d + 1];
        a2 += rows[d + 2] * query[d + 2];
        a3 += rows[d + 3] * query[d + 3];
    }
    if (d < dimensions) a0 += rows[d] * query[d];
    if (d + 1 < dimensions) a1 += rows[d + 1] * query[d + 1];
    if (d + 2 < dimensions) a2 += rows[d + 2] * query[d + 2];
    *result = -((a0 + a1) + (a2 + a3));
}

INLINE void scan(
    const tl_rows *rows, uint32_t count, const float *query, enum tl_metric metric, const tl_filter *filter,
    tl_best *best) {
    const uint32_t dimensions = rows->dimensions;
    float limit = best->count == best->k ? best->hits[best->k - 1].distance : INFINITY;
    for (uint32_t first = 0; first < count; first += TL_LANES) {
        uint32_t allowed = count - first >= TL_LANES ? 0xFFFF : (1u << (count - first)) - 1;
        if (!filter->is_any) {
            allowed &= passing(rows, first, filter);
            if (allowed == 0) continue;
        }
        const float *group = rows->vectors + (size_t)first * dimensions;
        v16f distances;
        if (metric == TL_SQUARED_L2) {
            if (!squared_l2(group, query, dimensions, limit, &distances)) continue;
        } else {
            negated_product(group, query, dimensions, &distances);
        }
        v16i near = distances <= limit;
        if (!any(&near)) continue;
        for (uint32_t rest = allowed; rest != 0; rest &= rest - 1) {
            uint32_t lane = (uint32_t)__builtin_ctz(rest);
            if (near[lane] != 0 && is_there(rows, first + lane, filter->sequence))
                keep(best, rows, first + lane, distances[lane]);
        }
        if (best->count == best->k) limit = best->hits[best->k - 1].distance;
    }
}

static void scan_scalar(
    const tl_rows *rows, uint32_t count, const float *query, enum tl_metric metric, const tl_filter *filter,
    tl_best *best) {
    scan(rows, count, query, metric, filter, best);
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) static void scan_avx2(
    const tl_rows *rows, uint32_t count, const float *query, enum tl_metric metric, const tl_filter *filter,
    tl_best *best) {
    scan(rows, count, query, metric, filter, best);
}

__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl"))) static void scan_avx512(
    const tl_rows *rows, uint32_t count, const float *query, enum tl_metric metric, const tl_filter *filter,
    tl_best *best) {
    scan(rows, count, query, metric, filter, best);
}
#endif

// MARK: The choice

static _Atomic int chosen = -1;

enum tl_kernel tl_vectors_best_kernel(void) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq")
        && __builtin_cpu_supports("avx512vl"))
        return TL_AVX512;
    if (__builtin_cpu_supports("avx2")) return TL_AVX2;
#endif
    return TL_SCALAR;
}

enum tl_kernel tl_vectors_kernel(void) {
    int kernel = atomic_load_explicit(&chosen, memory_order_relaxed);
    if (kernel < 0) {
        kernel = (int)tl_vectors_best_kernel();
        atomic_store_explicit(&chosen, kernel, memory_order_relaxed);
    }
    return (enum tl_kernel)kernel;
}

bool tl_vectors_use_kernel(enum tl_kernel kernel) {
    if (kernel > tl_vectors_best_kernel()) return false;
    atomic_store_explicit(&chosen, (int)kernel, memory_order_relaxed);
    return true;
}

void tl_vectors_scan(
    const tl_rows *rows, uint32_t count, const float *query, enum tl_metric metric, const tl_filter *filter,
    tl_best *best) {
    if (best->k == 0) return;
    switch (tl_vectors_kernel()) {
#if defined(__x86_64__)
    case TL_AVX512: scan_avx512(rows, count, query, metric, filter, best); break;
    case TL_AVX2: scan_avx2(rows, count, query, metric, filter, best); break;
#endif
    default: scan_scalar(rows, count, query, metric, filter, best); break;
    }
}

// MARK: Writing

static float *lane_of(const tl_rows *rows, uint32_t slot) {
    return rows->vectors + (size_t)(slot - slot % TL_LANES) * rows->dimensions + slot % TL_LANES;
}

void tl_vectors_put(
    const tl_rows *rows, uint32_t slot, const float *vector, const tl_hit *fields, uint64_t born) {
    float *lane = lane_of(rows, slot);
    for (uint32_t d = 0; d < rows->dimensions; d++) lane[(size_t)d * TL_LANES] = vector[d];
    rows->ids[slot] = fields->id;
    rows->times[slot] = fields->time;
    rows->scores[slot] = fields->score;
    rows->flags[slot] = fields->flags;
    rows->tenants[slot] = fields->tenant;
    rows->entities[slot] = fields->entity;
    rows->labels[slot] = fields->label;
    __atomic_store_n(&rows->died[slot], UINT64_MAX, __ATOMIC_RELAXED);
    __atomic_store_n(&rows->born[slot], born, __ATOMIC_RELEASE);
}

void tl_vectors_move(const tl_rows *from, uint32_t slot, const tl_rows *to, uint32_t to_slot) {
    const float *source = lane_of(from, slot);
    float *target = lane_of(to, to_slot);
    for (uint32_t d = 0; d < from->dimensions; d++) target[(size_t)d * TL_LANES] = source[(size_t)d * TL_LANES];
    to->ids[to_slot] = from->ids[slot];
    to->times[to_slot] = from->times[slot];
    to->scores[to_slot] = from->scores[slot];
    to->flags[to_slot] = from->flags[slot];
    to->tenants[to_slot] = from->tenants[slot];
    to->entities[to_slot] = from->entities[slot];
    to->labels[to_slot] = from->labels[slot];
    __atomic_store_n(&to->died[to_slot], UINT64_MAX, __ATOMIC_RELAXED);
    __atomic_store_n(&to->born[to_slot], from->born[slot], __ATOMIC_RELEASE);
}

void tl_vectors_end(const tl_rows *rows, uint32_t slot, uint64_t died) {
    __atomic_store_n(&rows->died[slot], died, __ATOMIC_RELEASE);
}

bool tl_vectors_is_live(const tl_rows *rows, uint32_t slot) {
    return __atomic_load_n(&rows->died[slot], __ATOMIC_RELAXED) == UINT64_MAX;
}

bool tl_vectors_was_live(const tl_rows *rows, uint32_t slot, uint64_t sequence) {
    return __atomic_load_n(&rows->born[slot], __ATOMIC_ACQUIRE) <= sequence
        && __atomic_load_n(&rows->died[slot], __ATOMIC_ACQUIRE) > sequence;
}

void tl_vectors_get(const tl_rows *rows, uint32_t slot, float *vector) {
    const float *source = lane_of(rows, slot);
    for (uint32_t d = 0; d < rows->dimensions; d++) vector[d] = source[(size_t)d * TL_LANES];
}

double tl_vectors_norm2(const float *vector, uint32_t dimensions) {
    double sum = 0;
    for (uint32_t d = 0; d < dimensions; d++) sum += (double)vector[d] * (double)vector[d];
    return sum;
}
