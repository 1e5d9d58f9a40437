#pragma once
#include <stdbool.h>
#include <stdint.h>

// The rows behind a graph's nodes, and which of them a search may find. Rows of one node, which are those of one vector,
// stand together.

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    /// The first row of each node, nodes + 1.
    const uint32_t *first;
    const int64_t *times;
    const float *scores;
    const uint32_t *labels;
    const uint64_t *entities;
    /// Null, or a bit a row: set when the row is superseded or deleted. Read and set atomically.
    uint64_t *dead;
} tl_columns;

/// A row as an answer tells it: half a line of the cache, where each column would be a line of its own.
typedef struct {
    uint64_t id;
    int64_t time;
    uint64_t entity;
    float score;
    uint32_t label;
} tl_row;

/// The rows of columns one after the other, in memory; null when that is short.
tl_row *tl_rows_make(const tl_columns *columns, const uint64_t *ids, uint32_t count);
void tl_rows_free(tl_row *rows, uint32_t count);

/// Inclusive ranges. A score that is no number passes `any_score` alone.
typedef struct {
    int64_t time_min;
    int64_t time_max;
    float score_min;
    float score_max;
    uint64_t entity;
    uint32_t label;
    bool any_score;
    bool any_entity;
    bool any_label;
} tl_row_filter;

typedef struct {
    tl_columns columns;
    tl_row_filter filter;
} tl_row_rule;

bool tl_row_passes(const tl_row_rule *rule, uint32_t row);

/// Whether one of a node's rows passes; `rule` is a `tl_row_rule`.
bool tl_node_passes(const void *rule, uint32_t node);

/// Of `rows`, the nodes of those that pass, each once where its rows follow each other. Returns how many.
uint32_t tl_passing_nodes(
    const tl_row_rule *rule, const uint32_t *node_of, const uint32_t *rows, uint32_t count, uint32_t *nodes);

/// Marks a row dead; false when it was.
bool tl_row_end(uint64_t *dead, uint32_t row);

bool tl_row_is_dead(const uint64_t *dead, uint32_t row);

#ifdef __cplusplus
}
#endif
