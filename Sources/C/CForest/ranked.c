#include "Internal.h"

#include <string.h>

// A single row over ranks, without wide registers: eight trees are walked abreast.

static void rank_row(const cforest *f, const float *row, uint8_t *out) {
    for (int32_t i = 0; i < f->used_count; i++) {
        const used_feature *u = &f->used[i];
        float x = row[u->feature];
        const float *table = f->search + u->search;
        uint32_t at = 1;
        for (int32_t l = 0; l < u->levels; l++) at = 2 * at + (table[at] <= x);
        int32_t rank = (int32_t)(at - (1u << u->levels));
        if (u->plain) {
            out[u->only[0]] = (uint8_t)rank;
            out[u->only[1]] = x != x ? 255 : (uint8_t)rank;
        } else {
            fill_other_columns(f, u, x, rank, out, 1);
        }
    }
}

void ranked_single(const cforest *f, cforest_scratch *s, const float *row, float *totals, float *embedding) {
    uint8_t *bytes = s->single;
    rank_row(f, row, bytes);
    memcpy(totals, f->base, f->group_count * sizeof(float));
    if (embedding) memset(embedding, 0, CFOREST_EMBEDDING * sizeof(float));
    const ranked_node *nodes = f->ranked;
    float first = totals[0];
    for (int32_t t = 0; t < f->tree_count; t += EIGHT) {
        int32_t here = f->tree_count - t < EIGHT ? f->tree_count - t : EIGHT, depth = 0;
        int32_t at[EIGHT] = {0};
        for (int32_t i = 0; i < here; i++) {
            at[i] = f->root[t + i];
            if (f->tree_depth[t + i] > depth) depth = f->tree_depth[t + i];
        }
        for (int32_t d = 0; d < depth; d++) {
            for (int32_t i = 0; i < EIGHT; i++) {
                ranked_node n = nodes[at[i]];
                at[i] = n.left + (bytes[n.column] > n.k);
            }
        }
        float v[EIGHT];
        for (int32_t i = 0; i < here; i++) v[i] = f->plain[at[i]].value;
        if (here == EIGHT) add_leaves(f, t, EIGHT, v, &first, totals, embedding);
        else add_leaves(f, t, here, v, &first, totals, embedding);
    }
    if (f->group_count == 1) totals[0] = first;
}
