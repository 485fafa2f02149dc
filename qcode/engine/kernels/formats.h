// The weight formats: how ggml stores a block, and how we pack kLanes rows of such blocks.
//
// Every packed block offers the same things to the matrix product:
//   kColumns             columns it covers, a multiple of 32
//   kScalesPerGroup      scales in 32 columns: 1, or 2 when each covers 16
//   kHasMinimum          whether a value is scale * code - minimum or scale * (code - kOffset)
//   codes[g]             the codes of columns 32 g .. 32 g + 31
//   Scaling              its scales and minimums as floats, one lane for each row
// and `set_row`, `scale_of`, `minimum_of` to fill it from ggml's block and to read one row back.
// Layouts of the sources: ggml-common.h, ggml-quants.c.
#pragma once

#include "codes.h"

namespace qcode {

// --- Blocks of 32 columns with one half-precision scale: Q4_0, Q5_0, Q8_0. ---

// Byte t of `packed` holds code t in its low nibble and code t + 16 in its high nibble.
inline void split_nibbles(const uint8_t* packed, uint8_t* codes) {
    typedef uint8_t Sixteen __attribute__((vector_size(16)));
    const Sixteen pairs = load<Sixteen>(packed);
    store(codes, pairs & 15);
    store(codes + 16, pairs >> 4);
}

// Bit t of `packed` is the fifth bit of code t. A byte is spread over eight, each of which keeps one
// bit; adding 127 moves it to the top.
inline void add_fifth_bits(const uint8_t* packed, uint8_t* codes) {
    for (int byte = 0; byte < 4; byte++) {
        const uint64_t one_each = packed[byte] * 0x0101010101010101u & 0x8040201008040201u;
        const uint64_t fifth = (one_each + 0x7f7f7f7f7f7f7f7fu) >> 3 & 0x1010101010101010u;
        store(codes + 8 * byte, load<uint64_t>(codes + 8 * byte) | fifth);
    }
}

struct SourceQ4_0 {
    static constexpr int kBits = 4, kOffset = 8;
    uint16_t scale;
    uint8_t nibbles[16];
    void read(uint8_t* codes) const { split_nibbles(nibbles, codes); }
};

struct SourceQ5_0 {
    static constexpr int kBits = 5, kOffset = 16;
    uint16_t scale;
    uint8_t fifth[4], nibbles[16];
    void read(uint8_t* codes) const {
        split_nibbles(nibbles, codes);
        add_fifth_bits(fifth, codes);
    }
};

struct SourceQ8_0 {
    static constexpr int kBits = 8, kOffset = 128;
    uint16_t scale;
    int8_t values[32];
    void read(uint8_t* codes) const {
        for (int i = 0; i < 32; i++) codes[i] = uint8_t(values[i] + 128);
    }
};

template <class SourceBlock>
struct PlainBlock {
    using Source = SourceBlock;
    static constexpr int kBits = Source::kBits, kOffset = Source::kOffset;
    static constexpr int kColumns = 32, kScalesPerGroup = 1;
    static constexpr bool kHasMinimum = false;

    uint16_t scale[kLanes];
    Codes<kBits> codes[1];

    struct Scaling {
        Floats block_scale;
        explicit Scaling(const PlainBlock& block) : block_scale(load_half(block.scale)) {}
        Floats scale(const PlainBlock&, int) const { return block_scale; }
        Floats minimum(const PlainBlock&, int) const { return Floats{}; }
    };

    void set_row(int row, const Source& source) {
        uint8_t row_codes[32];
        source.read(row_codes);
        codes[0].set_row(row, row_codes);
        scale[row] = source.scale;
    }
    float scale_of(int row, int) const { return half_to_float(scale[row]); }
    float minimum_of(int, int) const { return 0; }
};

// --- Blocks of 256 columns, 8 groups with 6-bit scales and minimums: Q4_K, Q5_K. ---

// Scale and minimum of one group out of the 12 bytes that hold all eight.
inline void read_six_bits(const uint8_t* packed, int group, uint8_t* scale, uint8_t* minimum) {
    if (group < 4) {
        *scale = packed[group] & 63;
        *minimum = packed[group + 4] & 63;
    } else {
        *scale = (packed[group + 4] & 15) | (packed[group - 4] >> 6) << 4;
        *minimum = packed[group + 4] >> 4 | (packed[group] >> 6) << 4;
    }
}

inline void read_group_nibbles(const uint8_t* packed, int group, uint8_t* codes) {
    const uint8_t* pair = packed + 32 * (group / 2);
    const int shift = 4 * (group % 2);
    for (int i = 0; i < 32; i++) codes[i] = pair[i] >> shift & 15;
}

struct SourceQ4_K {
    static constexpr int kBits = 4;
    uint16_t scale, minimum;
    uint8_t six_bits[12], nibbles[128];
    void read(int group, uint8_t* codes) const { read_group_nibbles(nibbles, group, codes); }
};

struct SourceQ5_K {
    static constexpr int kBits = 5;
    uint16_t scale, minimum;
    uint8_t six_bits[12], fifth[32], nibbles[128];
    void read(int group, uint8_t* codes) const {
        read_group_nibbles(nibbles, group, codes);
        for (int i = 0; i < 32; i++) codes[i] |= (fifth[i] >> group & 1) << 4;
    }
};

template <class SourceBlock>
struct MinimumBlock {
    using Source = SourceBlock;
    static constexpr int kBits = Source::kBits, kOffset = 0;
    static constexpr int kColumns = 256, kScalesPerGroup = 1;
    static constexpr bool kHasMinimum = true;

