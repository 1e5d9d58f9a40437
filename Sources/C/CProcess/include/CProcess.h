#pragma once

/// Ends this process with SIGTERM when the thread that made it ends (Linux's PR_SET_PDEATHSIG; survives exec).
int tl_end_with_parent(void);

/// Holds glibc to so many arenas: memory that many threads free is then reused (rocksdb#3216).
void tl_limit_arenas(int count);

/// Leaves all of a busy processor but a seventieth to others, for the calling thread and those that it starts. Returns 0.
int tl_lower_priority(void);
