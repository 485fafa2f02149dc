// A whole decoder layer in one call: norms, attention with its cache, feed-forward network.
//
// Products with the same input run together and round it to 8 bits once; those whose result is added
// to the residual stream add it there. So one token passes a dense layer in five rounds of threads.
#include "decoder_layer.h"

#include <algorithm>

#include "cache_write.h"
#include "elementwise.h"
#include "threads.h"

namespace qcode {
namespace {

// Tokens are prepared a panel at a time; a lone token's values in parts, that all threads have work.
constexpr long kPartColumns = 2048;

// `work(t)` for every token, a panel of tokens at a time.
template <class Work>
void for_each_token(long tokens, int threads, const Work& work) {
    parallel_for((tokens + kTileTokens - 1) / kTileTokens, threads, [&](long panel) {
        const long end = std::min<long>(tokens, (panel + 1) * kTileTokens);
        for (long t = panel * kTileTokens; t < end; t++) work(t);
    });
}

void normalize(const float* x, const float* weight, float epsilon, const Rows& target,
               int threads) {
    for_each_token(target.tokens, threads, [&](long t) {
        normalize_row(x + t * target.columns, weight, target.row(t), target.columns, epsilon);
        target.quantize(t);
    });
}

// What one token's queries, keys and values look like in memory.
struct Heads {
    float *q, *k, *v;
    long q_width, kv_width;  // of a token; q_width holds the gates too
};

// Normalises and rotates the heads of one token in place.
void prepare_heads(const Attention& attention, const Step& step, float epsilon, const Heads& heads,
                   long t) {
    const long head_dim = attention.head_dim, q_step = head_dim * (attention.is_gated ? 2 : 1);
    const float *cosines = step.cosines + t * step.half, *sines = step.sines + t * step.half;
    const auto prepare = [&](float* head, const float* norm) {
        if (norm) normalize_row(head, norm, head, head_dim, epsilon);
        rotate_head(head, cosines, sines, head, head_dim, step.half);
    };
    for (long h = 0; h < attention.heads; h++)
        prepare(heads.q + t * heads.q_width + h * q_step, attention.q_norm);
    for (long h = 0; h < attention.kv_heads; h++)
        prepare(heads.k + t * heads.kv_width + h * head_dim, attention.k_norm);
}

// The queries of gated attention alone, without their gates, for all heads one after another.
const float* gather_queries(const Attention& attention, const Step& step, const Heads& heads,
                            Arena& arena) {
    const long head_dim = attention.head_dim, width = attention.heads * head_dim;
    float* queries = arena.take<float>(step.tokens * width);
    for_each_token(step.tokens, int(step.threads), [&](long t) {
        for (long h = 0; h < attention.heads; h++)
            std::memcpy(queries + t * width + h * head_dim,
                        heads.q + t * heads.q_width + 2 * h * head_dim,
                        size_t(head_dim) * sizeof(float));
    });
    return queries;
}

void apply_gates(const Attention& attention, const Heads& heads, const Rows& attended, long t) {
    const long head_dim = attention.head_dim;
    for (long h = 0; h < attention.heads; h++) {
        const float* gate = heads.q + t * heads.q_width + (2 * h + 1) * head_dim;
        float* value = attended.row(t) + h * head_dim;
        for (long d = 0; d < head_dim; d += kLanes)
            store(value + d, load<Floats>(value + d) * sigmoid(load<Floats>(gate + d)));
    }
}

void add_attention(const DecoderLayer& layer, const PagedCache& cache, const Step& step, float* x,
                   Arena& arena) {
    const Attention& attention = layer.attention;
    const int threads = int(step.threads);
    const long tokens = step.tokens, width = attention.heads * attention.head_dim;
    const Rows input(arena, tokens, layer.hidden);
    normalize(x, layer.input_norm, layer.epsilon, input, threads);

    Heads heads;
    heads.q_width = attention.q.rows;
    heads.kv_width = attention.k.rows;
    heads.q = arena.take<float>(tokens * heads.q_width);
    heads.k = arena.take<float>(tokens * heads.kv_width);
    heads.v = arena.take<float>(tokens * heads.kv_width);
    const Product products[] = {
        {&attention.q, input.activations(), heads.q, heads.q_width, false},
        {&attention.k, input.activations(), heads.k, heads.kv_width, false},
        {&attention.v, input.activations(), heads.v, heads.kv_width, false},
    };
    multiply_all(products, 3, threads);
    for_each_token(tokens, threads,
                   [&](long t) { prepare_heads(attention, step, layer.epsilon, heads, t); });
    write_cache(cache, heads.k, heads.v, heads.kv_width, step.slots, tokens, threads);

    const Rows attended(arena, tokens, width);
    const float* queries =
        attention.is_gated ? gather_queries(attention, step, heads, arena) : heads.q;
    paged_attention(cache, step.batch, queries, width, attention.heads, attention.scale,
                    attended.values, threads);
    for_each_token(tokens, threads, [&](long t) {
        if (attention.is_gated) apply_gates(attention, heads, attended, t);
        attended.quantize(t);
    });
    const Product output{&attention.o, attended.activations(), x, layer.hidden, true};
    multiply_all(&output, 1, threads);
}

void run_layer(const DecoderLayer& layer, const PagedCache& cache, const Step& step, float* x,
               Arena& arena) {
    const int threads = int(step.threads);
    arena.restart();
    if (layer.attention.q.data) add_attention(layer, cache, step, x, arena);
    arena.restart();
    const Rows input(arena, step.tokens, layer.hidden);
    normalize(x, layer.post_norm, layer.epsilon, input, threads);
    if (layer.mlp.gate.data)
        add_feed_forward(layer.mlp, input, x, arena, threads);
    else
        add_experts(layer.experts, input, x, arena, threads);
}

}  // namespace

void activate(const float* gate, const float* up, const Rows& target, int threads) {
    const long width = target.columns, parts = (width + kPartColumns - 1) / kPartColumns;
    parallel_for(target.tokens * parts, threads, [&](long index) {
        const long t = index / parts, first = index % parts * kPartColumns;
        const long count = std::min(kPartColumns, width - first), offset = t * width + first;
        silu_and_mul_row(gate + offset, up + offset, target.values + offset, count);
        PanelRow row = panel_row(target.blocks, t, target.tokens, width);
        row.first += first / 32 * row.step;
        quantize_row(target.values + offset, row, count);
    });
}

void add_feed_forward(const FeedForward& network, const Rows& input, float* x, Arena& arena,
                      int threads) {
    const long width = network.gate.rows;
    float* gate = arena.take<float>(input.tokens * width);
    float* up = arena.take<float>(input.tokens * width);
    const Product products[] = {
        {&network.gate, input.activations(), gate, width, false},
        {&network.up, input.activations(), up, width, false},
    };
    multiply_all(products, 2, threads);
    const Rows activated(arena, input.tokens, width);
    activate(gate, up, activated, threads);
    const Product down{&network.down, activated.activations(), x, input.columns, true};
    multiply_all(&down, 1, threads);
}

}  // namespace qcode

using namespace qcode;

extern "C" {

// x [tokens, hidden] through `count` layers, each with its own cache, in place.
void qcode_decoder_layers(const DecoderLayer* layers, const PagedCache* caches, long count,
                          const Step* step, float* x) {
    thread_local Arena arena;
    for (long i = 0; i < count && step->tokens > 0; i++)
        run_layer(layers[i], caches[i], *step, x, arena);
    arena.release();
}

// So that fused_layer.py can tell that it describes the same structures.
void qcode_decoder_sizes(long* sizes) {
    sizes[0] = sizeof(Matrix);
    sizes[1] = sizeof(FeedForward);
    sizes[2] = sizeof(DecoderLayer);
    sizes[3] = sizeof(PagedCache);
    sizes[4] = sizeof(Step);
}

}  // extern "C"
