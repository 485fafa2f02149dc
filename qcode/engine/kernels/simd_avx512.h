// AVX-512 with VNNI: one instruction multiplies 64 pairs of bytes into 16 sums.
#pragma once

#include <immintrin.h>

#include <type_traits>

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

// The sums of the lanes of a, b, c and d, of floats or integers.
template <class Vector>
inline auto four_sums(Vector a, Vector b, Vector c, Vector d) {
    const auto pairs = [](Vector x, Vector y) {
        return (Vector)_mm512_unpacklo_ps((__m512)x, (__m512)y) +
               (Vector)_mm512_unpackhi_ps((__m512)x, (__m512)y);
    };
    const __m512d ab = (__m512d)pairs(a, b), cd = (__m512d)pairs(c, d);
    const Vector quarters = (Vector)_mm512_unpacklo_pd(ab, cd) + (Vector)_mm512_unpackhi_pd(ab, cd);
    typedef std::remove_cvref_t<decltype(a[0])> Half __attribute__((vector_size(32)));
    typedef std::remove_cvref_t<decltype(a[0])> Four __attribute__((vector_size(16)));
    const Half half = (Half)_mm512_castpd512_pd256((__m512d)quarters) +
                      (Half)_mm512_extractf64x4_pd((__m512d)quarters, 1);
    return (Four)_mm256_castpd256_pd128((__m256d)half) +
           (Four)_mm256_extractf64x2_pd((__m256d)half, 1);
}

// To each lane of `sums` the products of its two pairs of shorts.
inline Ints add_pair_products(Ints sums, Shorts a, Shorts b) {
    return (Ints)_mm512_dpwssd_epi32((__m512i)sums, (__m512i)a, (__m512i)b);
}

inline Shorts load_widened(const int8_t* source) {
    return (Shorts)_mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i*)source));
}

// Pairs a[i], b[i]: `low` has the first kLanes of them, `high` the others.
inline void interleave(const int8_t* a, const int8_t* b, Shorts& low, Shorts& high) {
    // The unpacking works on quarters of a vector, so what belongs to `low` goes to each one's half.
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    const auto widen = [&](const int8_t* source) {
        const __m256i bytes = _mm256_loadu_si256((const __m256i*)source);
        return _mm512_cvtepi8_epi16(_mm256_permutevar8x32_epi32(bytes, order));
    };
    const __m512i first = widen(a), second = widen(b);
    low = (Shorts)_mm512_unpacklo_epi16(first, second);
    high = (Shorts)_mm512_unpackhi_epi16(first, second);
}

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
