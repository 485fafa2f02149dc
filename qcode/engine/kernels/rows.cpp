// Products with weights that stay as their file holds them: rows are decoded into the cache, a few
// at a time, and multiplied as floats. Slower than the interleaved form of matmul.cpp, but nothing
// is repacked, so the weight may be a view of a mapped file; and x is not rounded.
#include "matmul.h"
#include "row_formats.h"
#include "threads.h"

namespace qcode {
namespace {

// Rows whose sums are in registers together, and tokens beside them: with a weight vector and the
// vectors of x they fill the 16 registers (32 with AVX-512).
constexpr int kTileRows = 4;
constexpr int kRowTileTokens = kLanes == 16 ? 6 : 3;

// Columns decoded at once, a tile of rows each time: few enough for the first-level cache.
constexpr long kSliceColumns = 512;
// Sums over `columns` of kTileRows decoded rows times kTokens tokens, added to y [tokens, stride].
template <int kTokens>
void add_tile(const float* weights, const float* x, long x_stride, long columns, float* y,
              long y_stride, long rows) {
    Floats sums[kTileRows][kTokens] = {};
    const long whole = columns / kLanes * kLanes;
    for (long c = 0; c < whole; c += kLanes) {
        Floats inputs[kTokens];
#pragma GCC unroll 8
        for (int t = 0; t < kTokens; t++) inputs[t] = load<Floats>(x + t * x_stride + c);
#pragma GCC unroll 8
        for (int r = 0; r < kTileRows; r++) {
            const Floats row = load<Floats>(weights + r * kSliceColumns + c);
#pragma GCC unroll 8
            for (int t = 0; t < kTokens; t++) sums[r][t] += row * inputs[t];
        }
    }
    for (int r = 0; r < kTileRows && r < rows; r++)
        for (int t = 0; t < kTokens; t++) {
            float rest = 0;
            for (long c = whole; c < columns; c++)
                rest += weights[r * kSliceColumns + c] * x[t * x_stride + c];
            y[t * y_stride + r] += sum(sums[r][t]) + rest;
        }
}

// The tile of as many tokens as are left, up to a whole one.
template <int kTokens = kRowTileTokens>
void add_tile_of(long tokens, const float* weights, const float* x, long x_stride, long columns,
                 float* y, long y_stride, long rows) {
    if (tokens >= kTokens)
        add_tile<kTokens>(weights, x, x_stride, columns, y, y_stride, rows);
    else if constexpr (kTokens > 1)
        add_tile_of<kTokens - 1>(tokens, weights, x, x_stride, columns, y, y_stride, rows);
}

// Asks for bytes that are decoded soon: several rows are read at once, a piece of each in turn, and
// the processor does not see by itself where each goes on. They need not be there.
inline void prefetch(const void* start, long bytes) {
    for (long offset = 0; offset < bytes; offset += 64)
        __builtin_prefetch(static_cast<const char*>(start) + offset);
}

// `rows` rows of a weight times all tokens, added to y. All of them meet a slice of x before the next
// slice is read.
template <class Block>
void multiply_rows(const Block* weight, const float* x, float* y, long tokens, long rows,
                   long columns, long y_stride) {
    const long row_blocks = columns / Block::kColumns;
    alignas(64) float slice[kTileRows * kSliceColumns] = {};
    for (long first = 0; first < columns; first += kSliceColumns) {
        const long width = columns - first < kSliceColumns ? columns - first : kSliceColumns;
        for (long row = 0; row < rows; row += kTileRows) {
            const long count = rows - row < kTileRows ? rows - row : kTileRows;
            for (long r = 0; r < count; r++) {
                const Block* blocks = weight + (row + r) * row_blocks + first / Block::kColumns;
                prefetch(blocks + kSliceColumns / Block::kColumns,
                         kSliceColumns / Block::kColumns * long(sizeof(Block)));
                decode_blocks(blocks, width, slice + r * kSliceColumns);
            }
            for (long token = 0; token < tokens; token += kRowTileTokens)
                add_tile_of(tokens - token, slice, x + token * columns + first, columns, width,
                            y + token * y_stride + row, y_stride, count);
        }
    }
}

}  // namespace

void multiply_file_rows(const Product& product, long first_row, long rows) {
    const Matrix& weight = *product.weight;
    const float* bias = weight.bias;
    float* y = product.y + first_row;
    for (long token = 0; token < product.x.tokens; token++)
        for (long row = 0; row < rows; row++) {
            float& target = y[token * product.stride + row];
            target = (product.adds ? target : 0) + (bias ? bias[first_row + row] : 0);
        }
    with_row_format(weight.ggml_type, [&]<class Block>() {
        const long row_blocks = weight.columns / Block::kColumns;
        const Block* blocks = static_cast<const Block*>(weight.data) + first_row * row_blocks;
        multiply_rows(blocks, product.x.values, y, product.x.tokens, rows, weight.columns,
                      product.stride);
    });
}

}  // namespace qcode

using namespace qcode;

extern "C" {

// Bytes of one row of a weight in its file, or 0 for a type or width that cannot be read.
long qcode_row_bytes(int ggml_type, long columns) {
    long bytes = 0;
    with_row_format(ggml_type, [&]<class Block>() {
        if (columns % Block::kColumns == 0) bytes = columns / Block::kColumns * long(sizeof(Block));
    });
    return bytes;
}

// x [tokens, columns] times a weight [rows, columns] as its file holds it -> y [tokens, rows].
void qcode_multiply_rows(int ggml_type, const void* weight, const float* x, float* y, long tokens,
                         long rows, long columns, int threads) {
    const Matrix matrix{weight, nullptr, rows, columns, ggml_type, 0};
    const Product product{&matrix, {x, nullptr, tokens}, y, rows, false};
    multiply_all(&product, 1, threads);
}

// Rows `ids` [count] of a weight -> values [count, columns]. Returns whether all ids are rows of it;
// nothing is written otherwise.
int qcode_decode_rows(int ggml_type, const void* weight, const int64_t* ids, long count,
                      float* values, long rows, long columns) {
    for (long i = 0; i < count; i++)
        if (ids[i] < 0 || ids[i] >= rows) return 0;
    with_row_format(ggml_type, [&]<class Block>() {
        const Block* blocks = static_cast<const Block*>(weight);
        for (long i = 0; i < count; i++)
            decode_blocks(blocks + ids[i] * (columns / Block::kColumns), columns,
                          values + i * columns);
    });
    return 1;
}

}  // extern "C"