    uint16_t scale[kLanes], minimum[kLanes];
    uint8_t group_scale[8][kLanes], group_minimum[8][kLanes];
    Codes<kBits> codes[8];

    struct Scaling {
        Floats block_scale, block_minimum;
        explicit Scaling(const MinimumBlock& block)
            : block_scale(load_half(block.scale)), block_minimum(load_half(block.minimum)) {}
        Floats scale(const MinimumBlock& block, int group) const {
            return block_scale * load_unsigned_bytes(block.group_scale[group]);
        }
        Floats minimum(const MinimumBlock& block, int group) const {
            return block_minimum * load_unsigned_bytes(block.group_minimum[group]);
        }
    };

    void set_row(int row, const Source& source) {
        scale[row] = source.scale;
        minimum[row] = source.minimum;
        for (int group = 0; group < 8; group++) {
            uint8_t row_codes[32];
            source.read(group, row_codes);
            codes[group].set_row(row, row_codes);
            read_six_bits(source.six_bits, group, &group_scale[group][row],
                          &group_minimum[group][row]);
        }
    }
    float scale_of(int row, int group) const {
        return half_to_float(scale[row]) * group_scale[group][row];
    }
    float minimum_of(int row, int group) const {
        return half_to_float(minimum[row]) * group_minimum[group][row];
    }
};

// --- Q6_K: 256 columns, a signed 8-bit scale for each 16. ---

struct SourceQ6_K {
    uint8_t nibbles[128], top[64];
    int8_t group_scale[16];
    uint16_t scale;
    void read(int group, uint8_t* codes) const {
        const int half = group / 4, quarter = group % 4;
        const uint8_t* low = nibbles + 64 * half + 32 * (quarter % 2);
        for (int i = 0; i < 32; i++)
            codes[i] = (low[i] >> 4 * (quarter / 2) & 15) |
                       (top[32 * half + i] >> 2 * quarter & 3) << 4;
    }
};

struct BlockQ6_K {
    using Source = SourceQ6_K;
    static constexpr int kBits = 6, kOffset = 32;
    static constexpr int kColumns = 256, kScalesPerGroup = 2;
    static constexpr bool kHasMinimum = false;

    uint16_t scale[kLanes];
    int8_t group_scale[16][kLanes];
    Codes<6> codes[8];

    struct Scaling {
        Floats block_scale;
        explicit Scaling(const BlockQ6_K& block) : block_scale(load_half(block.scale)) {}
        Floats scale(const BlockQ6_K& block, int index) const {
            return block_scale * load_signed_bytes(block.group_scale[index]);
        }
        Floats minimum(const BlockQ6_K&, int) const { return Floats{}; }
    };

    void set_row(int row, const Source& source) {
        scale[row] = source.scale;
        for (int index = 0; index < 16; index++) group_scale[index][row] = source.group_scale[index];
        for (int group = 0; group < 8; group++) {
            uint8_t row_codes[32];
            source.read(group, row_codes);
            codes[group].set_row(row, row_codes);
        }
    }
    float scale_of(int row, int index) const {
        return half_to_float(scale[row]) * group_scale[index][row];
    }
    float minimum_of(int, int) const { return 0; }
};

using BlockQ4_0 = PlainBlock<SourceQ4_0>;
using BlockQ5_0 = PlainBlock<SourceQ5_0>;
using BlockQ8_0 = PlainBlock<SourceQ8_0>;
using BlockQ4_K = MinimumBlock<SourceQ4_K>;
using BlockQ5_K = MinimumBlock<SourceQ5_K>;

static_assert(sizeof(SourceQ4_0) == 18 && sizeof(SourceQ5_0) == 22 && sizeof(SourceQ8_0) == 34);
static_assert(sizeof(SourceQ4_K) == 144 && sizeof(SourceQ5_K) == 176 && sizeof(SourceQ6_K) == 210);

// Calls `use.template operator()<Block>()` for a ggml type id; false for a type we do not pack.
template <class Use>
inline bool with_format(int ggml_type, Use use) {
    switch (ggml_type) {
        case 2: use.template operator()<BlockQ4_0>(); return true;
        case 6: use.template operator()<BlockQ5_0>(); return true;
        case 8: use.template operator()<BlockQ8_0>(); return true;
        case 12: use.template operator()<BlockQ4_K>(); return true;
        case 13: use.template operator()<BlockQ5_K>(); return true;
        case 14: use.template operator()<BlockQ6_K>(); return true;
        default: return false;
    }
}

}  // namespace qcode
