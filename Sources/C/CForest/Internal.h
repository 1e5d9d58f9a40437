#pragma once

#include "CForest.h"

// The compiled form. All arrays are owned by the forest.

#define WIDE 64       // rows abreast
#define LEVELS 6      // of a tree that is evaluated in bytes
#define CHUNK 255     // thresholds that one byte column can tell apart
#define COLUMNS_MAX 4096
#define SINGLE_COLUMNS_MAX 256
#define EIGHT 8       // trees abreast for a single row

/// A node of the plain walk. The right child follows the left one.
typedef struct {
    float value;
    int32_t feature;  // of a leaf: 0
    int32_t left;     // -1: a leaf
    int32_t set;      // -1: numerical
    uint8_t default_left;
    float mean;  // expected value below the node, weighted by cover
} plain_node;

/// A node of the walk over ranks: go right where the column's byte is greater than k. A leaf leads to itself.
typedef struct {
    int32_t left;
    uint16_t column;
    uint8_t k;
    uint8_t leaf;
} ranked_node;

/// A column of bytes, one byte a row.
typedef struct {
    int32_t base;  // thresholds below the first of this column; -1: a set of categories
    int32_t set;
    uint8_t missing;  // the byte of a missing value: 0 goes left everywhere, 255 right
} column;

/// Where a tree's first levels lead to.
union exit {
    float value;
    int32_t node;
};

/// A feature that some split asks for.
typedef struct {
    int32_t feature;
    int32_t thresholds;
    int32_t levels;  // of the binary search: 2^levels > thresholds
    int32_t search;  // offset in `search`: Eytzinger order, index 1 is the root, filled up with NaN
    int32_t wide;    // offset in `wide`: 16 pivots, then the thresholds in order; -1: more than CHUNK of them
    int32_t column, column_end;
    int32_t only[2];  // where one column a direction suffices: column of missing = 0 and of 255, else the spare one
    uint8_t plain;    // 1: `only` tells all
} used_feature;

struct cforest {
    int32_t feature_count, group_count, link, tree_count, depth, path;
    float *base;
    int32_t *tree_group;
    int32_t *block;  // tree -> coordinate of the embedding

    int32_t *root;       // tree -> its root in `plain` and `ranked`
    int32_t *tree_depth;
    plain_node *plain;
    int32_t set_count;
    int32_t *set_first;
    uint32_t *set_words;

    ranked_node *ranked;  // same numbers as `plain`
    int32_t column_count;
    column *columns;
    int32_t used_count;
    used_feature *used;
    float *search;
    float *wide;

    // The first `levels` levels of each tree, in heap order: node j has the children 2j and 2j + 1.
    int32_t levels;        // of the deepest tree, LEVELS at most
    uint32_t *offsets;     // 64 a tree: column * WIDE
    uint8_t *ks;           // 64 a tree
    union exit *exits;     // 64 a tree: leaf values, or, of a forest that is deeper, the nodes to go on from
    uint8_t *single_columns;  // 64 a tree, where there are at most SINGLE_COLUMNS_MAX columns

    float *weights;  // linear: feature_count * group_count
    float *bias;
};

struct cforest_scratch {
    uint8_t *bytes;     // column_count + 1 columns of WIDE rows
    float *totals;      // group_count * WIDE
    float *blocks;      // CFOREST_EMBEDDING * WIDE
    int32_t *walk;      // WIDE or more
    float *margins;     // group_count
    uint8_t *single;    // column_count + 64 bytes
    uint64_t *masks;    // a tree's answers; tree_count, to the next eight
};

/// Adds the leaf values of consecutive trees in their order. A single sum stays in a register: through memory, the
/// additions of one tree after another would be most of a row's time.
static inline void add_leaves(const cforest *f, int32_t tree, int32_t count, const float *v, float *first,
                              float *totals, float *embedding) {
    if (f->group_count == 1)
        for (int32_t i = 0; i < count; i++) *first += v[i];
    else
        for (int32_t i = 0; i < count; i++) totals[f->tree_group[tree + i]] += v[i];
    if (embedding)
        for (int32_t i = 0; i < count; i++) embedding[f->block[tree + i]] += v[i];
}

// Shared by the levels.
float plain_leaf(const cforest *f, int32_t tree, const float *row);
int goes_right_in_set(const cforest *f, int32_t set, float x);
void plain_row(const cforest *f, const float *row, float *totals, float *embedding);
void link_row(const cforest *f, const float *margins, float *out);
void fill_other_columns(const cforest *f, const used_feature *u, float x, int32_t rank, uint8_t *out, size_t step);

void avx2_block(const cforest *f, cforest_scratch *s, const float *rows, size_t count, size_t stride, int blocks);
void avx512_block(const cforest *f, cforest_scratch *s, const float *rows, size_t count, size_t stride, int blocks);
void ranked_single(const cforest *f, cforest_scratch *s, const float *row, float *totals, float *embedding);
void avx512_single(const cforest *f, cforest_scratch *s, const float *row, float *totals, float *embedding);
