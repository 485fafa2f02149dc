// What attention is computed of, and what is kept of it while keys are walked through.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>

#include "attention.h"
#include "exponential.h"

namespace qcode {

constexpr int kTileRows = 64;
// Keys that are weighed together.
constexpr int kBlockKeys = 64;
// Keys whose result is computed by itself, where a sequence has few queries; a multiple of kBlockKeys.
constexpr long kChunkKeys = 512;
constexpr float kNegativeInfinity = -std::numeric_limits<float>::infinity();

template <class Format>
struct Problem {
    using Stored = typename Format::Stored;
    const PagedCache& cache;
    const AttentionBatch& batch;
    const float* q;  // [queries, heads, head_dim], q_stride from one query to the next
    long q_stride, heads;
    float scale;
    float* output;  // [queries, heads, head_dim]
    const long kv_heads = cache.kv_heads, head_dim = cache.head_dim, block_size = cache.block_size;
    const Stored* k = static_cast<const Stored*>(cache.keys);
    const Stored* v = static_cast<const Stored*>(cache.values);

    long group() const { return heads / kv_heads; }
    // How many vectors lie before those of a head in block `index` of a sequence.
    long first_vector(long sequence, long index, long kv_head) const {
        return cache.first_vector(batch.tables[sequence * batch.table_width + index], kv_head);
    }
};

// Rows first_row .. first_row + rows of one sequence and key head, over one range of keys.
struct Task {
    long sequence, kv_head, first_query, context, queries;
    long first_row, rows;
    long first_key, end_key;
    long partial;  // where its results wait to be merged, in floats, or -1
    bool is_narrow;  // computed row by row and chunk by chunk

    // How many results it has.
    long chunks() const {
        return is_narrow ? (end_key - first_key + kChunkKeys - 1) / kChunkKeys : 1;
    }
};

// Result of a task: for each row the maximum, the sum and the weighted total of the values.
struct Softmax {
    float *maximum, *sum, *total;
    explicit Softmax(float* memory, long rows)
        : maximum(memory), sum(memory + rows), total(memory + 2 * rows) {}
    static long floats_needed(long rows, long head_dim) { return rows * (head_dim + 2); }

    void clear(long rows, long head_dim) {
        std::fill(maximum, maximum + rows, kNegativeInfinity);
        std::fill(sum, sum + rows, 0.0f);
        std::fill(total, total + rows * head_dim, 0.0f);
    }
};

// Memory of one thread, of which nothing is set.
struct Scratch {
    std::unique_ptr<float[]> queries, keys, values, scores, softmax;
    explicit Scratch(long head_dim)
        : queries(new float[size_t(kTileRows * head_dim)]),
          keys(new float[size_t(kBlockKeys * head_dim)]),
          values(new float[size_t(kBlockKeys * head_dim)]),
          scores(new float[size_t(kTileRows * kBlockKeys)]),
          softmax(new float[size_t(Softmax::floats_needed(kTileRows, head_dim))]) {}
};

// Turns the kBlockKeys scores of one row, of which the first `visible` count, into weights against
// its running maximum.
inline void update_row(float* scores, long visible, Softmax& softmax, long row, long head_dim) {
    for (long key = std::max(visible, 0L); key < kBlockKeys; key++) scores[key] = kNegativeInfinity;
    Floats largest = load<Floats>(scores);
    for (int i = kLanes; i < kBlockKeys; i += kLanes) largest = larger(largest, load<Floats>(scores + i));
    float maximum = softmax.maximum[row];
    for (int lane = 0; lane < kLanes; lane++) maximum = std::max(maximum, largest[lane]);
    if (maximum == kNegativeInfinity) {  // nothing visible yet
        std::fill(scores, scores + kBlockKeys, 0.0f);
        return;
    }
    Floats weights = {};
    for (int i = 0; i < kBlockKeys; i += kLanes) {
        const Floats shifted = load<Floats>(scores + i) - maximum;
        // exponential() does not reach zero, which the weight of a masked key must be.
        const Floats weight = shifted > floats(-87) ? exponential(shifted) : Floats{};
        store(scores + i, weight);
        weights += weight;
    }
    if (maximum > softmax.maximum[row]) {
        const float correction = exponential(floats(softmax.maximum[row] - maximum))[0];
        softmax.maximum[row] = maximum;
        softmax.sum[row] *= correction;
        float* total = softmax.total + row * head_dim;
        for (long d = 0; d < head_dim; d++) total[d] *= correction;
    }
    softmax.sum[row] += sum(weights);
}

// How many of the keys from `first` on the query of a row sees.
template <class Format>
long visible_keys(const Problem<Format>& problem, const Task& task, long row, long first) {
    const long position =
        task.context - task.queries + (task.first_row + row) / problem.group();
    return position + 1 - first;
}

template <class Format>
void load_queries(const Problem<Format>& problem, const Task& task, float* target) {
    const long group = problem.group(), head_dim = problem.head_dim;
    for (long row = 0; row < task.rows; row++) {
        const long query = task.first_query + (task.first_row + row) / group;
        const long head = task.kv_head * group + (task.first_row + row) % group;
        const float* source = problem.q + query * problem.q_stride + head * head_dim;
        const float* channels = problem.cache.key_channels;
        if (channels) channels += task.kv_head * head_dim;
        for (long d = 0; d < head_dim; d++)
            target[row * head_dim + d] = source[d] * problem.scale * (channels ? channels[d] : 1);
    }
}

}  // namespace qcode
