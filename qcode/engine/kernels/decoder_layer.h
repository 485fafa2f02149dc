// A whole decoder layer in one call. The structures are filled by fused_layer.py, which mirrors them.
#pragma once

#include "arena.h"
#include "attention.h"
#include "matmul.h"

namespace qcode {

// down(silu(gate(x)) * up(x)). A null `gate.data` says that there is none.
struct FeedForward {
    Matrix gate, up, down;
};

// A router sends each token to `experts_per_token` of `num_experts` networks. Where `shared` is
// there, every token passes through it too, weighted by the sigmoid of its product with
// `shared_gate` [hidden].
struct Experts {
    Matrix router;
    const FeedForward* experts;
    int64_t num_experts, experts_per_token;
    FeedForward shared;
    const float* shared_gate;
    int32_t normalizes;  // the weights of a token's experts are scaled to sum to 1
    int32_t unused;
};

// Where `is_gated`, each head's rows in q_proj are followed by those of a gate.
struct Attention {
    Matrix q, k, v, o;
    const float *q_norm, *k_norm;  // [head_dim], or null
    int64_t heads, kv_heads, head_dim;
    float scale;
    int32_t is_gated;
};

// A null `attention.q.data` says that only the feed-forward network is computed here, a null
// `mlp.gate.data` that it is a mixture of experts.
struct DecoderLayer {
    int64_t hidden;
    float epsilon;
    int32_t unused;
    const float *input_norm, *post_norm;  // [hidden]
    Attention attention;
    FeedForward mlp;
    Experts experts;
};

// The tokens of one step; see AttentionInputs in layers/attention.py.
struct Step {
    int64_t tokens;
    const float *cosines, *sines;  // [tokens, half]
    int64_t half;
    const int64_t* slots;
    AttentionBatch batch;
    int64_t threads;
};

// Activations of some tokens that are to be multiplied: room for both forms.
struct Rows {
    float* values;
    ActivationBlock* blocks;
    long tokens, columns;

    Rows(Arena& arena, long count, long width)
        : values(arena.take<float>(count * width)),
          blocks(arena.take<ActivationBlock>(count * (width / 32))), tokens(count),
          columns(width) {}
    float* row(long token) const { return values + token * columns; }
    // After `row(token)` has been written.
    void quantize(long token) const {
        quantize_row(row(token), panel_row(blocks, token, tokens, columns), columns);
    }
    Activations activations() const { return {values, blocks, tokens}; }
};

// gate [tokens, width] and up of the same shape -> silu(gate) * up, in both forms.
void activate(const float* gate, const float* up, const Rows& target, int threads);

// x [tokens, hidden] += the mixture of experts of `input`.
void add_experts(const Experts& experts, const Rows& input, float* x, Arena& arena, int threads);

// x [tokens, hidden] += the network of `input`.
void add_feed_forward(const FeedForward& network, const Rows& input, float* x, Arena& arena,
                      int threads);

}  // namespace qcode
