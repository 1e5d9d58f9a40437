#define _GNU_SOURCE  // qsort_r
#include "Internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

// From checked trees to the compiled form.

typedef struct {
    const cforest_source *in;
    cforest *f;
    int32_t *source_node;   // compiled node -> node of the source
    float *sorted;          // all thresholds, by feature
    int32_t *sorted_first;  // feature -> first of its thresholds
    int32_t *column_of;     // feature and direction and chunk -> column, -1: none
    int32_t *column_first;  // feature -> first of its places in `column_of`
} builder;

static void *zeroed(size_t count, size_t size) {
    size_t bytes = (count * size + 64 + 63) / 64 * 64;
    void *p = aligned_alloc(64, bytes);
    if (p) memset(p, 0, bytes);
    return p;
}

static int by_value(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/// Renumbers what can be reached from the roots, level by level, siblings side by side.
static int number_nodes(builder *b) {
    const cforest_source *in = b->in;
    cforest *f = b->f;
    int32_t used = 0;
    for (int32_t t = 0; t < in->tree_count; t++) {
        int32_t from = used;
        f->root[t] = used;
        b->source_node[used++] = in->first[t];
        int32_t depth = 0, level_end = used;
        for (int32_t n = from; n < used; n++) {
            if (n == level_end) depth++, level_end = used;
            int32_t o = b->source_node[n];
            plain_node *p = &f->plain[n];
            p->value = in->value[o], p->set = -1, p->left = -1;
            if (in->left[o] < 0) continue;
            p->feature = in->feature[o], p->set = in->set[o], p->default_left = in->default_left[o];
            p->left = used;
            b->source_node[used++] = in->left[o];
            b->source_node[used++] = in->right[o];
        }
        f->tree_depth[t] = depth;
        if (depth > f->depth) f->depth = depth;
        for (int32_t n = used - 1; n >= from; n--) {
            plain_node *p = &f->plain[n];
            if (p->left < 0) {
                p->mean = p->value;
                continue;
            }
            float hl = in->hessian[b->source_node[p->left]], hr = in->hessian[b->source_node[p->left + 1]];
            float ml = f->plain[p->left].mean, mr = f->plain[p->left + 1].mean;
            float h = in->hessian[b->source_node[n]];
            if (!(h > 0)) h = hl + hr;
            p->mean = h > 0 ? (ml * hl + mr * hr) / h : (ml + mr) / 2;
        }
    }
    return used;
}

static int collect_thresholds(builder *b, int32_t nodes) {
    cforest *f = b->f;
    int32_t features = f->feature_count;
    int32_t *at = zeroed(features + 2, sizeof *at);
    b->sorted_first = zeroed(features + 2, sizeof *b->sorted_first);
    b->sorted = zeroed(nodes, sizeof(float));
    if (!at || !b->sorted_first || !b->sorted) return free(at), 0;
    for (int32_t n = 0; n < nodes; n++)
        if (f->plain[n].left >= 0 && f->plain[n].set < 0) at[f->plain[n].feature + 1]++;
    for (int32_t i = 0; i < features; i++) at[i + 1] += at[i];
    memcpy(b->sorted_first, at, (features + 1) * sizeof *at);
    for (int32_t n = 0; n < nodes; n++)
        if (f->plain[n].left >= 0 && f->plain[n].set < 0) b->sorted[at[f->plain[n].feature]++] = f->plain[n].value;
    int32_t kept = 0;
    for (int32_t i = 0; i < features; i++) {
        int32_t from = b->sorted_first[i], to = at[i];
        qsort(b->sorted + from, to - from, sizeof(float), by_value);
        b->sorted_first[i] = kept;
        for (int32_t j = from; j < to; j++)
            if (kept == b->sorted_first[i] || b->sorted[kept - 1] != b->sorted[j]) b->sorted[kept++] = b->sorted[j];
    }
    b->sorted_first[features] = kept;
    free(at);
    return 1;
}

/// The index of a threshold among those of its feature.
static int32_t threshold_index(const builder *b, int32_t feature, float value) {
    int32_t low = b->sorted_first[feature], high = b->sorted_first[feature + 1] - 1, from = low;
    while (low < high) {
        int32_t mid = (low + high) / 2;
        if (b->sorted[mid] < value) low = mid + 1;
        else high = mid;
    }
    return low - from;
}

typedef struct {
    int32_t feature, set, direction, node;
} set_use;

static int compare_sets(const cforest *f, const set_use *x, const set_use *y) {
    if (x->feature != y->feature) return x->feature < y->feature ? -1 : 1;
    if (x->direction != y->direction) return x->direction < y->direction ? -1 : 1;
    int32_t xs = f->set_first[x->set], ys = f->set_first[y->set];
    int32_t xn = f->set_first[x->set + 1] - xs, yn = f->set_first[y->set + 1] - ys;
    if (xn != yn) return xn < yn ? -1 : 1;
    return memcmp(f->set_words + xs, f->set_words + ys, xn * sizeof(uint32_t));
}

static int by_set(const void *a, const void *b, void *forest) { return compare_sets(forest, a, b); }

/// Gives every test a column. 0: no memory; 1: done; 2: too many columns, the forest is walked plainly.
static int make_columns(builder *b, int32_t nodes) {
    cforest *f = b->f;
    int32_t features = f->feature_count, places = 0, uses = 0;
    b->column_first = zeroed(features + 1, sizeof *b->column_first);
    if (!b->column_first) return 0;
    for (int32_t i = 0; i < features; i++) {
        b->column_first[i] = places;
        places += 2 * ((b->sorted_first[i + 1] - b->sorted_first[i] + CHUNK - 1) / CHUNK);
    }
    b->column_of = zeroed(places + 1, sizeof *b->column_of);
    set_use *sets = zeroed(nodes, sizeof *sets);
    if (!b->column_of || !sets) return free(sets), 0;
    for (int32_t n = 0; n < nodes; n++) {
        plain_node *p = &f->plain[n];
        if (p->left < 0) continue;
        if (p->set >= 0) {
            sets[uses++] = (set_use){p->feature, p->set, p->default_left, n};
            continue;
        }
        int32_t k = threshold_index(b, p->feature, p->value);
        int32_t place = b->column_first[p->feature] + 2 * (k / CHUNK) + p->default_left;
        b->column_of[place] = 1;
        f->ranked[n].k = k % CHUNK;
    }
    qsort_r(sets, uses, sizeof *sets, by_set, f);
    int32_t made = 0, kinds = 0, seen = 0;
    for (int32_t i = 0; i < places; i++) made += b->column_of[i];
    for (int32_t i = 0; i < uses; i++) kinds += i == 0 || compare_sets(f, &sets[i - 1], &sets[i]) != 0;
    f->column_count = made + kinds;
    if (made + kinds > COLUMNS_MAX) return free(sets), 2;
    f->columns = zeroed(made + kinds, sizeof *f->columns);
    f->used = zeroed(features, sizeof *f->used);
    if (!f->columns || !f->used) return free(sets), 0;
    made = 0;
    for (int32_t i = 0; i < features; i++) {
        used_feature u = {.feature = i, .wide = -1, .column = made, .plain = 1};
        u.thresholds = b->sorted_first[i + 1] - b->sorted_first[i];
        u.only[0] = u.only[1] = f->column_count;
        int32_t chunks = (u.thresholds + CHUNK - 1) / CHUNK;
        for (int32_t c = 0; c < 2 * chunks; c++) {
            int32_t *place = &b->column_of[b->column_first[i] + c];
            if (!*place) continue;
            u.only[1 - (c & 1)] = made;
            f->columns[made] = (column){.base = c / 2 * CHUNK, .set = -1, .missing = c & 1 ? 0 : 255};
            *place = made++;
        }
        u.plain = chunks <= 1;
        for (; seen < uses && sets[seen].feature == i; seen++) {
            if (seen == 0 || compare_sets(f, &sets[seen - 1], &sets[seen]) != 0) {
                uint8_t missing = sets[seen].direction ? 0 : 255;
                f->columns[made++] = (column){.base = -1, .set = sets[seen].set, .missing = missing};
            }
            f->ranked[sets[seen].node].column = made - 1;
            u.plain = 0;
        }
        u.column_end = made;
        if (u.column_end > u.column) f->used[f->used_count++] = u;
    }
    free(sets);
    for (int32_t n = 0; n < nodes; n++) {
        plain_node *p = &f->plain[n];
        ranked_node *r = &f->ranked[n];
        r->left = p->left;
        if (p->left < 0) {
            *r = (ranked_node){.left = n, .k = 255, .leaf = 1};
        } else if (p->set < 0) {
            int32_t k = threshold_index(b, p->feature, p->value);
            r->column = b->column_of[b->column_first[p->feature] + 2 * (k / CHUNK) + p->default_left];
        }
    }
    return 1;
}

static int32_t eytzinger(float *out, int32_t size, int32_t at, const float *sorted, int32_t count, int32_t next) {
    if (at >= size) return next;
    next = eytzinger(out, size, 2 * at, sorted, count, next);
    out[at] = next < count ? sorted[next] : NAN;
    return eytzinger(out, size, 2 * at + 1, sorted, count, next + 1);
}

static int make_tables(builder *b) {
    cforest *f = b->f;
    size_t search = 0, wide = 0;
    for (int32_t i = 0; i < f->used_count; i++) {
        used_feature *u = &f->used[i];
        while ((1 << u->levels) <= u->thresholds) u->levels++;
        u->search = (int32_t)search;
        search += u->levels < 4 ? 16 : (size_t)1 << u->levels;
        if (u->thresholds <= CHUNK) {
            u->wide = (int32_t)wide;
            wide += 16 + 16 * (size_t)(u->thresholds / 16 + 1);
        }
    }
    f->search = zeroed(search, sizeof(float));
    f->wide = zeroed(wide, sizeof(float));
    if (!f->search || !f->wide) return 0;
    for (int32_t i = 0; i < f->used_count; i++) {
        used_feature *u = &f->used[i];
        const float *sorted = b->sorted + b->sorted_first[u->feature];
        for (int32_t j = 0; j < 16; j++) f->search[u->search + j] = NAN;
        eytzinger(f->search + u->search, 1 << u->levels, 1, sorted, u->thresholds, 0);
        if (u->wide < 0) continue;
        float *w = f->wide + u->wide;
        for (int32_t j = 0; j < 16; j++) w[j] = 16 * j + 15 < u->thresholds ? sorted[16 * j + 15] : NAN;
        int32_t room = 16 * (u->thresholds / 16 + 1);
        for (int32_t j = 0; j < room; j++) w[16 + j] = j < u->thresholds ? sorted[j] : NAN;
    }
    return 1;
}

/// Spreads a subtree over the heap below `at`; a leaf that ends early fills all places below itself.
static void spread(const cforest *f, int32_t tree, int32_t node, int32_t at) {
    const ranked_node *r = &f->ranked[node];
    size_t base = (size_t)tree * 64;
    if (at >= 1 << f->levels) {
        union exit *exit = &f->exits[base + at - (1 << f->levels)];
        if (f->path == CFOREST_PATH_BYTES) exit->value = f->plain[node].value;
        else exit->node = node;
        return;
    }
    f->offsets[base + at] = r->leaf ? 0 : (uint32_t)r->column * WIDE;
    f->ks[base + at] = r->k;
    if (f->single_columns) f->single_columns[base + at] = r->leaf ? 0 : (uint8_t)r->column;
    spread(f, tree, r->leaf ? node : r->left, 2 * at);
    spread(f, tree, r->leaf ? node : r->left + 1, 2 * at + 1);
}

static int make_byte_trees(cforest *f) {
    f->path = f->depth <= LEVELS ? CFOREST_PATH_BYTES : CFOREST_PATH_RANKED;
    f->levels = f->depth < 3 ? 3 : f->depth < LEVELS ? f->depth : LEVELS;
    size_t room = ((size_t)f->tree_count + EIGHT) * 64;
    f->offsets = zeroed(room, sizeof *f->offsets);
    f->ks = zeroed(room, 1);
    f->exits = zeroed(room, sizeof *f->exits);
    int single = f->column_count <= SINGLE_COLUMNS_MAX;
    if (single) f->single_columns = zeroed(room, 1);
    if (!f->offsets || !f->ks || !f->exits || (single && !f->single_columns)) return 0;
    for (int32_t t = 0; t < f->tree_count; t++) spread(f, t, f->root[t], 1);
    return 1;
}

static int copy_source(builder *b) {
    const cforest_source *in = b->in;
    cforest *f = b->f;
    size_t trees = (size_t)in->tree_count, nodes = (size_t)in->first[in->tree_count];
    int32_t words = in->set_count > 0 ? in->set_first[in->set_count] : 0;
    f->feature_count = in->feature_count, f->group_count = in->group_count;
    f->link = in->link, f->tree_count = in->tree_count, f->set_count = in->set_count;
    f->base = zeroed(in->group_count, sizeof(float));
    f->tree_group = zeroed(trees, sizeof(int32_t)), f->block = zeroed(trees, sizeof(int32_t));
    f->root = zeroed(trees, sizeof(int32_t)), f->tree_depth = zeroed(trees, sizeof(int32_t));
    f->plain = zeroed(nodes, sizeof(plain_node)), f->ranked = zeroed(nodes, sizeof(ranked_node));
    f->set_first = zeroed(in->set_count + 1, sizeof(int32_t)), f->set_words = zeroed(words, sizeof(uint32_t));
    b->source_node = zeroed(nodes, sizeof(int32_t));
    if (!f->base || !f->tree_group || !f->block || !f->root || !f->tree_depth || !f->plain
        || !f->ranked || !f->set_first || !f->set_words || !b->source_node)
        return 0;
    memcpy(f->base, in->base, in->group_count * sizeof(float));
    if (trees) memcpy(f->tree_group, in->tree_group, trees * sizeof(int32_t));
    if (in->set_count > 0) {
        memcpy(f->set_first, in->set_first, (in->set_count + 1) * sizeof(int32_t));
        if (words) memcpy(f->set_words, in->set_words, words * sizeof(uint32_t));
    }
    for (size_t k = 0; k < CFOREST_EMBEDDING; k++)
        for (size_t t = k * trees / CFOREST_EMBEDDING; t < (k + 1) * trees / CFOREST_EMBEDDING; t++)
            f->block[t] = (int32_t)k;
    return 1;
}

cforest *cforest_build(const cforest_source *in) {
    builder b = {.in = in, .f = zeroed(1, sizeof(cforest))};
    if (!b.f) return NULL;
    int ok = copy_source(&b);
    if (ok) {
        int32_t nodes = number_nodes(&b);
        ok = collect_thresholds(&b, nodes) ? make_columns(&b, nodes) : 0;
        if (ok == 2) b.f->path = CFOREST_PATH_PLAIN, b.f->column_count = 0;
        else if (ok) ok = make_tables(&b) && make_byte_trees(b.f);
    }
    free(b.source_node), free(b.sorted), free(b.sorted_first), free(b.column_of), free(b.column_first);
    if (ok) return b.f;
    cforest_free(b.f);
    return NULL;
}

cforest *cforest_build_linear(int32_t feature_count, int32_t group_count, int32_t link, const float *base,
                              const float *bias, const float *weights) {
    cforest *f = zeroed(1, sizeof *f);
    if (!f) return NULL;
    f->feature_count = feature_count, f->group_count = group_count, f->link = link, f->path = CFOREST_PATH_LINEAR;
    f->base = zeroed(group_count, sizeof(float)), f->bias = zeroed(group_count, sizeof(float));
    f->weights = zeroed((size_t)feature_count * group_count, sizeof(float));
    if (!f->base || !f->bias || !f->weights) return cforest_free(f), NULL;
    memcpy(f->base, base, group_count * sizeof(float));
    memcpy(f->bias, bias, group_count * sizeof(float));
    memcpy(f->weights, weights, (size_t)feature_count * group_count * sizeof(float));
    return f;
}

void cforest_free(cforest *f) {
    if (!f) return;
    void *owned[] = {f->base,    f->tree_group, f->block, f->root,    f->tree_depth, f->plain,  f->set_first,
                     f->set_words, f->ranked,   f->columns, f->used,  f->search,     f->wide,
                     f->offsets, f->ks,         f->exits, f->single_columns, f->weights, f->bias};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) free(owned[i]);
    free(f);
}

