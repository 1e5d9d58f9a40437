#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Exact scan of vectors that stand sixteen abreast.
//
// Rows stand in groups of 16: coordinate 0 of the sixteen rows, then coordinate 1, and so on, so that one register
// holds one coordinate of sixteen rows, no sum goes across a register, and one compare says which of sixteen rows beat
// the k-th best so far. All forms do the same operations in the same order and give the same bits.

#define TL_LANES 16

enum tl_metric { TL_SQUARED_L2 = 0, TL_INNER_PRODUCT = 1 };
enum tl_kernel { TL_SCALAR = 0, TL_AVX2 = 1, TL_AVX512 = 2 };

/// One chunk of rows, as structure of arrays. `born` and `died` say from which change on a row is there, and until which.
typedef struct {
    float *vectors;
    uint64_t *ids;
    int64_t *times;
    float *scores;
    uint32_t *flags;
    uint32_t *tenants;
    uint64_t *entities;
    uint32_t *labels;
    uint64_t *born;
    uint64_t *died;
    uint32_t dimensions;
} tl_rows;

/// What a row must be: inclusive ranges, all the bits of `flags_all`, that entity and label, and there at `sequence`.
typedef struct {
    int64_t time_min;
    int64_t time_max;
    float score_min;
    float score_max;
    uint32_t flags_all;
    uint64_t entity;
    uint32_t label;
    bool any_entity;
    bool any_label;
    bool any_score;
    bool is_any;
    uint64_t sequence;
} tl_filter;

typedef struct {
    uint64_t id;
    int64_t time;
    float distance;
    float score;
    uint32_t flags;
    uint32_t tenant;
    uint64_t entity;
    uint32_t label;
} tl_hit;

/// The best so far, nearest first, equal ones by id.
typedef struct {
    tl_hit *hits;
    uint32_t k;
    uint32_t count;
} tl_best;

/// Merges the rows of the first `count` slots that pass into `best`. Distances are squared for L2, negated for products.
void tl_vectors_scan(
    const tl_rows *rows, uint32_t count, const float *query, enum tl_metric metric, const tl_filter *filter,
    tl_best *best);

/// Writes a row into a slot that no reader sees yet.
void tl_vectors_put(
    const tl_rows *rows, uint32_t slot, const float *vector, const tl_hit *fields, uint64_t born);

/// Copies a row from one chunk into a slot of another that no reader sees yet.
void tl_vectors_move(const tl_rows *from, uint32_t slot, const tl_rows *to, uint32_t to_slot);

/// Ends a row at a change; readers of earlier changes see it still.
void tl_vectors_end(const tl_rows *rows, uint32_t slot, uint64_t died);

bool tl_vectors_is_live(const tl_rows *rows, uint32_t slot);

/// Whether a reader of that change sees the row.
bool tl_vectors_was_live(const tl_rows *rows, uint32_t slot, uint64_t sequence);

/// Copies a row's vector.
void tl_vectors_get(const tl_rows *rows, uint32_t slot, float *vector);

/// The sum of squares, in double precision; not finite when a coordinate is not.
double tl_vectors_norm2(const float *vector, uint32_t dimensions);

/// The fastest form that this machine runs, and the one in use.
enum tl_kernel tl_vectors_best_kernel(void);
enum tl_kernel tl_vectors_kernel(void);

/// Chooses a form, for tests; false when the machine can't run it.
bool tl_vectors_use_kernel(enum tl_kernel kernel);
