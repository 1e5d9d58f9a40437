#pragma once

#include <stddef.h>

/// Allocations that the calling thread has made so far: malloc and its kin are counted in a program that links this.
size_t allocations_of_thread(void);
