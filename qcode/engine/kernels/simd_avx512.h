// AVX-512 with VNNI: one instruction multiplies 64 pairs of bytes into 16 sums.
#pragma once

#include <immintrin.h>

namespace qcode {

// Tokens multiplied by a weight vector while it is in a register.
constexpr int kTileTokens = 8;

// Sums (code - kOffset) * x for kLanes rows, four columns at a time.
template <int kBits, int kOffset>
struct ByteDot {
    __m512i sums;

    // `column_sum` is the sum of the x that will be added.
    explicit ByteDot(int column_sum) : sums(_mm512_set1_epi32(-kOffset * column_sum)) {}

    // Columns 4 * quad .. 4 * quad + 3 of each row times the four bytes at `x`.
    template <int kQuad>
    void add(Bytes codes, const int8_t* x) {
        int32_t four;
        std::memcpy(&four, x, sizeof four);
        sums = _mm512_dpbusd_epi32(sums, (__m512i)codes, _mm512_set1_epi32(four));
    }

    Floats result() const { return (Floats)_mm512_cvtepi32_ps(sums); }
};

inline float sum(Floats vector) { return _mm512_reduce_add_ps((__m512)vector); }

inline Floats load_half(const uint16_t* source) {
    return (Floats)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)source));
}

inline void store_half(uint16_t* target, Floats values) {
    _mm256_storeu_si256((__m256i*)target, _mm512_cvtps_ph((__m512)values, _MM_FROUND_TO_NEAREST_INT));
}

inline Floats load_bfloat(const uint16_t* source) {
    const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)source));
    return (Floats)_mm512_slli_epi32(wide, 16);
}

// See simd_portable.h: the sign is spread over two bits, of which the mask leaves the upper one.
inline Floats load_short_half(const uint8_t* source) {
    const __m256i wide = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i*)source));
    const __m256i halves = _mm256_and_si256(_mm256_slli_epi16(wide, 7), _mm256_set1_epi16(-16512));
    return (Floats)_mm512_cvtph_ps(halves);
}

inline Floats load_unsigned_bytes(const uint8_t* source) {
    return (Floats)_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)source)));
}

inline Floats load_signed_bytes(const int8_t* source) {
    return (Floats)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)source)));
}

// levels[t] and levels[t + 16] are the entries of `table` that the low and the high nibble of byte t
// name, for t below 16.
inline void look_up_sixteen(const int8_t* table, const uint8_t* packed, int8_t* levels) {
    const __m128i entries = _mm_loadu_si128((const __m128i*)table);
    const __m128i bytes = _mm_loadu_si128((const __m128i*)packed);
    const __m128i mask = _mm_set1_epi8(15);
    const __m128i low = _mm_and_si128(bytes, mask);
    const __m128i high = _mm_and_si128(_mm_srli_epi16(bytes, 4), mask);
    _mm_storeu_si128((__m128i*)levels, _mm_shuffle_epi8(entries, low));
    _mm_storeu_si128((__m128i*)(levels + 16), _mm_shuffle_epi8(entries, high));
}

}  // namespace qcode
