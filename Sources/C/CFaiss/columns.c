#include "CColumns.h"

#include <stddef.h>
#include <sys/mman.h>

bool tl_row_is_dead(const uint64_t *dead, uint32_t row) {
    return __atomic_load_n(&dead[row / 64], __ATOMIC_RELAXED) >> (row % 64) & 1;
}

bool tl_row_end(uint64_t *dead, uint32_t row) {
    const uint64_t bit = (uint64_t)1 << (row % 64);
    return (__atomic_fetch_or(&dead[row / 64], bit, __ATOMIC_RELEASE) & bit) == 0;
}

tl_row *tl_rows_make(const tl_columns *columns, const uint64_t *ids, uint32_t count) {
    const size_t bytes = count * sizeof(tl_row);
    tl_row *rows = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (rows == MAP_FAILED) return NULL;
    // Where the system has no huge pages, small ones serve.
    if (bytes >= 1 << 21) (void)madvise(rows, bytes, MADV_HUGEPAGE);
    for (uint32_t i = 0; i < count; i++)
        rows[i] = (tl_row){ids[i], columns->times[i], columns->entities[i], columns->scores[i], columns->labels[i]};
    return rows;
}

void tl_rows_free(tl_row *rows, uint32_t count) {
    if (rows != NULL) munmap(rows, count * sizeof(tl_row));
}

bool tl_row_passes(const tl_row_rule *rule, uint32_t row) {
    const tl_columns *c = &rule->columns;
    const tl_row_filter *f = &rule->filter;
    return (c->dead == NULL || !tl_row_is_dead(c->dead, row)) && c->times[row] >= f->time_min
        && c->times[row] <= f->time_max && (f->any_entity || c->entities[row] == f->entity)
        && (f->any_label || c->labels[row] == f->label)
        && (f->any_score || (c->scores[row] >= f->score_min && c->scores[row] <= f->score_max));
}

bool tl_node_passes(const void *rule, uint32_t node) {
    const tl_row_rule *r = rule;
    for (uint32_t row = r->columns.first[node]; row < r->columns.first[node + 1]; row++)
        if (tl_row_passes(r, row)) return true;
    return false;
}

uint32_t tl_passing_nodes(
    const tl_row_rule *rule, const uint32_t *node_of, const uint32_t *rows, uint32_t count, uint32_t *nodes) {
    uint32_t kept = 0;
    for (uint32_t i = 0; i < count; i++) {
        if (!tl_row_passes(rule, rows[i])) continue;
        const uint32_t node = node_of[rows[i]];
        nodes[kept] = node;
        kept += kept == 0 || nodes[kept - 1] != node;
    }
    return kept;
}
