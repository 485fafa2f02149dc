// Products of packed weights with activations, and the packing itself.
#include <memory>
#include <utility>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "activations.h"
#include "formats.h"
#include "threads.h"

namespace qcode {
namespace {

// Activations of one pass over the rows, small enough to stay in the second-level cache.
constexpr long kCachedActivationBytes = 512 * 1024;

// Groups of rows that a thread takes at a time.
constexpr long kSharedRowGroups = 4;

long row_groups(long rows) { return (rows + kLanes - 1) / kLanes; }

// Columns of quads kFirst .. kFirst + kCount - 1 of `codes` times those of kTokens tokens.
template <class Block, int kTokens, int kFirst, int... kQuad>
inline void dot_quads(const Codes<Block::kBits>& codes, const ActivationBlock* x,
                      ByteDot<Block::kBits, Block::kOffset>* dots,
                      std::integer_sequence<int, kQuad...>) {
    (
        [&] {
            const Bytes weights = codes.template quad<kFirst + kQuad>();
#pragma GCC unroll 8
            for (int t = 0; t < kTokens; t++)
                dots[t].template add<kQuad>(weights, x[t].codes + 4 * (kFirst + kQuad));
        }(),
        ...);
}

// One scale's worth of columns: `kHalf` is -1 for all 32, or which 16 of them.
template <class Block, int kTokens, int kHalf, size_t... kToken>
inline void accumulate(const Codes<Block::kBits>& codes, Floats scale, const ActivationBlock* x,
                       Floats* totals, std::index_sequence<kToken...>) {
    constexpr bool kWhole = kHalf < 0;
    using Dot = ByteDot<Block::kBits, Block::kOffset>;
    Dot dots[] = {Dot(kWhole ? x[kToken].half_sums[0] + x[kToken].half_sums[1]
                             : x[kToken].half_sums[kWhole ? 0 : kHalf])...};
    dot_quads<Block, kTokens, kWhole ? 0 : 4 * kHalf>(
        codes, x, dots, std::make_integer_sequence<int, kWhole ? 8 : 4>{});
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; t++) totals[t] += scale * x[t].scale * dots[t].result();
}

// kLanes rows times kTokens tokens. `y` is [tokens, stride]; `rows` of the kLanes are stored.
template <class Block, int kTokens>
void multiply_tile(const Block* blocks, const ActivationBlock* x, long num_blocks, float* y,
                   long stride, long rows) {
    constexpr auto kAllTokens = std::make_index_sequence<kTokens>{};
    Floats totals[kTokens] = {};
    for (const Block* block = blocks; block < blocks + num_blocks; block++) {
        const typename Block::Scaling scaling(*block);
        for (int group = 0; group < Block::kColumns / kGroupColumns; group++, x += kTokens) {
            const auto& codes = block->codes[group];
            if constexpr (Block::kScalesPerGroup == 1) {
                const Floats scale = scaling.scale(*block, group);
                accumulate<Block, kTokens, -1>(codes, scale, x, totals, kAllTokens);
            } else {
                const Floats first = scaling.scale(*block, 2 * group);
                accumulate<Block, kTokens, 0>(codes, first, x, totals, kAllTokens);
                const Floats second = scaling.scale(*block, 2 * group + 1);
                accumulate<Block, kTokens, 1>(codes, second, x, totals, kAllTokens);
            }
            if constexpr (Block::kHasMinimum) {
                const Floats minimum = scaling.minimum(*block, group);
                for (int t = 0; t < kTokens; t++) totals[t] -= minimum * x[t].scaled_sum;
            }
        }
    }
    for (int t = 0; t < kTokens; t++)
        std::memcpy(y + t * stride, &totals[t], size_t(rows) * sizeof(float));
}

// The last panel may be narrower than a whole tile: pick the tile of its width.
template <class Block, int kWidth = kTileTokens>
void multiply_panel(long width, const Block* blocks, const ActivationBlock* x, long num_blocks,
                    float* y, long stride, long rows) {
    if (width == kWidth)
        multiply_tile<Block, kWidth>(blocks, x, num_blocks, y, stride, rows);
    else if constexpr (kWidth > 1)
        multiply_panel<Block, kWidth - 1>(width, blocks, x, num_blocks, y, stride, rows);
}

template <class Block>
void multiply(const Block* weight, const ActivationBlock* x, float* y, long tokens, long rows,
              long columns, int threads) {
    const long groups = columns / kGroupColumns, num_blocks = columns / Block::kColumns;
    const long token_bytes = groups * long(sizeof(ActivationBlock));
    const long panels_per_pass = kCachedActivationBytes / (token_bytes * kTileTokens);
    const long pass = kTileTokens * (panels_per_pass > 1 ? panels_per_pass : 1);
    const long shares = (row_groups(rows) + kSharedRowGroups - 1) / kSharedRowGroups;
    parallel_for(shares * ((tokens + pass - 1) / pass), threads, [&](long index) {
        const long start = index / shares * pass, first_group = index % shares * kSharedRowGroups;
        const long end = start + pass < tokens ? start + pass : tokens;
        for (long row_group = first_group;
             row_group < first_group + kSharedRowGroups && row_group < row_groups(rows);
             row_group++) {
            const long row = row_group * kLanes;
            const long stored = rows - row < kLanes ? rows - row : kLanes;
            for (long first = start; first < end; first += kTileTokens) {
                const long width = end - first < kTileTokens ? end - first : kTileTokens;
                multiply_panel<Block>(width, weight + row_group * num_blocks, x + first * groups,
                                      num_blocks, y + first * rows + row, rows, stored);
            }
        }
    });
}

template <class Block>
void pack(const typename Block::Source* source, Block* packed, long rows, long columns,
          int threads) {
    const long num_blocks = columns / Block::kColumns;
    parallel_for(row_groups(rows), threads, [&](long row_group) {
        const long row = row_group * kLanes;
        Block* target = packed + row_group * num_blocks;
        // Lanes beyond the last row keep a scale of zero.
        if (rows - row < kLanes) std::memset(target, 0, size_t(num_blocks) * sizeof(Block));
        for (long b = 0; b < num_blocks; b++)
            for (long lane = 0; lane < kLanes && row + lane < rows; lane++)
                target[b].set_row(int(lane), source[(row + lane) * num_blocks + b]);
    });
}

template <class Block>
void unpack_row(const Block* packed, long row, float* values, long columns) {
    const long num_blocks = columns / Block::kColumns;
    const Block* blocks = packed + row / kLanes * num_blocks;
    const int lane = int(row % kLanes);
    constexpr int kPerScale = kGroupColumns / Block::kScalesPerGroup;
    for (long column = 0; column < columns; column += kGroupColumns) {
        const Block& block = blocks[column / Block::kColumns];
        const int group = int(column % Block::kColumns / kGroupColumns);
        uint8_t codes[kGroupColumns];
        block.codes[group].get_row(lane, codes);
        const float minimum = block.minimum_of(lane, group);
        for (int i = 0; i < kGroupColumns; i++) {
            const float scale = block.scale_of(lane, group * Block::kScalesPerGroup + i / kPerScale);
            values[column + i] = scale * float(codes[i] - Block::kOffset) - minimum;
        }
    }
}

// Asks for huge pages: fewer page faults while packing, fewer address look-ups while multiplying.
void prefer_huge_pages(void* memory, long bytes) {
#ifdef MADV_HUGEPAGE
    constexpr uintptr_t kHugePage = 2 * 1024 * 1024;
    const uintptr_t start = (reinterpret_cast<uintptr_t>(memory) + kHugePage - 1) & ~(kHugePage - 1);
    const uintptr_t end = (reinterpret_cast<uintptr_t>(memory) + uintptr_t(bytes)) & ~(kHugePage - 1);
    if (start < end) madvise(reinterpret_cast<void*>(start), end - start, MADV_HUGEPAGE);
#else
    (void)memory, (void)bytes;
#endif
}

// Scratch memory of the calling thread, kept from call to call.
ActivationBlock* activation_scratch(size_t count) {
    thread_local std::unique_ptr<ActivationBlock[]> buffer;
    thread_local size_t capacity = 0;
    if (count > capacity) {
        buffer.reset(new ActivationBlock[count]);
        capacity = count;
    }
    return buffer.get();
}

}  // namespace
}  // namespace qcode

