// How to read a row of a weight that is kept as its file holds it: every block as floats.
//
// Every block here has kColumns and `decode(values)`, which writes that many floats. The values are
// those of qcode.engine.quantization.ggml_decoders up to rounding. Layouts: ggml-common.h.
#pragma once

#include "formats.h"

namespace qcode {

// values[i] = scale * codes[i] + shift for kCount codes.
template <int kCount>
inline void scale_codes(const uint8_t* codes, float scale, float shift, float* values) {
    for (int i = 0; i < kCount; i += kLanes)
        store(values + i, scale * load_unsigned_bytes(codes + i) + shift);
}

// values[i] = scale * codes[i] for kCount signed codes.
template <int kCount>
inline void scale_signed_codes(const int8_t* codes, float scale, float* values) {
    for (int i = 0; i < kCount; i += kLanes)
        store(values + i, scale * load_signed_bytes(codes + i));
}

// --- Blocks of 32 columns. ---

template <class Source>
struct OffsetRow {
    static constexpr int kColumns = 32;
    Source source;
    void decode(float* values) const {
        uint8_t codes[32];
        source.read(codes);
        const float scale = half_to_float(source.scale);
        scale_codes<32>(codes, scale, -scale * float(Source::kOffset), values);
    }
};

struct RowQ8_0 {
    static constexpr int kColumns = 32;
    uint16_t scale;
    int8_t codes[32];
    void decode(float* values) const {
        scale_signed_codes<32>(codes, half_to_float(scale), values);
    }
};

struct RowQ4_1 {
    static constexpr int kColumns = 32;
    uint16_t scale, minimum;
    uint8_t nibbles[16];
    void decode(float* values) const {
        uint8_t codes[32];
        split_nibbles(nibbles, codes);
        scale_codes<32>(codes, half_to_float(scale), half_to_float(minimum), values);
    }
};

struct RowQ5_1 {
    static constexpr int kColumns = 32;
    uint16_t scale, minimum;
    uint8_t fifth[4], nibbles[16];
    void decode(float* values) const {
        uint8_t codes[32];
        split_nibbles(nibbles, codes);
        add_fifth_bits(fifth, codes);
        scale_codes<32>(codes, half_to_float(scale), half_to_float(minimum), values);
    }
};

// The 16 values of the IQ4 formats, and those of a 4-bit float (E2M1) doubled.
alignas(16) constexpr int8_t kIQ4Levels[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                               1,    13,   25,  38,  53,  69,  89,  113};
alignas(16) constexpr int8_t kDoubledE2M1[16] = {0, 1, 2,  3,  4,  6,  8,  12,
                                                 0, -1, -2, -3, -4, -6, -8, -12};

// 32 values out of a table of 16: byte t of `packed` names value t and value t + 16.
inline void look_up_nibbles(const int8_t* table, const uint8_t* packed, float scale,
                            float* values) {
    int8_t levels[32];
    look_up_sixteen(table, packed, levels);
    scale_signed_codes<32>(levels, scale, values);
}

struct RowIQ4_NL {
    static constexpr int kColumns = 32;
    uint16_t scale;
    uint8_t nibbles[16];
    void decode(float* values) const {
        look_up_nibbles(kIQ4Levels, nibbles, half_to_float(scale), values);
    }
};

// Half of 2^(exponent - 127), because the table is doubled; the smallest two are denormal.
inline float half_of_power(uint8_t exponent) {
    const uint32_t bits = exponent < 2 ? 0x00200000u << exponent : uint32_t(exponent - 1) << 23;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

struct RowMXFP4 {
    static constexpr int kColumns = 32;
    uint8_t exponent, nibbles[16];
    void decode(float* values) const {
        look_up_nibbles(kDoubledE2M1, nibbles, half_of_power(exponent), values);
    }
};

// --- Blocks of 256 columns. ---

struct RowIQ4_XS {
    static constexpr int kColumns = 256;
    uint16_t scale;
    uint8_t high[2], low[4], nibbles[128];
    void decode(float* values) const {
        const float block_scale = half_to_float(scale);
        for (int group = 0; group < 8; group++) {
            const int bits = (low[group / 2] >> 4 * (group % 2) & 15) |
                             (high[group / 4] >> 2 * (group % 4) & 3) << 4;
            look_up_nibbles(kIQ4Levels, nibbles + 16 * group, block_scale * float(bits - 32),
                            values + 32 * group);
        }
    }
};

template <class Source>
struct SixBitRow {
    static constexpr int kColumns = 256;
    Source source;
    void decode(float* values) const {
        const float block_scale = half_to_float(source.scale);
        const float block_minimum = half_to_float(source.minimum);
#pragma GCC unroll 8
        for (int group = 0; group < 8; group++) {
            uint8_t scale, minimum, codes[32];
            read_six_bits(source.six_bits, group, &scale, &minimum);
            source.read(group, codes);
            scale_codes<32>(codes, block_scale * scale, -block_minimum * minimum,
                            values + 32 * group);
        }
    }
};

struct RowQ6_K {
    static constexpr int kColumns = 256;
    SourceQ6_K source;
    void decode(float* values) const {
        const float block_scale = half_to_float(source.scale);
#pragma GCC unroll 8
        for (int group = 0; group < 8; group++) {
            uint8_t codes[32];
            source.read(group, codes);
            for (int half = 0; half < 2; half++) {
                const float scale = block_scale * source.group_scale[2 * group + half];
                scale_codes<16>(codes + 16 * half, scale, -32 * scale,
                                values + 32 * group + 16 * half);
            }
        }
    }
};

struct RowQ2_K {
    static constexpr int kColumns = 256;
    uint8_t group_scales[16], crumbs[64];
    uint16_t scale, minimum;
    void decode(float* values) const {
        const float block_scale = half_to_float(scale), block_minimum = half_to_float(minimum);
#pragma GCC unroll 8
        for (int pair = 0; pair < 8; pair++) {
            uint8_t codes[32];
            for (int i = 0; i < 32; i++) codes[i] = crumbs[32 * (pair / 4) + i] >> 2 * (pair % 4) & 3;
            for (int half = 0; half < 2; half++) {
                const uint8_t both = group_scales[2 * pair + half];
                scale_codes<16>(codes + 16 * half, block_scale * (both & 15),
                                -block_minimum * (both >> 4), values + 32 * pair + 16 * half);
            }
        }
    }
};

struct RowQ3_K {
    static constexpr int kColumns = 256;
    uint8_t high[32], crumbs[64], six_bits[12];
    uint16_t scale;
    int group_scale(int group) const {
        return ((six_bits[group % 8] >> 4 * (group / 8) & 15) |
                (six_bits[8 + group % 4] >> 2 * (group / 4) & 3) << 4) -
               32;
    }
    void decode(float* values) const {
        const float block_scale = half_to_float(scale);
#pragma GCC unroll 8
        for (int pair = 0; pair < 8; pair++) {
            uint8_t codes[32];
            for (int i = 0; i < 32; i++)
                codes[i] = (crumbs[32 * (pair / 4) + i] >> 2 * (pair % 4) & 3) |
                           (high[i] >> pair & 1) << 2;
            for (int half = 0; half < 2; half++) {
                const float group = block_scale * float(group_scale(2 * pair + half));
                scale_codes<16>(codes + 16 * half, group, -4 * group,
                                values + 32 * pair + 16 * half);
            }
        }
    }
};

// --- Floats: rows of any width, so a block is one value and whole rows are converted at once. ---

struct RowF32 {
    static constexpr int kColumns = 1;
    float value;
    void decode(float* values) const { *values = value; }
};

struct RowF16 {
    static constexpr int kColumns = 1;
    uint16_t bits;
    void decode(float* values) const { *values = half_to_float(bits); }
};

struct RowBF16 {
    static constexpr int kColumns = 1;
    uint16_t bits;
    void decode(float* values) const {
        const uint32_t wide = uint32_t(bits) << 16;
        std::memcpy(values, &wide, sizeof wide);
    }
};

template <class Block>
inline void decode_blocks(const Block* blocks, long columns, float* values) {
    for (long column = 0; column < columns; column += Block::kColumns)
        blocks++->decode(values + column);
}

template <>
inline void decode_blocks(const RowF16* blocks, long columns, float* values) {
    long column = 0;
    for (; column + kLanes <= columns; column += kLanes)
        store(values + column, load_half(&blocks[column].bits));
    for (; column < columns; column++) blocks[column].decode(values + column);
}

using RowQ4_0 = OffsetRow<SourceQ4_0>;
using RowQ5_0 = OffsetRow<SourceQ5_0>;
using RowQ4_K = SixBitRow<SourceQ4_K>;
using RowQ5_K = SixBitRow<SourceQ5_K>;

static_assert(sizeof(RowQ4_0) == 18 && sizeof(RowQ4_1) == 20 && sizeof(RowQ5_0) == 22);
static_assert(sizeof(RowQ5_1) == 24 && sizeof(RowQ8_0) == 34 && sizeof(RowQ2_K) == 84);
static_assert(sizeof(RowQ3_K) == 110 && sizeof(RowQ4_K) == 144 && sizeof(RowQ5_K) == 176);
static_assert(sizeof(RowQ6_K) == 210 && sizeof(RowIQ4_NL) == 18 && sizeof(RowIQ4_XS) == 136);
static_assert(sizeof(RowMXFP4) == 17 && sizeof(RowF16) == 2 && sizeof(RowBF16) == 2);

// Calls `use.template operator()<Block>()` for a ggml type id; nothing for one we cannot read.
template <class Use>
inline void with_row_format(int ggml_type, Use use) {
    switch (ggml_type) {
        case 0: use.template operator()<RowF32>(); break;
        case 1: use.template operator()<RowF16>(); break;
        case 2: use.template operator()<RowQ4_0>(); break;
        case 3: use.template operator()<RowQ4_1>(); break;
        case 6: use.template operator()<RowQ5_0>(); break;
        case 7: use.template operator()<RowQ5_1>(); break;
        case 8: use.template operator()<RowQ8_0>(); break;
        case 10: use.template operator()<RowQ2_K>(); break;
        case 11: use.template operator()<RowQ3_K>(); break;
        case 12: use.template operator()<RowQ4_K>(); break;
        case 13: use.template operator()<RowQ5_K>(); break;
        case 14: use.template operator()<RowQ6_K>(); break;
        case 20: use.template operator()<RowIQ4_NL>(); break;
        case 23: use.template operator()<RowIQ4_XS>(); break;
        case 30: use.template operator()<RowBF16>(); break;
        case 39: use.template operator()<RowMXFP4>(); break;
        default: break;
    }
}

}  // namespace qcode