cforest_scratch *cforest_scratch_create(const cforest *f) {
    cforest_scratch *s = zeroed(1, sizeof *s);
    if (!s) return NULL;
    s->bytes = zeroed((size_t)f->column_count + 1, WIDE);
    s->totals = zeroed((size_t)f->group_count * WIDE, sizeof(float));
    s->blocks = zeroed(CFOREST_EMBEDDING * WIDE, sizeof(float));
    s->walk = zeroed(WIDE, sizeof(int32_t));
    s->margins = zeroed(f->group_count, sizeof(float));
    s->single = zeroed((size_t)f->column_count + SINGLE_COLUMNS_MAX, 1);
    s->masks = zeroed((size_t)f->tree_count + EIGHT, sizeof(uint64_t));
    if (s->bytes && s->totals && s->blocks && s->walk && s->margins && s->single && s->masks) return s;
    cforest_scratch_free(s);
    return NULL;
}

void cforest_scratch_free(cforest_scratch *s) {
    if (!s) return;
    free(s->bytes), free(s->totals), free(s->blocks), free(s->walk), free(s->margins), free(s->single), free(s->masks);
    free(s);
}

int32_t cforest_path(const cforest *f) { return f->path; }
int32_t cforest_depth(const cforest *f) { return f->depth; }
int32_t cforest_column_count(const cforest *f) { return f->column_count; }
