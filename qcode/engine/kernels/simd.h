// The vector types the kernels are written in, for the instruction set being compiled for.
//
// Arithmetic uses the vector extensions of GCC and Clang, so the same source serves every
// instruction set. Only what those cannot say is written per set: the dot product of bytes and the
// conversion of half-precision floats.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX512VNNI__) && defined(__AVX512BW__)
#define QCODE_LANES 16
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#define QCODE_LANES 8
#else
#define QCODE_LANES 4
#endif

namespace qcode {

// Rows of a weight computed together, which is also the number of floats in a vector.
constexpr int kLanes = QCODE_LANES;
// Bytes in a vector: four 8-bit values for each row.
constexpr int kVectorBytes = 4 * kLanes;

typedef float Floats __attribute__((vector_size(kVectorBytes)));
typedef int32_t Ints __attribute__((vector_size(kVectorBytes)));
typedef int16_t Shorts __attribute__((vector_size(kVectorBytes)));
typedef uint16_t Words __attribute__((vector_size(kVectorBytes)));
typedef uint8_t Bytes __attribute__((vector_size(kVectorBytes)));

template <class Vector>
inline Vector load(const void* source) {
    Vector vector;
    std::memcpy(&vector, source, sizeof vector);
    return vector;
}

template <class Vector>
inline void store(void* target, Vector vector) {
    std::memcpy(target, &vector, sizeof vector);
}

typedef float FourFloats __attribute__((vector_size(16)));
typedef int32_t FourInts __attribute__((vector_size(16)));

inline Floats floats(float value) { return Floats{} + value; }

inline Floats to_floats(Ints vector) { return __builtin_convertvector(vector, Floats); }

// IEEE half precision -> float, by rescaling the exponent; exact for every finite value.
inline float half_to_float(uint16_t half) {
    const uint32_t magnitude = uint32_t(half & 0x7fff) << 13;
    float value;
    std::memcpy(&value, &magnitude, sizeof value);
    value *= 0x1p112f;
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    if ((half & 0x7c00) == 0x7c00) bits |= 0x7f800000;  // infinity or not a number
    bits |= uint32_t(half & 0x8000) << 16;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

// float -> IEEE half precision, to the nearest, of two equally near to the even one.
inline uint16_t float_to_half(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    const uint32_t sign = bits >> 16 & 0x8000;
    bits &= 0x7fffffff;
    if (bits > 0x7f800000) return uint16_t(sign | 0x7e00);  // not a number
    if (bits >= 0x47800000) return uint16_t(sign | 0x7c00);
    if (bits < 0x38800000) {  // below 2^-14 the step is 2^-24, that of floats around 0.5
        float magnitude;
        std::memcpy(&magnitude, &bits, sizeof magnitude);
        magnitude += 0.5f;
        std::memcpy(&bits, &magnitude, sizeof bits);
        return uint16_t(sign | (bits - 0x3f000000));
    }
    bits += 0xfff + (bits >> 13 & 1);
    return uint16_t(sign | ((bits >> 13) - (112 << 10)));
}

}  // namespace qcode

#if QCODE_LANES == 16
#include "simd_avx512.h"
#elif QCODE_LANES == 8
#include "simd_avx2.h"
#elif defined(__aarch64__) && defined(__ARM_FEATURE_DOTPROD)
#include "simd_neon.h"
#else
#include "simd_portable.h"
#endif
