#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "CColumns.h"

// Nearest neighbours over an HNSW graph (Malkov, Yashunin 2016) whose file FAISS reads; building and searching are our
// own. No exception leaves this header's functions, and no file is trusted.
//
// A node is one vector; `dimensions` floats. Distances: squared Euclidean; the negated inner product; one minus the
// cosine (vectors and queries at length 1, half of the squared Euclidean distance). The least is the nearest.

#ifdef __cplusplus
extern "C" {
#endif

#define TL_GRAPH_DIMENSIONS_MIN 2
#define TL_GRAPH_DIMENSIONS_MAX 1536

enum tl_graph_metric { TL_GRAPH_SQUARED_L2 = 0, TL_GRAPH_INNER_PRODUCT = 1, TL_GRAPH_COSINE = 2 };
enum tl_graph_kernel { TL_GRAPH_SCALAR = 0, TL_GRAPH_AVX2 = 1, TL_GRAPH_AVX512 = 2 };

/// Why something failed; written where a function says so.
typedef struct {
    char text[240];
} tl_graph_error;

typedef struct tl_graph tl_graph;
/// Room for one search at a time.
typedef struct tl_seeker tl_seeker;

// MARK: Building

typedef struct {
    uint32_t dimensions;
    enum tl_graph_metric metric;
    /// Links a node gets while it is inserted (HNSW's M), on the ground level twice as many.
    uint32_t links;
    /// How wide they are looked for (efConstruction).
    uint32_t effort;
    /// Links a node has on the ground level in the end.
    uint32_t links_max;
    /// At least 1. They end with the call.
    uint32_t threads;
} tl_graph_plan;

/// Groups equal rows, bit for bit but for the sign of zero: `node_of[row]` counts groups in the order of their first rows.
///
/// - Returns: the number of groups; 0 with an error when memory is short.
uint32_t tl_graph_group(
    const float *rows, uint32_t count, uint32_t dimensions, uint32_t *node_of, tl_graph_error *error);

/// Builds the graph of `count` vectors, none of which is NaN or infinite (for the cosine: each of length 1), and writes it
/// to a file that FAISS opens as an `IndexHNSWFlat`. Nodes are numbered depth first: node i is row `order[i]`.
bool tl_graph_build(
    const float *rows, uint32_t count, const tl_graph_plan *plan, const char *path, uint32_t *order,
    tl_graph_error *error);

// MARK: Opening

/// Opens a graph from a file and checks all of its structure: sizes before anything is allocated, links, levels, numbers.
///
/// - Parameter resident: whether the floats are copied into memory; otherwise they stay mapped from the file.
tl_graph *tl_graph_open(const char *path, enum tl_graph_metric metric, bool resident, tl_graph_error *error);
void tl_graph_close(tl_graph *graph);

typedef struct {
    uint32_t nodes;
    uint32_t dimensions;
    enum tl_graph_metric metric;
    uint64_t link_bytes;
    uint64_t code_bytes;
    /// In memory; 0 when they are mapped.
    uint64_t float_bytes;
    /// Sampled starts.
    uint64_t entry_bytes;
    /// Of the FAISS part of the file.
    uint64_t file_bytes;
} tl_graph_facts;

tl_graph_facts tl_graph_describe(const tl_graph *graph);

/// The whole file, mapped as long as the graph is open.
const uint8_t *tl_graph_file(const tl_graph *graph, size_t *length);

/// Reads the last bytes of a file into `bytes`.
///
/// - Returns: the length of the file; 0 when it is shorter than `count` or can't be read.
uint64_t tl_file_end(const char *path, uint8_t *bytes, size_t count);

/// Copies a node's vector.
void tl_graph_vector(const tl_graph *graph, uint32_t node, float *vector);

// MARK: Searching

typedef struct {
    float distance;
    uint32_t node;
} tl_found;

/// Whether a node may be a result; called for nodes near enough to be one.
typedef bool (*tl_graph_passes)(const void *context, uint32_t node);

typedef struct {
    uint32_t k;
    /// Stops where the nearest open candidate is farther than (1 + gamma) times the k-th best so far.
    float gamma;
    /// Nodes whose neighbours are looked at, at most.
    uint32_t expansions_max;
    /// How many of the nearest by code are compared again by floats; at least k.
    uint32_t rerank;
    /// Null: all pass.
    tl_graph_passes passes;
    const void *context;
    /// A node that is treated as if it were not there, or UINT32_MAX.
    uint32_t excluded;
    /// Null, or what an answer tells of each node: it is asked for while the nearest are compared.
    const tl_row *rows;
} tl_seek;

tl_seeker *tl_seeker_make(void);
void tl_seeker_free(tl_seeker *seeker);

/// The k nearest nodes that pass, nearest first, equal ones by number. Starts no thread; allocates only to grow the seeker.
///
/// - Returns: how many were found, or UINT32_MAX when memory is short.
uint32_t tl_graph_search(
    const tl_graph *graph, tl_seeker *seeker, const float *query, const tl_seek *seek, tl_found *found);

/// Asks for the first rows of nodes that were found, before they are read one by one.
void tl_rows_prefetch(const uint32_t *first, const tl_row *rows, const tl_found *found, uint32_t count);

/// Nodes whose neighbours the last search looked at; it ended early when that is `expansions_max`.
uint32_t tl_seeker_expansions(const tl_seeker *seeker);

/// The same exactly: compares the floats of each node of `nodes`, or of all when it is null.
uint32_t tl_graph_scan(
    const tl_graph *graph, const float *query, const uint32_t *nodes, uint32_t count, uint32_t k,
    tl_graph_passes passes, const void *context, uint32_t excluded, tl_found *found);

/// The k nearest of each of some nodes among all others, exactly; `found` has k places for each, filled whole when the graph
/// has more than k nodes. `threads` end with the call.
bool tl_graph_truth(
    const tl_graph *graph, const uint32_t *nodes, uint32_t count, uint32_t k, uint32_t threads, tl_found *found,
    tl_graph_error *error);

/// Distance of a query and a node by their codes, for tests: all kernels give the same.
uint32_t tl_graph_code_distance(const tl_graph *graph, const float *query, uint32_t node);

/// Searches a file by FAISS alone, as another tool would; `found` has room for k. For tests and benchmarks.
bool tl_graph_faiss_search(
    const char *path, const float *query, uint32_t k, uint32_t effort, tl_found *found, tl_graph_error *error);

// MARK: Kernels

enum tl_graph_kernel tl_graph_best_kernel(void);
enum tl_graph_kernel tl_graph_current_kernel(void);
/// Chooses a form for the whole process, for tests; false when the machine can't run it.
bool tl_graph_use_kernel(enum tl_graph_kernel kernel);

#ifdef __cplusplus
}
#endif
