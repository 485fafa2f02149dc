// Attention of a few rows, as in decoding: keys and values are converted in registers, where all rows
// of the task meet them, so that the time is that of reading the cache once.
#pragma once

#include <utility>

#include "attention_problem.h"

namespace qcode {

// Keys whose scores are computed together, for up to kScoreRows rows.
constexpr int kScoreKeys = 4;
constexpr int kScoreRows = kLanes == 16 ? 6 : 2;
// Rows whose totals stay in registers, kMixVectors vectors of each, while values are added.
constexpr int kMixRows = 6;
constexpr int kMixVectors = kLanes == 16 ? 4 : 2;
constexpr int kShortLanes = 2 * kLanes;
constexpr float kLargestShort = 32767;

// Where the vectors of up to kBlockKeys consecutive keys are, and what to multiply each by.
template <class Stored>
struct Span {
    const Stored* vectors[kBlockKeys];
    alignas(64) float factors[kBlockKeys];
    bool scaled;
};

// Positions first .. first + count - 1 of a cache; the last one is repeated to fill the span.
template <class Format>
void locate(const Problem<Format>& problem, const typename Format::Stored* cache,
            const float* scales, const Task& task, long first, long count,
            Span<typename Format::Stored>& span) {
    long index = first / problem.block_size, slot = first % problem.block_size, key = 0;
    for (; key < count; index++, slot = 0) {
        const long vector = problem.first_vector(task.sequence, index, task.kv_head) + slot;
        const long run = std::min(count - key, problem.block_size - slot);
        for (long i = 0; i < run; i++) {
            span.vectors[key + i] = cache + (vector + i) * problem.head_dim;
            span.factors[key + i] = scales ? scales[vector + i] * Format::kUnit : Format::kUnit;
        }
        key += run;
    }
    for (; key < kBlockKeys; key++) {
        span.vectors[key] = span.vectors[count - 1];
        span.factors[key] = span.factors[count - 1];
    }
    span.scaled = scales || Format::kUnit != 1;
}

// Blocks lie anywhere, so the hardware cannot guess what is wanted next.
template <class Stored>
void prefetch(const Stored* vector, long head_dim) {
    constexpr long kStep = 64 / sizeof(Stored);
    for (long d = 0; d < head_dim; d += kStep) __builtin_prefetch(vector + d, 0, 2);
}

// `work.operator()<n>(row)` for tiles of n rows, as equal as they can be and none above kMost.
template <int kMost, class Work>
void tile_rows(long rows, const Work& work) {
    const auto run = [&]<int... kLess>(std::integer_sequence<int, kLess...>, long count, long row) {
        ((count == kLess + 1 ? work.template operator()<kLess + 1>(row) : void()), ...);
    };
    long tiles = (rows + kMost - 1) / kMost;
    for (long row = 0; row < rows; tiles--) {
        const long count = (rows - row + tiles - 1) / tiles;
        run(std::make_integer_sequence<int, kMost>{}, count, row);
        row += count;
    }
}

// Products of floats: of every format, as floats.
template <class Format>
struct FloatProducts {
    using Stored = typename Format::Stored;
    using Query = float;
    using Sums = Floats;
    static constexpr long kWidth = kLanes;
    static Floats query(const float* source) { return load<Floats>(source); }
    static Floats key(const Stored* source) { return Format::load(source); }
    static Floats add(Floats sums, Floats a, Floats b) { return sums + a * b; }
};

// Products of a query in 16 bits and keys in 8, as integers.
struct ShortProducts {
    using Stored = int8_t;
    using Query = int16_t;
    using Sums = Ints;
    static constexpr long kWidth = kShortLanes;
    static Shorts query(const int16_t* source) { return load<Shorts>(source); }
    static Shorts key(const int8_t* source) { return load_widened(source); }
    static Ints add(Ints sums, Shorts a, Shorts b) { return add_pair_products(sums, a, b); }
};

// kRows rows against kScoreKeys keys; a row's scores are kBlockKeys after those of the row before.
template <class Products, int kRows>
void score_keys(const typename Products::Query* queries,
                const typename Products::Stored* const* keys, float* scores, long head_dim) {
    typename Products::Sums sums[kRows][kScoreKeys] = {};
    for (long d = 0; d < head_dim; d += Products::kWidth) {
        const auto k0 = Products::key(keys[0] + d), k1 = Products::key(keys[1] + d);
        const auto k2 = Products::key(keys[2] + d), k3 = Products::key(keys[3] + d);
#pragma GCC unroll 6
        for (int row = 0; row < kRows; row++) {
            const auto query = Products::query(queries + row * head_dim + d);
            sums[row][0] = Products::add(sums[row][0], query, k0);
            sums[row][1] = Products::add(sums[row][1], query, k1);
            sums[row][2] = Products::add(sums[row][2], query, k2);
            sums[row][3] = Products::add(sums[row][3], query, k3);
        }
    }
#pragma GCC unroll 6
    for (int row = 0; row < kRows; row++) {
        const auto four = four_sums(sums[row][0], sums[row][1], sums[row][2], sums[row][3]);
        store(scores + row * kBlockKeys, __builtin_convertvector(four, FourFloats));
    }
}

template <class Products>
void score_span(const typename Products::Query* queries,
                const Span<typename Products::Stored>& keys,
                const Span<typename Products::Stored>& next, float* scores, long rows, long count,
                long head_dim) {
    for (long key = 0; key < count; key += kScoreKeys) {
        for (int i = 0; i < kScoreKeys; i++) prefetch(next.vectors[key + i], head_dim);
        tile_rows<kScoreRows>(rows, [&]<int kRows>(long row) {
            score_keys<Products, kRows>(queries + row * head_dim, keys.vectors + key,
                                        scores + row * kBlockKeys + key, head_dim);
        });
    }
}

// total [kRows, head_dim] from dimension d on += weights [kRows, kBlockKeys] times the values.
template <class Format, int kRows, int kVectors>
void mix_floats(const float* weights, const typename Format::Stored* const* values, long count,
                float* total, long head_dim, long d) {
    Floats sums[kRows][kVectors];
#pragma GCC unroll 6
    for (int row = 0; row < kRows; row++)
#pragma GCC unroll 4
        for (int i = 0; i < kVectors; i++)
            sums[row][i] = load<Floats>(total + row * head_dim + d + i * kLanes);
    for (long key = 0; key < count; key++) {
#pragma GCC unroll 4
        for (int i = 0; i < kVectors; i++) {
            const Floats value = Format::load(values[key] + d + i * kLanes);
#pragma GCC unroll 6
            for (int row = 0; row < kRows; row++)
                sums[row][i] += value * weights[row * kBlockKeys + key];
        }
    }
#pragma GCC unroll 6
    for (int row = 0; row < kRows; row++)
#pragma GCC unroll 4
        for (int i = 0; i < kVectors; i++)
            store(total + row * head_dim + d + i * kLanes, sums[row][i]);
}

template <class Format, int kRows>
void mix_span(const float* weights, const Span<typename Format::Stored>& values, long count,
              float* total, long head_dim) {
    long d = 0;
    for (; d + kMixVectors * kLanes <= head_dim; d += kMixVectors * kLanes)
        mix_floats<Format, kRows, kMixVectors>(weights, values.vectors, count, total, head_dim, d);
    for (; d < head_dim; d += kLanes)
        mix_floats<Format, kRows, 1>(weights, values.vectors, count, total, head_dim, d);
}

// As mix_floats, of one vector of shorts: what was rounded to `weights` was divided by `factors`.
template <int kRows>
void mix_shorts(const int16_t* weights, const float* factors, const int8_t* const* values,
                long count, float* total, long head_dim, long d) {
    Ints sums[kRows][2] = {};
    for (long key = 0; key < count; key += 2) {
        Shorts low, high;
        interleave(values[key] + d, values[key + 1] + d, low, high);
#pragma GCC unroll 6
        for (int row = 0; row < kRows; row++) {
            const Shorts pair = (Shorts)(Ints{} + load<int32_t>(weights + row * kBlockKeys + key));
            sums[row][0] = add_pair_products(sums[row][0], low, pair);
            sums[row][1] = add_pair_products(sums[row][1], high, pair);
        }
    }
#pragma GCC unroll 6
    for (int row = 0; row < kRows; row++)
        for (int i = 0; i < 2; i++) {
            float* target = total + row * head_dim + d + i * kLanes;
            store(target, load<Floats>(target) + to_floats(sums[row][i]) * factors[row]);
        }
}

// source [count] rounded to 16 bits; what to multiply the result by. Numbers that small are as none.
inline float to_shorts(const float* source, long count, int16_t* target) {
    typedef int16_t Narrow __attribute__((vector_size(2 * kLanes)));
    Floats largest = {};
    for (long i = 0; i < count; i += kLanes) {
        const Floats values = load<Floats>(source + i);
        largest = larger(largest, larger(values, -values));
    }
    float most = 1e-30f;
    for (int lane = 0; lane < kLanes; lane++) most = std::max(most, largest[lane]);
    const float inverse = kLargestShort / most;
    for (long i = 0; i < count; i += kLanes) {
        // Adding 1.5 * 2^23 rounds to an integer, which is then in the low bits.
        const Floats shifted = load<Floats>(source + i) * inverse + 12582912.0f;
        const Ints rounded = (Ints)shifted - (Ints)floats(12582912.0f);
        store(target + i, __builtin_convertvector(rounded, Narrow));
    }
    return most / kLargestShort;
}

// Whether scores and totals are computed in integers.
template <class Format>
bool uses_shorts(long head_dim) {
    return std::is_same_v<Format, Int8> && head_dim % kShortLanes == 0;
}

// The rows of a task in one range of keys, a span at a time. Each chunk of keys has a result of its
// own, which makes those of a row the same whatever range and step it is computed in.
template <class Format>
class RowWalk {
    using Stored = typename Format::Stored;

