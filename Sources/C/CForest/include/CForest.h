#pragma once

// Evaluation of compiled tree ensembles.
//
// A tree of at most six levels is 63 compares of bytes: every feature becomes its rank among the thresholds that the
// model has for it, so `x < threshold` is `rank <= k`. Rows are scored 64 abreast; a single row has the answers of a
// whole tree as one mask of 64 bits. Deeper trees walk the same bytes node by node. Sums of leaf values are Float32 in
// the order of the trees, as XGBoost sums them, so all levels give the same bits.

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct cforest cforest;
typedef struct cforest_scratch cforest_scratch;

/// Coordinates of the embedding: the trees are cut into this many consecutive blocks.
#define CFOREST_EMBEDDING 32

/// From margins to outputs.
enum {
    CFOREST_LINK_IDENTITY = 0,
    CFOREST_LINK_LOGISTIC = 1,
    CFOREST_LINK_EXP = 2,
    CFOREST_LINK_HINGE = 3,    // 1 where the margin is above 0, else 0
    CFOREST_LINK_SOFTMAX = 4,  // probabilities over the groups
    CFOREST_LINK_ARGMAX = 5,   // one output: the index of the largest margin, the first of equals
};

/// Instruction sets. `PLAIN` walks nodes and compares floats; the others must equal it bit for bit.
enum {
    CFOREST_LEVEL_PLAIN = 0,
    CFOREST_LEVEL_AVX2 = 1,
    CFOREST_LEVEL_AVX512 = 2,  // f, bw, vl, dq, vbmi
};

/// How an ensemble is evaluated on the present machine; see `cforest_path`.
enum {
    CFOREST_PATH_PLAIN = 0,   // node by node, comparing floats
    CFOREST_PATH_RANKED = 1,  // ranks; some trees are deeper than six levels
    CFOREST_PATH_BYTES = 2,   // ranks; every tree is compares and blends of bytes
    CFOREST_PATH_LINEAR = 3,
};

/// An ensemble whose structure was already checked. Node arrays are shared by all trees; a tree's nodes are
/// `first[t] ..< first[t + 1]`, its root the first of them, children are absolute indices.
typedef struct {
    int32_t feature_count;
    int32_t group_count;  // margins a row
    int32_t link;
    const float *base;  // group_count margins to start from
    int32_t tree_count;
    const int32_t *first;       // tree_count + 1
    const int32_t *tree_group;  // tree_count
    const int32_t *left;        // -1: a leaf
    const int32_t *right;
    const int32_t *feature;
    const float *value;  // threshold, or the leaf's value; a threshold is no NaN
    const uint8_t *default_left;
    const float *hessian;  // cover of each node
    const int32_t *set;    // -1: numerical; else the categories that go right
    int32_t set_count;
    const int32_t *set_first;  // set_count + 1, in words
    const uint32_t *set_words; // bit c of word c / 32: category c goes right
} cforest_source;

/// Compiles an ensemble. NULL only when memory is short.
cforest *cforest_build(const cforest_source *source);

/// A linear model: margin g is bias[g] + base[g] + sum of x[f] * weights[f * group_count + g], missing values left out.
cforest *cforest_build_linear(int32_t feature_count, int32_t group_count, int32_t link, const float *base,
                              const float *bias, const float *weights);

void cforest_free(cforest *forest);

/// Working memory of one thread for one forest.
cforest_scratch *cforest_scratch_create(const cforest *forest);
void cforest_scratch_free(cforest_scratch *scratch);

/// Scores `count` rows of `stride` floats each (NaN: missing). Writes group_count outputs a row (one for ARGMAX), and,
/// where `embeddings` is given, CFOREST_EMBEDDING floats a row. No allocation, no lock.
void cforest_evaluate(const cforest *forest, cforest_scratch *scratch, const float *rows, size_t count, size_t stride,
                      float *outputs, float *embeddings);

/// The same without the link: group_count margins a row.
void cforest_margins(const cforest *forest, cforest_scratch *scratch, const float *rows, size_t count, size_t stride,
                     float *margins);

/// Contributions of each feature to one group's margin: the change of the expected value at each split of the path
/// (Saabas), weighted by cover. Adds into `out`, which has feature_count + 1 places; the last is the expected value
/// before any split, base included.
void cforest_contributions(const cforest *forest, const float *row, int32_t group, float *out);

/// The level in use; `cforest_force_level` overrides it for tests and benchmarks (-1: as detected) and returns the
/// level that is then in use, never above what the machine has.
int32_t cforest_level(void);
int32_t cforest_force_level(int32_t level);

int32_t cforest_path(const cforest *forest);
int32_t cforest_depth(const cforest *forest);
int32_t cforest_column_count(const cforest *forest);

/// The float nearest to `digits * 10^exponent`, rounded once, ties to even. `text` is the same number in decimal,
/// terminated by a NUL: it is read only where the quick way can't decide.
float cforest_decimal(uint64_t digits, int32_t exponent, int32_t exact, const char *text);

/// The C library's `-log(1 / p - 1)` and `log(x)` in Float32: base scores become margins as XGBoost makes them.
float cforest_logit(float p);
float cforest_log(float x);

#ifdef __cplusplus
}
#endif
