// NEON with the dot product of bytes (Armv8.2), and with the mixed-sign one of I8MM where there is it.
#pragma once

#include <arm_neon.h>

#include <type_traits>

namespace qcode {

// With 32 registers, the sums and totals of eight tokens stay in them.
constexpr int kTileTokens = 8;

// See simd_avx512.h. The dot product is of signed bytes: codes of up to six bits are the same signed.
template <int kBits, int kOffset>
struct ByteDot {
    static_assert(kBits >= 4 && kBits <= 6);
    int32x4_t sums;

    explicit ByteDot(int column_sum) : sums(vdupq_n_s32(-kOffset * column_sum)) {}

    template <int kQuad>
    void add(Bytes codes, const int8_t* x) {
        int32_t four;
        std::memcpy(&four, x, sizeof four);
        sums = vdotq_s32(sums, (int8x16_t)codes, vreinterpretq_s8_s32(vdupq_n_s32(four)));
    }

    Floats result() const { return (Floats)vcvtq_f32_s32(sums); }
};

#if defined(__ARM_FEATURE_MATMUL_INT8)

template <>
struct ByteDot<8, 128> {
    int32x4_t sums;

    explicit ByteDot(int column_sum) : sums(vdupq_n_s32(-128 * column_sum)) {}

    template <int kQuad>
    void add(Bytes codes, const int8_t* x) {
        int32_t four;
        std::memcpy(&four, x, sizeof four);
        sums = vusdotq_s32(sums, (uint8x16_t)codes, vreinterpretq_s8_s32(vdupq_n_s32(four)));
    }

    Floats result() const { return (Floats)vcvtq_f32_s32(sums); }
};

#else

// An unsigned byte with its top bit turned over is the signed byte 128 less.
template <>
struct ByteDot<8, 128> {
    int32x4_t sums = vdupq_n_s32(0);

    explicit ByteDot(int) {}

    template <int kQuad>
    void add(Bytes codes, const int8_t* x) {
        int32_t four;
        std::memcpy(&four, x, sizeof four);
        const int8x16_t weights = (int8x16_t)(codes ^ 0x80);
        sums = vdotq_s32(sums, weights, vreinterpretq_s8_s32(vdupq_n_s32(four)));
    }

    Floats result() const { return (Floats)vcvtq_f32_s32(sums); }
};

#endif

inline float sum(Floats vector) { return vaddvq_f32((float32x4_t)vector); }

// See simd_avx512.h.
template <class Vector>
inline Vector four_sums(Vector a, Vector b, Vector c, Vector d) {
    const auto pairs = [](Vector x, Vector y) {
        if constexpr (std::is_same_v<Vector, Floats>)
            return (Vector)vpaddq_f32((float32x4_t)x, (float32x4_t)y);
        else
            return (Vector)vpaddq_s32((int32x4_t)x, (int32x4_t)y);
    };
    return pairs(pairs(a, b), pairs(c, d));
}

inline Ints add_pair_products(Ints sums, Shorts a, Shorts b) {
    const int16x8_t x = (int16x8_t)a, y = (int16x8_t)b;
    const int32x4_t low = vmull_s16(vget_low_s16(x), vget_low_s16(y));
    return sums + (Ints)vpaddq_s32(low, vmull_high_s16(x, y));
}

inline Shorts load_widened(const int8_t* source) { return (Shorts)vmovl_s8(vld1_s8(source)); }

inline void interleave(const int8_t* a, const int8_t* b, Shorts& low, Shorts& high) {
    const int16x8_t first = vmovl_s8(vld1_s8(a)), second = vmovl_s8(vld1_s8(b));
    low = (Shorts)vzip1q_s16(first, second);
    high = (Shorts)vzip2q_s16(first, second);
}

inline Floats load_half(const uint16_t* source) {
    return (Floats)vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(source)));
}

inline void store_half(uint16_t* target, Floats values) {
    vst1_u16(target, vreinterpret_u16_f16(vcvt_f16_f32((float32x4_t)values)));
}

inline Floats load_bfloat(const uint16_t* source) {
    return (Floats)vshll_n_u16(vld1_u16(source), 16);
}

// Four bytes, and four that count for nothing.
inline uint8x8_t load_four_bytes(const void* source) {
    uint32_t four;
    std::memcpy(&four, source, sizeof four);
    return vcreate_u8(four);
}

// See simd_portable.h: the sign is spread over two bits, of which the mask leaves the upper one.
inline Floats load_short_half(const uint8_t* source) {
    const int16x8_t wide = vmovl_s8(vreinterpret_s8_u8(load_four_bytes(source)));
    const int16x4_t halves = vand_s16(vshl_n_s16(vget_low_s16(wide), 7), vdup_n_s16(-16512));
    return (Floats)vcvt_f32_f16(vreinterpret_f16_s16(halves));
}

inline Floats load_unsigned_bytes(const uint8_t* source) {
    const uint16x8_t wide = vmovl_u8(load_four_bytes(source));
    return (Floats)vcvtq_f32_u32(vmovl_u16(vget_low_u16(wide)));
}

inline Floats load_signed_bytes(const int8_t* source) {
    const int16x8_t wide = vmovl_s8(vreinterpret_s8_u8(load_four_bytes(source)));
    return (Floats)vcvtq_f32_s32(vmovl_s16(vget_low_s16(wide)));
}

// See simd_avx512.h.
inline void look_up_sixteen(const int8_t* table, const uint8_t* packed, int8_t* levels) {
    const int8x16_t entries = vld1q_s8(table);
    const uint8x16_t bytes = vld1q_u8(packed);
    vst1q_s8(levels, vqtbl1q_s8(entries, vandq_u8(bytes, vdupq_n_u8(15))));
    vst1q_s8(levels + 16, vqtbl1q_s8(entries, vshrq_n_u8(bytes, 4)));
}

}  // namespace qcode