  public:
    // `results` has room for those of all chunks, one after another.
    RowWalk(const Problem<Format>& problem, const Task& task, Scratch& scratch, float* results)
        : problem_(problem), task_(task), softmax_(results, task.rows), results_(results),
          head_dim_(problem.head_dim), queries_(scratch.queries.get()), scores_(scratch.scores.get()),
          short_queries_(reinterpret_cast<int16_t*>(scratch.keys.get())),
          short_weights_(reinterpret_cast<int16_t*>(scratch.values.get())) {}

    void run() {
        load_queries(problem_, task_, queries_);
        if (uses_shorts<Format>(head_dim_))
            for (long row = 0; row < task_.rows; row++)
                row_factors_[row] = to_shorts(queries_ + row * head_dim_, head_dim_,
                                              short_queries_ + row * head_dim_);
        locate_span(task_.first_key, 0);
        for (long first = task_.first_key, turn = 0; first < task_.end_key; turn ^= 1) {
            const long next = first + kBlockKeys;
            const long next_turn = next < task_.end_key ? turn ^ 1 : turn;
            if (next_turn != turn) locate_span(next, next_turn);
            if (first % kChunkKeys == 0) begin_chunk((first - task_.first_key) / kChunkKeys);
            const long count = span_keys(first);
            weigh(first, count, keys_[turn], keys_[next_turn]);
            mix(count, values_[turn], values_[next_turn]);
            first = next;
        }
    }

