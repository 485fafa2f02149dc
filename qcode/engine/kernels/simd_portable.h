// Any CPU: vectors of 16 bytes, which the compiler maps to what it has.
#pragma once

namespace qcode {

constexpr int kTileTokens = 4;

// See simd_avx512.h.
template <int kBits, int kOffset>
struct ByteDot {
    Ints sums;

    explicit ByteDot(int column_sum) : sums(Ints{} - kOffset * column_sum) {}

    // A product of a code and an x fits 16 bits, a sum of two does not.
    template <int kQuad>
    void add(Bytes codes, const int8_t* x) {
        const Words words = (Words)codes;
        const Ints even = Ints{} + (int32_t(x[2]) << 16 | (x[0] & 0xffff));
        const Ints odd = Ints{} + (int32_t(x[3]) << 16 | (x[1] & 0xffff));
        const Ints first = (Ints)((Shorts)(words & 0xff) * (Shorts)even);
        const Ints second = (Ints)((Shorts)(words >> 8) * (Shorts)odd);
        sums += (first << 16 >> 16) + (first >> 16) + (second << 16 >> 16) + (second >> 16);
    }

    Floats result() const { return to_floats(sums); }
};

inline float sum(Floats vector) { return (vector[0] + vector[1]) + (vector[2] + vector[3]); }

// See simd_avx512.h.
template <class Vector>
inline Vector four_sums(Vector a, Vector b, Vector c, Vector d) {
    const auto sum = [](Vector x) { return (x[0] + x[1]) + (x[2] + x[3]); };
    return Vector{sum(a), sum(b), sum(c), sum(d)};
}

inline Ints add_pair_products(Ints sums, Shorts a, Shorts b) {
    const Ints x = (Ints)a, y = (Ints)b;
    return sums + (x << 16 >> 16) * (y << 16 >> 16) + (x >> 16) * (y >> 16);
}

inline Shorts load_widened(const int8_t* source) {
    typedef int8_t Narrow __attribute__((vector_size(2 * kLanes)));
    return __builtin_convertvector(load<Narrow>(source), Shorts);
}

inline void interleave(const int8_t* a, const int8_t* b, Shorts& low, Shorts& high) {
    const Shorts first = load_widened(a), second = load_widened(b);
    for (int i = 0; i < kLanes; i++) {
        low[2 * i] = first[i];
        low[2 * i + 1] = second[i];
        high[2 * i] = first[kLanes + i];
        high[2 * i + 1] = second[kLanes + i];
    }
}

inline Floats load_half(const uint16_t* source) {
    Floats values;
    for (int lane = 0; lane < kLanes; lane++) values[lane] = half_to_float(source[lane]);
    return values;
}

inline void store_half(uint16_t* target, Floats values) {
    for (int lane = 0; lane < kLanes; lane++) target[lane] = float_to_half(values[lane]);
}

inline Floats load_bfloat(const uint16_t* source) {
    Ints bits;
    for (int lane = 0; lane < kLanes; lane++) bits[lane] = int32_t(uint32_t(source[lane]) << 16);
    return (Floats)bits;
}

// Bytes s eeee mmm to halves s 0eeee mmm0000000, and those to floats.
inline Floats load_short_half(const uint8_t* source) {
    Floats values;
    for (int lane = 0; lane < kLanes; lane++) {
        const int byte = source[lane];
        values[lane] = half_to_float(uint16_t((byte & 0x80) << 8 | (byte & 0x7f) << 7));
    }
    return values;
}

template <class Byte>
inline Floats load_bytes_as_floats(const Byte* source) {
    Floats values;
    for (int lane = 0; lane < kLanes; lane++) values[lane] = float(source[lane]);
    return values;
}

inline Floats load_unsigned_bytes(const uint8_t* source) { return load_bytes_as_floats(source); }

inline Floats load_signed_bytes(const int8_t* source) { return load_bytes_as_floats(source); }

// See simd_avx512.h.
inline void look_up_sixteen(const int8_t* table, const uint8_t* packed, int8_t* levels) {
    for (int t = 0; t < 16; t++) {
        levels[t] = table[packed[t] & 15];
        levels[t + 16] = table[packed[t] >> 4];
    }
}

}  // namespace qcode
