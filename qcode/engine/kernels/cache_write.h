// Writing keys and values into a paged cache.
#pragma once

#include "cache_formats.h"

namespace qcode {

// Token t's keys and values [kv_heads, head_dim] at keys + t * stride and values + t * stride -> slot
// slots[t]. Eight-bit formats get one scale for each vector, so that its largest value becomes the
// format's largest; head_dim must be a multiple of 16.
void write_cache(const PagedCache& cache, const float* keys, const float* values, long stride,
                 const int64_t* slots, long tokens, int threads);

}  // namespace qcode