  private:
    long span_keys(long first) const { return std::min<long>(kBlockKeys, task_.end_key - first); }

    void begin_chunk(long index) {
        const long floats = Softmax::floats_needed(task_.rows, head_dim_);
        softmax_ = Softmax(results_ + index * floats, task_.rows);
        softmax_.clear(task_.rows, head_dim_);
    }

    void locate_span(long first, long turn) {
        const PagedCache& cache = problem_.cache;
        const long count = span_keys(first);
        locate(problem_, problem_.k, cache.key_scales, task_, first, count, keys_[turn]);
        locate(problem_, problem_.v, cache.value_scales, task_, first, count, values_[turn]);
    }

    // scores_ becomes the weights of the span's keys.
    void weigh(long first, long count, const Span<Stored>& keys, const Span<Stored>& next) {
        const bool shorts = uses_shorts<Format>(head_dim_);
        if constexpr (std::is_same_v<Format, Int8>) {
            if (shorts)
                score_span<ShortProducts>(short_queries_, keys, next, scores_, task_.rows, count,
                                          head_dim_);
        }
        if (!shorts)
            score_span<FloatProducts<Format>>(queries_, keys, next, scores_, task_.rows, count,
                                              head_dim_);
        for (long row = 0; row < task_.rows; row++) {
            float* scores = scores_ + row * kBlockKeys;
            if (keys.scaled)
                multiply(scores, keys.factors, shorts ? row_factors_[row] : 1);
            const long visible = visible_keys(problem_, task_, row, first);
            update_row(scores, std::min(count, visible), softmax_, row, head_dim_);
        }
    }

    // Adds the values of the span, by their weights, to the totals.
    void mix(long count, const Span<Stored>& values, const Span<Stored>& next) {
        for (long key = 0; key < count; key++) prefetch(next.vectors[key], head_dim_);
        if (values.scaled)
            for (long row = 0; row < task_.rows; row++)
                multiply(scores_ + row * kBlockKeys, values.factors, 1);
        if constexpr (std::is_same_v<Format, Int8>) {
            if (uses_shorts<Format>(head_dim_)) return mix_as_shorts(count, values);
        }
        tile_rows<kMixRows>(task_.rows, [&]<int kRows>(long row) {
            mix_span<Format, kRows>(scores_ + row * kBlockKeys, values, count,
                                    softmax_.total + row * head_dim_, head_dim_);
        });
    }

    void mix_as_shorts(long count, const Span<int8_t>& values) {
        float factors[kTileRows];
        for (long row = 0; row < task_.rows; row++)
            factors[row] = to_shorts(scores_ + row * kBlockKeys, kBlockKeys,
                                     short_weights_ + row * kBlockKeys);
        tile_rows<kMixRows>(task_.rows, [&]<int kRows>(long row) {
            for (long d = 0; d < head_dim_; d += kShortLanes)
                mix_shorts<kRows>(short_weights_ + row * kBlockKeys, factors + row, values.vectors,
                                  count, softmax_.total + row * head_dim_, head_dim_, d);
        });
    }

    static void multiply(float* scores, const float* factors, float factor) {
        for (int i = 0; i < kBlockKeys; i += kLanes)
            store(scores + i, load<Floats>(scores + i) * (load<Floats>(factors + i) * factor));
    }

    const Problem<Format>& problem_;
    const Task& task_;
    Softmax softmax_;
    float* const results_;
    const long head_dim_;
    float *queries_, *scores_;
    int16_t *short_queries_, *short_weights_;
    float row_factors_[kTileRows];
    Span<Stored> keys_[2], values_[2];  // of this span and of the next one
};

}  // namespace qcode
