// Causal attention over a paged cache of keys and values.
//
// The queries that share a key head (tokens times heads of the group) are rows of one tile. A tile
// walks its keys in blocks, keeping a running maximum, sum and weighted total for every row (online
// softmax: Milakov and Gimelshein 2018; FlashAttention: Dao et al. 2022). When there are fewer tiles
// than threads, as in decoding, the keys of a tile are split into ranges whose results are merged.
#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <vector>

#include "attention.h"
#include "exponential.h"
#include "threads.h"

namespace qcode {
namespace {

constexpr int kTileRows = 64;
constexpr int kBlockKeys = 32;
// Tiles with fewer rows multiply key by key; transposing the keys would cost more than it gains.
constexpr int kWideRows = 16;
// A key range is worth a thread's while from this length.
constexpr long kMinimumRange = 256;
// How many cache blocks before its use a block is fetched.
constexpr long kBlocksAhead = 2;
constexpr int kMicroRows = kLanes == 16 ? 8 : 4;
constexpr int kMicroVectors = 2;
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
    long partial;  // where its result waits to be merged, or -1
};

// Result of a task: for each row the maximum, the sum and the weighted total of the values.
struct Softmax {
    float *maximum, *sum, *total;
    explicit Softmax(float* memory, long rows)
        : maximum(memory), sum(memory + rows), total(memory + 2 * rows) {}
    static long floats_needed(long rows, long head_dim) { return rows * (head_dim + 2); }
};

// c [rows, columns] += a [rows, inner] b [inner, columns], kRows rows and two vectors at a time.
template <int kRows>
void multiply_rows(const float* a, long a_stride, const float* b, float* c, long inner,
                   long columns) {
    for (long column = 0; column < columns;) {
        Floats sums[kRows][kMicroVectors];
        const bool pair = column + kMicroVectors * kLanes <= columns;
        const long second = pair ? kLanes : 0;  // a lone last vector is computed twice
#pragma GCC unroll 8
        for (int r = 0; r < kRows; r++) {
            sums[r][0] = load<Floats>(c + r * columns + column);
            sums[r][1] = load<Floats>(c + r * columns + column + second);
        }
        for (long i = 0; i < inner; i++) {
            const Floats b0 = load<Floats>(b + i * columns + column);
            const Floats b1 = load<Floats>(b + i * columns + column + second);
#pragma GCC unroll 8
            for (int r = 0; r < kRows; r++) {
                sums[r][0] += b0 * a[r * a_stride + i];
                sums[r][1] += b1 * a[r * a_stride + i];
            }
        }
#pragma GCC unroll 8
        for (int r = 0; r < kRows; r++) {
            store(c + r * columns + column, sums[r][0]);
            store(c + r * columns + column + second, sums[r][1]);
        }
        column += pair ? kMicroVectors * kLanes : kLanes;
    }
}

void multiply_add(const float* a, long a_stride, const float* b, float* c, long rows, long inner,
                  long columns) {
    long row = 0;
    for (; row + kMicroRows <= rows; row += kMicroRows)
        multiply_rows<kMicroRows>(a + row * a_stride, a_stride, b, c + row * columns, inner, columns);
    for (; row + 3 <= rows; row += 3)
        multiply_rows<3>(a + row * a_stride, a_stride, b, c + row * columns, inner, columns);
    for (; row < rows; row++)
        multiply_rows<1>(a + row * a_stride, a_stride, b, c + row * columns, inner, columns);
}

// Scratch memory of one thread.
struct Scratch {
    std::vector<float> queries, keys, values, scores, softmax;
    explicit Scratch(long head_dim)
        : queries(size_t(kTileRows * head_dim)), keys(size_t(kBlockKeys * head_dim)),
          values(size_t(kBlockKeys * head_dim)), scores(size_t(kTileRows * kBlockKeys)),
          softmax(size_t(Softmax::floats_needed(kTileRows, head_dim))) {}
};

// From block `index` of the task's sequence to the one that is needed some blocks later, in vectors.
// Blocks lie anywhere, so the hardware cannot guess where to fetch it from.
template <class Format>
long distance_ahead(const Problem<Format>& problem, const Task& task, long index) {
    const long later = index + kBlocksAhead;
    if (later * problem.block_size >= task.end_key) return 0;
    return problem.first_vector(task.sequence, later, task.kv_head) -
           problem.first_vector(task.sequence, index, task.kv_head);
}

// Positions first .. first + count - 1 of a cache -> target [count, head_dim].
template <class Format>
void load_block(const Problem<Format>& problem, const typename Format::Stored* cache,
                const float* scales, const Task& task, long first, long count, float* target) {
    const long head_dim = problem.head_dim, block_size = problem.block_size;
    long index = first / block_size, slot = first % block_size;
    for (const long end = first + count; first < end; index++, slot = 0) {
        const long vector = problem.first_vector(task.sequence, index, task.kv_head) + slot;
        const typename Format::Stored* source = cache + vector * head_dim;
        const float* scale = scales ? scales + vector : nullptr;
        const long run = std::min(block_size - slot, end - first);
        const long ahead = distance_ahead(problem, task, index);
        for (long i = 0; i < run; i++, source += head_dim, target += head_dim) {
            const float factor = scale ? scale[i] * Format::kUnit : Format::kUnit;
            if (scale) __builtin_prefetch(scale + i + ahead);
            for (long d = 0; d < head_dim; d += kLanes) {
                __builtin_prefetch(source + ahead * head_dim + d);
                store(target + d, Format::load(source + d) * factor);
            }
        }
        first += run;
    }
}

// keys [kBlockKeys, head_dim] -> [head_dim, kBlockKeys], through `transposed`.
void transpose(const float* keys, float* transposed, long head_dim) {
    for (long d = 0; d < head_dim; d++)
        for (long key = 0; key < kBlockKeys; key++)
            transposed[d * kBlockKeys + key] = keys[key * head_dim + d];
}

// One key against kRows rows at a time.
template <int kRows>
void dot_rows(const float* queries, const float* key, float* scores, long head_dim) {
    Floats products[kRows] = {};
    for (long d = 0; d < head_dim; d += kLanes) {
        const Floats part = load<Floats>(key + d);
#pragma GCC unroll 4
        for (int r = 0; r < kRows; r++) products[r] += part * load<Floats>(queries + r * head_dim + d);
    }
    for (int r = 0; r < kRows; r++) scores[r * kBlockKeys] = sum(products[r]);
}

void scores_by_dot(const Task& task, Scratch& scratch, long keys, long head_dim) {
    for (long key = 0; key < keys; key++) {
        const float* vector = &scratch.keys[size_t(key * head_dim)];
        const float* queries = scratch.queries.data();
        float* scores = &scratch.scores[size_t(key)];
        long row = 0;
        for (; row + 4 <= task.rows; row += 4)
            dot_rows<4>(queries + row * head_dim, vector, scores + row * kBlockKeys, head_dim);
        for (; row < task.rows; row++)
            dot_rows<1>(queries + row * head_dim, vector, scores + row * kBlockKeys, head_dim);
    }
}

// Turns the scores of one row into weights against its running maximum.
void update_row(float* scores, long visible, Softmax& softmax, long row, long head_dim) {
    for (long key = std::max(visible, 0L); key < kBlockKeys; key++) scores[key] = kNegativeInfinity;
    Floats largest = load<Floats>(scores);
    for (int i = kLanes; i < kBlockKeys; i += kLanes) largest = larger(largest, load<Floats>(scores + i));
    float maximum = softmax.maximum[row];
    for (int lane = 0; lane < kLanes; lane++) maximum = std::max(maximum, largest[lane]);
    if (maximum == kNegativeInfinity) {  // nothing visible yet
        std::fill(scores, scores + kBlockKeys, 0.0f);
        return;
    }
    const float correction = exponential(floats(softmax.maximum[row] - maximum))[0];
    Floats weights = {};
    for (int i = 0; i < kBlockKeys; i += kLanes) {
        const Floats shifted = load<Floats>(scores + i) - maximum;
        // exponential() does not reach zero, which the weight of a masked key must be.
        const Floats weight = shifted > floats(-87) ? exponential(shifted) : Floats{};
        store(scores + i, weight);
        weights += weight;
    }
    softmax.sum[row] = softmax.sum[row] * correction + sum(weights);
    if (maximum > softmax.maximum[row]) {
        float* total = softmax.total + row * head_dim;
        for (long d = 0; d < head_dim; d++) total[d] *= correction;
    }
    softmax.maximum[row] = maximum;
}

template <class Format>
void load_queries(const Problem<Format>& problem, const Task& task, float* target) {
    const long group = problem.group(), head_dim = problem.head_dim;
    for (long row = 0; row < task.rows; row++) {
        const long query = task.first_query + (task.first_row + row) / group;
        const long head = task.kv_head * group + (task.first_row + row) % group;
        const float* source = problem.q + query * problem.q_stride + head * head_dim;
        for (long d = 0; d < head_dim; d++) target[row * head_dim + d] = source[d] * problem.scale;
    }
}

template <class Format>
void run_task(const Problem<Format>& problem, const Task& task, Scratch& scratch, Softmax softmax) {
    const long head_dim = problem.head_dim, group = problem.group();
    std::fill(softmax.maximum, softmax.maximum + task.rows, kNegativeInfinity);
    std::fill(softmax.sum, softmax.sum + task.rows, 0.0f);
    std::fill(softmax.total, softmax.total + task.rows * head_dim, 0.0f);
    load_queries(problem, task, scratch.queries.data());
    for (long first = task.first_key; first < task.end_key; first += kBlockKeys) {
        const long keys = std::min<long>(kBlockKeys, task.end_key - first);
        float* scores = scratch.scores.data();
        load_block(problem, problem.k, problem.cache.key_scales, task, first, keys, scratch.keys.data());
        if (task.rows < kWideRows) {
            scores_by_dot(task, scratch, keys, head_dim);
        } else {
            // The values' memory is free until they are loaded.
            transpose(scratch.keys.data(), scratch.values.data(), head_dim);
            std::fill(scores, scores + task.rows * kBlockKeys, 0.0f);
            multiply_add(scratch.queries.data(), head_dim, scratch.values.data(), scores, task.rows,
                         head_dim, kBlockKeys);
        }
        load_block(problem, problem.v, problem.cache.value_scales, task, first, keys, scratch.values.data());
        for (long row = 0; row < task.rows; row++) {
            const long position = task.context - task.queries + (task.first_row + row) / group;
            const long visible = std::min(keys, position + 1 - first);
            update_row(scores + row * kBlockKeys, visible, softmax, row, head_dim);
        }
        multiply_add(scores, kBlockKeys, scratch.values.data(), softmax.total, task.rows, keys,
                     head_dim);
    }
}

template <class Format>
void store_rows(const Problem<Format>& problem, const Task& task, const Softmax& softmax) {
    const long group = problem.group(), head_dim = problem.head_dim;
    for (long row = 0; row < task.rows; row++) {
        const long query = task.first_query + (task.first_row + row) / group;
        const long head = task.kv_head * group + (task.first_row + row) % group;
        float* target = problem.output + (query * problem.heads + head) * head_dim;
        const float inverse = 1 / softmax.sum[row];
        for (long d = 0; d < head_dim; d++)
            target[d] = softmax.total[row * head_dim + d] * inverse;
    }
}

// Adds the result over another range of keys to `into`.
void merge(Softmax& into, const Softmax& other, long rows, long head_dim) {
    for (long row = 0; row < rows; row++) {
        if (other.maximum[row] == kNegativeInfinity) continue;
        const float maximum = std::max(into.maximum[row], other.maximum[row]);
        const float mine = std::exp(into.maximum[row] - maximum);
        const float theirs = std::exp(other.maximum[row] - maximum);
        for (long d = 0; d < head_dim; d++) {
            float& total = into.total[row * head_dim + d];
            total = total * mine + other.total[row * head_dim + d] * theirs;
        }
        into.sum[row] = into.sum[row] * mine + other.sum[row] * theirs;
        into.maximum[row] = maximum;
    }
}

template <class Format>
std::vector<Task> plan(const Problem<Format>& problem, int threads, long& partials) {
    const int32_t *query_starts = problem.batch.query_starts, *contexts = problem.batch.contexts;
    std::vector<Task> tiles;
    for (long s = 0; s < problem.batch.sequences; s++) {
        const long queries = query_starts[s + 1] - query_starts[s];
        const long rows = queries * problem.group();
        for (long kv_head = 0; kv_head < problem.kv_heads; kv_head++)
            for (long first = 0; first < rows; first += kTileRows) {
                const long count = std::min<long>(kTileRows, rows - first);
                const long last_query = (first + count - 1) / problem.group();
                tiles.push_back({s, kv_head, query_starts[s], contexts[s], queries, first, count, 0,
                                 contexts[s] - queries + last_query + 1, -1});
            }
    }
    std::vector<Task> tasks;
    const long wanted = 2 * threads;
    partials = 0;
    for (const Task& tile : tiles) {
        const long most = std::max(1L, tile.end_key / kMinimumRange);
        const long ranges = std::min((wanted + long(tiles.size()) - 1) / long(tiles.size()), most);
        const long length = (tile.end_key + ranges - 1) / ranges;
        for (long first = 0; first < tile.end_key; first += length) {
            Task task = tile;
            task.first_key = first;
            task.end_key = std::min(first + length, tile.end_key);
            if (ranges > 1) task.partial = partials++;
            tasks.push_back(task);
        }
    }
    return tasks;
}

template <class Format>
void attend(const Problem<Format>& problem, int threads) {
    long partials;
    const std::vector<Task> tasks = plan(problem, threads, partials);
    const long partial_floats = Softmax::floats_needed(kTileRows, problem.head_dim);
    const std::unique_ptr<float[]> partial(new float[size_t(partials * partial_floats)]);
    const auto result_of = [&](const Task& task) {
        return Softmax(partial.get() + task.partial * partial_floats, task.rows);
    };
    const long count = long(tasks.size());
    share_work(count, threads, [&](Indices& indices) {
        Scratch scratch(problem.head_dim);
        for (long i; indices.next(&i);) {
            const Task& task = tasks[size_t(count - 1 - i)];  // later tiles see more keys: longest first
            if (task.partial >= 0) {
                run_task(problem, task, scratch, result_of(task));
            } else {
                const Softmax softmax(scratch.softmax.data(), task.rows);
                run_task(problem, task, scratch, softmax);
                store_rows(problem, task, softmax);
            }
        }
    });
    for (long i = 0; i < count;) {
        const Task& first = tasks[size_t(i++)];
        if (first.partial < 0) continue;
        Softmax whole = result_of(first);
        for (; i < count && tasks[size_t(i)].first_key > 0; i++)
            merge(whole, result_of(tasks[size_t(i)]), first.rows, problem.head_dim);
        store_rows(problem, first, whole);
    }
}

}  // namespace

void paged_attention(const PagedCache& cache, const AttentionBatch& batch, const float* q,
                     long q_stride, long heads, float scale, float* output, int threads) {
    with_cache_format(cache.format, [&]<class Format>(Format) {
        attend(Problem<Format>{cache, batch, q, q_stride, heads, scale, output}, threads);
    });
}

}  // namespace qcode

using namespace qcode;

extern "C" {

// Shapes as in PagedCache, AttentionBatch and paged_attention.
void qcode_paged_attention(const float* q, void* keys, void* values, float* key_scales,
                           float* value_scales, const int32_t* tables, const int32_t* query_starts,
                           const int32_t* contexts, float* output, long sequences, long heads,
                           long kv_heads, long head_dim, long block_size, long table_width,
                           float scale, int format, int threads) {
    const PagedCache cache{keys,     values,   key_scales, value_scales,
                           kv_heads, head_dim, block_size, format};
    const AttentionBatch batch{tables, query_starts, contexts, sequences, table_width};
    paged_attention(cache, batch, q, heads * head_dim, heads, scale, output, threads);
}

}  // extern "C"
