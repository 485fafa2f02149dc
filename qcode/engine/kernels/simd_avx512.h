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

inline Floats load_unsigned_bytes(const uint8_t* source) {
    return (Floats)_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)source)));
}

inline Floats load_signed_bytes(const int8_t* source) {
    return (Floats)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)source)));
}

}  // namespace qcode
