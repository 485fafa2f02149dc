// Activations as 8-bit integers with a scale for every 32 of them.
#pragma once

#include <cstdint>

#include "simd.h"

namespace qcode {

// 32 activations of one token: x[i] is about scale * codes[i].
struct ActivationBlock {
    float scale;
    float scaled_sum;      // scale * sum of all codes
    int32_t half_sums[2];  // sums of the codes of columns 0..15 and 16..31
    int8_t codes[32];      // -127..127
};

// Tokens are stored in panels of up to kTileTokens: within a panel the blocks of all its tokens for
// the same 32 columns lie together, so that a tile walks one pointer.
struct PanelRow {
    ActivationBlock* first;
    long step;  // from the token's block to that of its next 32 columns
};

inline PanelRow panel_row(ActivationBlock* blocks, long token, long tokens, long columns) {
    const long start = token / kTileTokens * kTileTokens;
    const long width = tokens - start < kTileTokens ? tokens - start : kTileTokens;
    return {blocks + start * (columns / 32) + (token - start), width};
}

// x [columns] of one token -> its blocks.
void quantize_row(const float* x, PanelRow row, long columns);

// x [tokens, columns] -> tokens * columns / 32 blocks.
void quantize_activations(const float* x, ActivationBlock* blocks, long tokens, long columns,
                          int threads);

}  // namespace qcode
