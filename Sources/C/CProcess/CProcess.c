#define _GNU_SOURCE
#include "CProcess.h"

#include <malloc.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

int tl_end_with_parent(void) { return prctl(PR_SET_PDEATHSIG, SIGTERM); }

int tl_lower_priority(void) { return setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), 19); }

void tl_limit_arenas(int count) { mallopt(M_ARENA_MAX, count); }