using namespace qcode;

extern "C" {

// Bytes of a packed weight, or 0 for a type or width that is not packed.
long qcode_packed_bytes(int ggml_type, long rows, long columns) {
    long bytes = 0;
    with_format(ggml_type, [&]<class Block>() {
        if (columns % Block::kColumns == 0)
            bytes = row_groups(rows) * (columns / Block::kColumns) * long(sizeof(Block));
    });
    return bytes;
}

// `source` is the weight as a GGUF file holds it, row after row.
void qcode_pack(int ggml_type, const void* source, void* packed, long rows, long columns,
                int threads) {
    prefer_huge_pages(packed, qcode_packed_bytes(ggml_type, rows, columns));
    with_format(ggml_type, [&]<class Block>() {
        pack(static_cast<const typename Block::Source*>(source), static_cast<Block*>(packed), rows,
             columns, threads);
    });
}

// Rows `ids` [count] of a packed weight -> values [count, columns]. Returns whether all ids are rows
// of it; nothing is written otherwise.
int qcode_unpack_rows(int ggml_type, const void* packed, const int64_t* ids, long count,
                      float* values, long rows, long columns) {
    for (long i = 0; i < count; i++)
        if (ids[i] < 0 || ids[i] >= rows) return 0;
    with_format(ggml_type, [&]<class Block>() {
        for (long i = 0; i < count; i++)
            unpack_row(static_cast<const Block*>(packed), ids[i], values + i * columns, columns);
    });
    return 1;
}

// x [tokens, columns] times a packed weight -> y [tokens, rows].
void qcode_multiply(int ggml_type, const void* packed, const float* x, float* y, long tokens,
                    long rows, long columns, int threads) {
    ActivationBlock* blocks = activation_scratch(size_t(tokens * (columns / kGroupColumns)));
    quantize_activations(x, blocks, tokens, columns, threads);
    with_format(ggml_type, [&]<class Block>() {
        multiply(static_cast<const Block*>(packed), blocks, y, tokens, rows, columns, threads);
    });
}

}  // extern "C"
