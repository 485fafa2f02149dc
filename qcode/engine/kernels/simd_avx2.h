// AVX2 with FMA and F16C: bytes are multiplied into 16-bit sums, widened before they can overflow.
#pragma once

#include <immintrin.h>

#include <type_traits>

namespace qcode {

constexpr int kTileTokens = 4;

// See simd_avx512.h. `maddubs` adds two products of a code below 2^kBits and an x of at most 127
// into a signed 16-bit sum: that leaves room for eight such sums of 4-bit codes, four of 5-bit ones
// and two of 6-bit ones.
template <int kBits, int kOffset>
struct ByteDot {
    static_assert(kBits >= 4 && kBits <= 6);
    static constexpr int kQuadsPerWidening = 8 >> (kBits - 4);
    __m256i sums;
    __m256i narrow = _mm256_setzero_si256();

    explicit ByteDot(int column_sum) : sums(_mm256_set1_epi32(-kOffset * column_sum)) {}

    template <int kQuad>
    void add(Bytes codes, const int8_t* x) {
        int32_t four;
        std::memcpy(&four, x, sizeof four);
        const __m256i products = _mm256_maddubs_epi16((__m256i)codes, _mm256_set1_epi32(four));
        narrow = _mm256_add_epi16(narrow, products);
        if constexpr ((kQuad + 1) % kQuadsPerWidening == 0) {
            sums = _mm256_add_epi32(sums, _mm256_madd_epi16(narrow, _mm256_set1_epi16(1)));
            narrow = _mm256_setzero_si256();
        }
    }

    // Whole widenings only: 16 and 32 columns are 4 and 8 quads, and 4-bit codes need all 8.
    Floats result() const { return (Floats)_mm256_cvtepi32_ps(sums); }
};

// Eight-bit codes do not fit the unsigned operand next to a signed x without overflow, so the sign
// moves from the weight to x: |w| * (sign(w) x).
template <>
struct ByteDot<8, 128> {
    __m256i sums = _mm256_setzero_si256();

    explicit ByteDot(int) {}

    template <int kQuad>
    void add(Bytes codes, const int8_t* x) {
        int32_t four;
        std::memcpy(&four, x, sizeof four);
        const __m256i weights = _mm256_xor_si256((__m256i)codes, _mm256_set1_epi8(-128));
        const __m256i signed_x = _mm256_sign_epi8(_mm256_set1_epi32(four), weights);
        const __m256i products = _mm256_maddubs_epi16(_mm256_abs_epi8(weights), signed_x);
        sums = _mm256_add_epi32(sums, _mm256_madd_epi16(products, _mm256_set1_epi16(1)));
    }

    Floats result() const { return (Floats)_mm256_cvtepi32_ps(sums); }
};

inline float sum(Floats vector) {
    const __m256 all = (__m256)vector;
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1));
    four = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
}

// See simd_avx512.h.
template <class Vector>
inline auto four_sums(Vector a, Vector b, Vector c, Vector d) {
    const auto pairs = [](Vector x, Vector y) {
        return (Vector)_mm256_unpacklo_ps((__m256)x, (__m256)y) +
               (Vector)_mm256_unpackhi_ps((__m256)x, (__m256)y);
    };
    const __m256d ab = (__m256d)pairs(a, b), cd = (__m256d)pairs(c, d);
    const Vector halves = (Vector)_mm256_unpacklo_pd(ab, cd) + (Vector)_mm256_unpackhi_pd(ab, cd);
    typedef std::remove_cvref_t<decltype(a[0])> Four __attribute__((vector_size(16)));
    return (Four)_mm256_castpd256_pd128((__m256d)halves) +
           (Four)_mm256_extractf128_pd((__m256d)halves, 1);
}

inline Ints add_pair_products(Ints sums, Shorts a, Shorts b) {
    return sums + (Ints)_mm256_madd_epi16((__m256i)a, (__m256i)b);
}

inline Shorts load_widened(const int8_t* source) {
    return (Shorts)_mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i*)source));
}

inline void interleave(const int8_t* a, const int8_t* b, Shorts& low, Shorts& high) {
    const auto widen = [](const int8_t* source) {
        const __m128i bytes = _mm_loadu_si128((const __m128i*)source);
        return _mm256_cvtepi8_epi16(_mm_shuffle_epi32(bytes, _MM_SHUFFLE(3, 1, 2, 0)));
    };
    const __m256i first = widen(a), second = widen(b);
    low = (Shorts)_mm256_unpacklo_epi16(first, second);
    high = (Shorts)_mm256_unpackhi_epi16(first, second);
}

inline Floats load_half(const uint16_t* source) {
    return (Floats)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)source));
}

inline void store_half(uint16_t* target, Floats values) {
    _mm_storeu_si128((__m128i*)target, _mm256_cvtps_ph((__m256)values, _MM_FROUND_TO_NEAREST_INT));
}

inline Floats load_bfloat(const uint16_t* source) {
    const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)source));
    return (Floats)_mm256_slli_epi32(wide, 16);
}

// See simd_portable.h: the sign is spread over two bits, of which the mask leaves the upper one.
inline Floats load_short_half(const uint8_t* source) {
    const __m128i wide = _mm_cvtepi8_epi16(_mm_loadl_epi64((const __m128i*)source));
    const __m128i halves = _mm_and_si128(_mm_slli_epi16(wide, 7), _mm_set1_epi16(-16512));
    return (Floats)_mm256_cvtph_ps(halves);
}

inline Floats load_unsigned_bytes(const uint8_t* source) {
    return (Floats)_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)source)));
}

inline Floats load_signed_bytes(const int8_t* source) {
    return (Floats)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)source)));
}

// See simd_avx512.h.
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
