// Mixtures of experts: the tokens of a step grouped by the experts that the router sends them to.
#include <algorithm>
#include <cmath>

#include "decoder_layer.h"
#include "elementwise.h"
#include "threads.h"

namespace qcode {
namespace {

// Which expert each of a step's tokens goes to, and with what weight: [tokens, per_token] both. And
// the same pairs of token and choice sorted by expert: those of expert e, as indices t * per_token +
// choice, are order[starts[e]] to order[starts[e + 1] - 1], and rank is the inverse of order.
struct Routing {
    int32_t* chosen;
    float* weights;
    long *order, *rank, *starts;
};

// The `count` largest of `logits` [experts], the first of equals, with their shares of the softmax.
void choose(const float* logits, long experts, long count, bool normalizes, int32_t* chosen,
            float* weights) {
    const float largest = *std::max_element(logits, logits + experts);
    float total = 0, chosen_total = 0;
    for (long e = 0; e < experts; e++) total += std::exp(logits[e] - largest);
    // Insertion into a short sorted list: count is about 8.
    long found = 0;
    for (long e = 0; e < experts; e++) {
        if (found == count && !(logits[e] > logits[chosen[count - 1]])) continue;
        long place = found < count ? found++ : count - 1;
        for (; place > 0 && logits[e] > logits[chosen[place - 1]]; place--)
            chosen[place] = chosen[place - 1];
        chosen[place] = int32_t(e);
    }
    for (long i = 0; i < count; i++) {
        weights[i] = std::exp(logits[chosen[i]] - largest) / total;
        chosen_total += weights[i];
    }
    if (normalizes)
        for (long i = 0; i < count; i++) weights[i] /= chosen_total;
}

Routing route(const Experts& experts, const Rows& input, Arena& arena, int threads) {
    const long tokens = input.tokens, count = experts.num_experts;
    const long per_token = experts.experts_per_token, pairs = tokens * per_token;
    float* logits = arena.take<float>(tokens * count);
    const Product product{&experts.router, input.activations(), logits, count, false};
    multiply_all(&product, 1, threads);

    Routing routing{arena.take<int32_t>(pairs), arena.take<float>(pairs), arena.take<long>(pairs),
                    arena.take<long>(pairs), arena.take<long>(count + 1)};
    for (long t = 0; t < tokens; t++)
        choose(logits + t * count, count, per_token, experts.normalizes,
               routing.chosen + t * per_token, routing.weights + t * per_token);
    std::fill(routing.starts, routing.starts + count + 1, 0L);
    for (long i = 0; i < pairs; i++) routing.starts[routing.chosen[i] + 1]++;
    for (long e = 0; e < count; e++) routing.starts[e + 1] += routing.starts[e];
    for (long i = 0; i < pairs; i++) {
        routing.rank[i] = routing.starts[routing.chosen[i]]++;
        routing.order[routing.rank[i]] = i;
    }
    for (long e = count; e > 0; e--) routing.starts[e] = routing.starts[e - 1];
    routing.starts[0] = 0;
    return routing;
}

// The rows of one expert among rows sorted by expert.
Rows part(const Rows& rows, long start, long count) {
    Rows result = rows;
    result.values = rows.row(start);
    result.blocks = rows.blocks + start * (rows.columns / 32);
    result.tokens = count;
    return result;
}

// `work(expert, its rows)` on each expert that has tokens.
template <class Work>
void for_each_expert(const Experts& experts, const Routing& routing, const Rows& rows,
                     const Work& work) {
    for (long e = 0; e < experts.num_experts; e++) {
        const long start = routing.starts[e], count = routing.starts[e + 1] - start;
        if (count) work(experts.experts[e], part(rows, start, count), start);
    }
}

// The input of each pair, sorted by expert. A lone token's experts all read the same.
void gather(const Routing& routing, const Rows& input, long per_token, const Rows& sorted,
            int threads) {
    parallel_for(sorted.tokens, threads, [&](long row) {
        std::memcpy(sorted.row(row), input.row(routing.order[row] / per_token),
                    size_t(input.columns) * sizeof(float));
    });
}

// Rounds rows that are sorted by expert, each expert's in panels of their own.
void quantize_sorted(const Experts& experts, const Routing& routing, const Rows& sorted,
                     int threads) {
    parallel_for(experts.num_experts, threads, [&](long e) {
        const long start = routing.starts[e], count = routing.starts[e + 1] - start;
        const Rows rows = part(sorted, start, count);
        for (long t = 0; t < count; t++) rows.quantize(t);
    });
}

// x [tokens, hidden] += the weighted results of each token's experts.
void combine(const Routing& routing, const float* results, long per_token, long tokens, long width,
             float* x, int threads) {
    parallel_for(tokens, threads, [&](long t) {
        for (long i = t * per_token; i < (t + 1) * per_token; i++) {
            const float* result = results + routing.rank[i] * width;
            for (long d = 0; d < width; d++) x[t * width + d] += routing.weights[i] * result[d];
        }
    });
}

// x += sigmoid(gate . input) * shared(input).
void add_shared(const Experts& experts, const Rows& input, float* x, Arena& arena, int threads) {
    const long width = input.columns;
    float* result = arena.take<float>(input.tokens * width);
    std::fill(result, result + input.tokens * width, 0.0f);
    add_feed_forward(experts.shared, input, result, arena, threads);
    parallel_for(input.tokens, threads, [&](long t) {
        float product = 0;
        for (long d = 0; d < width; d++) product += input.row(t)[d] * experts.shared_gate[d];
        const float weight = sigmoid(floats(product))[0];
        for (long d = 0; d < width; d++) x[t * width + d] += weight * result[t * width + d];
    });
}

}  // namespace

void add_experts(const Experts& experts, const Rows& input, float* x, Arena& arena, int threads) {
    const long per_token = experts.experts_per_token, pairs = input.tokens * per_token;
    const long width = experts.experts[0].gate.rows, hidden = input.columns;
    const Routing routing = route(experts, input, arena, threads);
    const Rows sorted(arena, pairs, hidden);
    gather(routing, input, per_token, sorted, threads);
    quantize_sorted(experts, routing, sorted, threads);

    float* gate = arena.take<float>(pairs * width);
    float* up = arena.take<float>(pairs * width);
    std::vector<Product> products;
    for_each_expert(experts, routing, sorted, [&](const FeedForward& expert, Rows rows, long start) {
        products.push_back({&expert.gate, rows.activations(), gate + start * width, width, false});
        products.push_back({&expert.up, rows.activations(), up + start * width, width, false});
    });
    multiply_all(products.data(), long(products.size()), threads);

    const Rows activated(arena, pairs, width);
    parallel_for(pairs, threads, [&](long row) {
        silu_and_mul_row(gate + row * width, up + row * width, activated.row(row), width);
    });
    quantize_sorted(experts, routing, activated, threads);

    float* results = arena.take<float>(pairs * hidden);
    products.clear();
    for_each_expert(experts, routing, activated, [&](const FeedForward& expert, Rows rows, long start) {
        products.push_back({&expert.down, rows.activations(), results + start * hidden, hidden, false});
    });
    multiply_all(products.data(), long(products.size()), threads);
    combine(routing, results, per_token, input.tokens, hidden, x, threads);
    if (experts.shared.gate.data) add_shared(experts, input, x, arena, threads);
}

}  // namespace qcode
