// Causal attention over a paged cache, to be called from other kernels.
#pragma once

#include "cache_formats.h"

namespace qcode {

// Which query rows belong to which sequence, and where that one's keys and values are.
struct AttentionBatch {
    const int32_t* tables;        // [sequences, table_width] the blocks of each sequence
    const int32_t* query_starts;  // [sequences + 1]
    const int32_t* contexts;      // [sequences] cached tokens, those of this step included
    long sequences, table_width;
};

// Query q + t * q_stride [heads, head_dim] of each row t -> output [rows, heads, head_dim]. The rows of
// a sequence are its last tokens. head_dim must be a multiple of 16, heads one of kv_heads.
void paged_attention(const PagedCache& cache, const AttentionBatch& batch, const float* q,
                     long q_stride, long heads, float scale, float* output, int threads);

}  // namespace qcode
