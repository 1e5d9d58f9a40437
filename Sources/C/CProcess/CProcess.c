#include "CProcess.h"

#include <malloc.h>
#include <signal.h>
#include <sys/prctl.h>

int tl_end_with_parent(void) { return prctl(PR_SET_PDEATHSIG, SIGTERM); }

void tl_limit_arenas(int count) { mallopt(M_ARENA_MAX, count); }
