// Attention of many rows, as in reading a prompt: two matrix products for each block of keys.
//
// The rows lie across the lanes: queries, scores and weights are kept with the rows of the tile next
// to one another, so neither product needs its other factor transposed.
#pragma once

#include "attention_problem.h"

namespace qcode {

constexpr int kMicroRows = 6;
constexpr int kMicroVectors = kLanes == 16 ? 4 : 2;
// How many cache blocks before its use a block is fetched.
constexpr long kBlocksAhead = 2;

// A left factor; its element (row, i) is at values[row * row_stride + i * stride].
struct LeftFactor {
    const float* values;
    long row_stride, stride;
};

// c [kRows, columns] += a [kRows, inner] b [inner, columns] in kVectors vectors from `column` on.
template <int kRows, int kVectors>
void multiply_strip(LeftFactor a, const float* b, float* c, long inner, long columns, long column) {
    Floats sums[kRows][kVectors];
#pragma GCC unroll 6
    for (int r = 0; r < kRows; r++)
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; v++)
            sums[r][v] = load<Floats>(c + r * columns + column + v * kLanes);
    for (long i = 0; i < inner; i++) {
        Floats right[kVectors];
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; v++)
            right[v] = load<Floats>(b + i * columns + column + v * kLanes);
#pragma GCC unroll 6
        for (int r = 0; r < kRows; r++)
#pragma GCC unroll 4
            for (int v = 0; v < kVectors; v++)
                sums[r][v] += right[v] * a.values[r * a.row_stride + i * a.stride];
    }
#pragma GCC unroll 6
    for (int r = 0; r < kRows; r++)
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; v++)
            store(c + r * columns + column + v * kLanes, sums[r][v]);
}

template <int kRows>
void multiply_rows(LeftFactor a, const float* b, float* c, long inner, long columns) {
    long column = 0;
    for (; column + kMicroVectors * kLanes <= columns; column += kMicroVectors * kLanes)
        multiply_strip<kRows, kMicroVectors>(a, b, c, inner, columns, column);
    for (; column < columns; column += kLanes)
        multiply_strip<kRows, 1>(a, b, c, inner, columns, column);
}

// c [rows, columns] += a [rows, inner] b [inner, columns].
inline void multiply_add(LeftFactor a, const float* b, float* c, long rows, long inner,
                         long columns) {
    const auto from = [&](long row) {
        return LeftFactor{a.values + row * a.row_stride, a.row_stride, a.stride};
    };
    long row = 0;
    for (; row + kMicroRows <= rows; row += kMicroRows)
        multiply_rows<kMicroRows>(from(row), b, c + row * columns, inner, columns);
    for (; row + 2 <= rows; row += 2)
        multiply_rows<2>(from(row), b, c + row * columns, inner, columns);
    for (; row < rows; row++)
        multiply_rows<1>(from(row), b, c + row * columns, inner, columns);
}

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

// One tile's walk through a range of keys; `columns` is its number of rows, filled up to vectors.
template <class Format>
class TileWalk {
  public:
    TileWalk(const Problem<Format>& problem, const Task& task, Scratch& scratch, Softmax softmax)
        : problem_(problem), task_(task), softmax_(softmax), head_dim_(problem.head_dim),
          columns_((task.rows + kLanes - 1) / kLanes * kLanes), queries_(scratch.queries.get()),
          keys_(scratch.keys.get()), values_(scratch.values.get()), scores_(scratch.scores.get()) {}

    void run() {
        softmax_.clear(task_.rows, head_dim_);
        load_columns();
        for (long first = task_.first_key; first < task_.end_key; first += kBlockKeys) {
            const long count = std::min<long>(kBlockKeys, task_.end_key - first);
            load_block(problem_, problem_.k, problem_.cache.key_scales, task_, first, count, keys_);
            std::fill(scores_, scores_ + count * columns_, 0.0f);
            multiply_add({keys_, head_dim_, 1}, queries_, scores_, count, head_dim_, columns_);
            hide(first, count);
            for (long column = 0; column < columns_; column += kLanes) weigh(count, column);
            load_block(problem_, problem_.v, problem_.cache.value_scales, task_, first, count,
                       values_);
            multiply_add({scores_, 1, columns_}, values_, softmax_.total, task_.rows, count,
                         head_dim_);
        }
    }

  private:
    // queries_ becomes [head_dim, columns].
    void load_columns() {
        load_queries(problem_, task_, values_);
        for (long d = 0; d < head_dim_; d++)
            for (long row = 0; row < columns_; row++)
                queries_[d * columns_ + row] = row < task_.rows ? values_[row * head_dim_ + d] : 0;
    }

    // Scores of the keys that a row does not see become minus infinity.
    void hide(long first, long count) {
        for (long row = 0; row < task_.rows; row++) {
            const long visible = visible_keys(problem_, task_, row, first);
            for (long key = std::max(visible, 0L); key < count; key++)
                scores_[key * columns_ + row] = kNegativeInfinity;
        }
    }

    // Turns the scores of kLanes rows into weights against their running maxima; see update_row.
    void weigh(long count, long column) {
        float* scores = scores_ + column;
        const int rows = int(std::min<long>(kLanes, task_.rows - column));
        Floats before = floats(kNegativeInfinity);
        for (int lane = 0; lane < rows; lane++) before[lane] = softmax_.maximum[column + lane];
        Floats maximum = before, weights = {};
        for (long key = 0; key < count; key++)
            maximum = larger(maximum, load<Floats>(scores + key * columns_));
        // A row that sees nothing yet has no maximum to subtract.
        const Floats shift = maximum > floats(kNegativeInfinity) ? maximum : Floats{};
        for (long key = 0; key < count; key++) {
            const Floats shifted = load<Floats>(scores + key * columns_) - shift;
            const Floats weight = shifted > floats(-87) ? exponential(shifted) : Floats{};
            store(scores + key * columns_, weight);
            weights += weight;
        }
        const Floats corrections = exponential(before - shift);
        for (int lane = 0; lane < rows; lane++) {
            const long row = column + lane;
            if (maximum[lane] > before[lane]) scale_row(row, corrections[lane]);
            softmax_.maximum[row] = maximum[lane];
            softmax_.sum[row] += weights[lane];
        }
    }

    void scale_row(long row, float factor) {
        softmax_.sum[row] *= factor;
        float* total = softmax_.total + row * head_dim_;
        for (long d = 0; d < head_dim_; d++) total[d] *= factor;
    }

    const Problem<Format>& problem_;
    const Task& task_;
    Softmax softmax_;
    const long head_dim_, columns_;
    float *queries_, *keys_, *values_, *scores_;
};

}  // namespace qcode
