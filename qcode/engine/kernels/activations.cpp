#include "activations.h"

#include "simd.h"
#include "threads.h"

namespace qcode {
namespace {

ActivationBlock quantize_block(const float* x) {
    ActivationBlock block;
    // The order of floats without their sign is the order of their bits.
    uint32_t bits[32], largest_bits = 0;
    std::memcpy(bits, x, sizeof bits);
    for (uint32_t b : bits) largest_bits = (b & 0x7fffffff) > largest_bits ? b & 0x7fffffff : largest_bits;
    float largest;
    std::memcpy(&largest, &largest_bits, sizeof largest);

    // Below this 127 / largest overflows; such a block is zero for every purpose.
    const bool negligible = largest < 1e-36f;
    const float inverse = negligible ? 0 : 127 / largest;
    for (int i = 0; i < 32; i++) {
        // Adding 1.5 * 2^23 rounds to the nearest integer and leaves it in the low bits.
        const float shifted = x[i] * inverse + 12582912.0f;
        uint32_t pattern;
        std::memcpy(&pattern, &shifted, sizeof pattern);
        block.codes[i] = int8_t(pattern & 0xff);
    }
    block.half_sums[0] = block.half_sums[1] = 0;
    for (int i = 0; i < 16; i++) block.half_sums[0] += block.codes[i];
    for (int i = 16; i < 32; i++) block.half_sums[1] += block.codes[i];
    block.scale = negligible ? 0 : largest / 127;
    block.scaled_sum = block.scale * float(block.half_sums[0] + block.half_sums[1]);
    return block;
}

}  // namespace

void quantize_row(const float* x, PanelRow row, long columns) {
    for (long group = 0; group < columns / 32; group++)
        row.first[group * row.step] = quantize_block(x + 32 * group);
}

void quantize_activations(const float* x, ActivationBlock* blocks, long tokens, long columns,
                          int threads) {
    parallel_for((tokens + kTileTokens - 1) / kTileTokens, threads, [&](long tile) {
        const long first = tile * kTileTokens;
        for (long token = first; token < tokens && token < first + kTileTokens; token++)
            quantize_row(x + token * columns, panel_row(blocks, token, tokens, columns), columns);
    });
}

}  // namespace qcode
