// Products of packed weights with activations, and the packing itself.
#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "formats.h"
#include "matmul.h"
#include "threads.h"

extern "C" long qcode_packed_bytes(int ggml_type, long rows, long columns);

namespace qcode {
namespace {

// Activations of one pass over the rows, small enough to stay in the second-level cache.
constexpr long kCachedActivationBytes = 512 * 1024;

// Bytes of a packed weight that a thread takes at a time: a few microseconds of reading, so that the
// threads end together.
constexpr long kSharedBytes = 64 * 1024;

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

// Where the sums of kLanes rows go, for one token after another.
struct Output {
    float* y;
    long stride;
    const float* bias;  // of these rows, or null
    long rows;          // how many of the kLanes are rows of the weight
    bool adds;

    void put(long token, Floats sums) const {
        float* target = y + token * stride;
        if (rows == kLanes) {
            if (bias) sums += load<Floats>(bias);
            if (adds) sums += load<Floats>(target);
            store(target, sums);
            return;
        }
        for (long row = 0; row < rows; row++)
            target[row] = sums[row] + (bias ? bias[row] : 0) + (adds ? target[row] : 0);
    }
};

// kLanes rows times kTokens tokens.
template <class Block, int kTokens>
void multiply_tile(const Block* blocks, const ActivationBlock* x, long num_blocks,
                   const Output& output) {
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
    for (int t = 0; t < kTokens; t++) output.put(t, totals[t]);
}

// The last panel may be narrower than a whole tile: pick the tile of its width.
template <class Block, int kWidth = kTileTokens>
void multiply_panel(long width, const Block* blocks, const ActivationBlock* x, long num_blocks,
                    const Output& output) {
    if (width == kWidth)
        multiply_tile<Block, kWidth>(blocks, x, num_blocks, output);
    else if constexpr (kWidth > 1)
        multiply_panel<Block, kWidth - 1>(width, blocks, x, num_blocks, output);
}

// kLanes rows of a packed weight times tokens first .. end - 1.
template <class Block>
void multiply_row_group(const Product& product, long row_group, long first, long end) {
    const Matrix& weight = *product.weight;
    const long row = row_group * kLanes, num_blocks = weight.columns / Block::kColumns;
    const Block* blocks = static_cast<const Block*>(weight.data) + row_group * num_blocks;
    Output output{product.y + first * product.stride + row, product.stride,
                  weight.bias ? weight.bias + row : nullptr,
                  std::min<long>(kLanes, weight.rows - row), product.adds};
    for (; first < end; first += kTileTokens, output.y += kTileTokens * product.stride)
        multiply_panel<Block>(std::min<long>(kTileTokens, end - first), blocks,
                              product.x.blocks + first * (weight.columns / kGroupColumns),
                              num_blocks, output);
}

// How a product is cut into shares: some rows times the tokens of one pass.
struct Plan {
    long rows_per_share, row_shares, tokens_per_pass, passes;

    explicit Plan(const Product& product) {
        const Matrix& weight = *product.weight;
        tokens_per_pass = std::max(product.x.tokens, 1L);
        rows_per_share = kFileRowsPerShare;
        if (weight.is_packed) {
            const long group_bytes = qcode_packed_bytes(weight.ggml_type, kLanes, weight.columns);
            rows_per_share = kLanes * std::max(1L, kSharedBytes / std::max(1L, group_bytes));
            const long panel_bytes =
                weight.columns / kGroupColumns * long(sizeof(ActivationBlock)) * kTileTokens;
            tokens_per_pass =
                kTileTokens * std::max(1L, kCachedActivationBytes / std::max(1L, panel_bytes));
        }
        row_shares = (weight.rows + rows_per_share - 1) / rows_per_share;
        passes = (product.x.tokens + tokens_per_pass - 1) / tokens_per_pass;
    }
    long shares() const { return row_shares * passes; }
};

void run_share(const Product& product, const Plan& plan, long share) {
    const Matrix& weight = *product.weight;
    const long row = share % plan.row_shares * plan.rows_per_share;
    const long end_row = std::min<long>(row + plan.rows_per_share, weight.rows);
    if (!weight.is_packed) return multiply_file_rows(product, row, end_row - row);
    const long first = share / plan.row_shares * plan.tokens_per_pass;
    const long end = std::min(first + plan.tokens_per_pass, product.x.tokens);
    with_format(weight.ggml_type, [&]<class Block>() {
        for (long group = row / kLanes; group * kLanes < end_row; group++)
            multiply_row_group<Block>(product, group, first, end);
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

void multiply_all(const Product* products, long count, int threads) {
    if (count == 1) {
        const Plan plan(*products);
        parallel_for(plan.shares(), threads,
                     [&](long share) { run_share(*products, plan, share); });
        return;
    }
    std::vector<Plan> plans;
    std::vector<long> starts{0};  // of each product's shares among all
    for (long i = 0; i < count; i++) {
        plans.emplace_back(products[i]);
        starts.push_back(starts.back() + plans.back().shares());
    }
    parallel_for(starts.back(), threads, [&](long share) {
        const auto after = std::upper_bound(starts.begin(), starts.end(), share);
        const size_t i = size_t(after - starts.begin()) - 1;
        run_share(products[i], plans[i], share - starts[i]);
    });
}

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
    const Matrix weight{packed, nullptr, rows, columns, ggml_type, 1};
    const Product product{&weight, {x, blocks, tokens}, y, rows, false};
    multiply_all(&product, 1, threads);
}

}  // extern "C"
