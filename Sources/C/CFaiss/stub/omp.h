#pragma once

// What FAISS's headers ask of OpenMP, for a compiler that has none: the library itself was built with GCC's, and its
// libgomp is linked. The lock is one int there (GCC's `omp_lock_t` on Linux).

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    unsigned char _x[4] __attribute__((aligned(4)));
} omp_lock_t;

void omp_init_lock(omp_lock_t *);
void omp_destroy_lock(omp_lock_t *);
void omp_set_lock(omp_lock_t *);
void omp_unset_lock(omp_lock_t *);
void omp_set_num_threads(int);
int omp_get_max_threads(void);
int omp_get_num_threads(void);
int omp_get_thread_num(void);

#ifdef __cplusplus
}
#endif
