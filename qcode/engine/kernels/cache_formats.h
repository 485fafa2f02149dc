// The number formats of a key and value cache, and where its vectors lie.
//
// `load` gives kLanes values divided by kUnit; `store` rounds as torch does.
#pragma once

#include "simd.h"

namespace qcode {

// The keys and values of one layer. A slot is block * block_size + offset.
struct PagedCache {
    void *keys, *values;               // [blocks, kv_heads, block_size, head_dim]
    float *key_scales, *value_scales;  // [blocks, kv_heads, block_size], or null: all 1
    const float* key_channels;  // [kv_heads, head_dim] what keys are kept divided by, or null
    long kv_heads, head_dim, block_size;
    int format;  // as in with_cache_format

    // How many vectors lie before those of a head in a block.
    long first_vector(long block, long kv_head) const {
        return (block * kv_heads + kv_head) * block_size;
    }
};

typedef int8_t SmallInts __attribute__((vector_size(kLanes)));

inline void store_small_ints(void* target, Ints values) {
    qcode::store(target, __builtin_convertvector(values, SmallInts));
}

struct Float32 {
    using Stored = float;
    static constexpr float kUnit = 1;
    static Floats load(const Stored* source) { return qcode::load<Floats>(source); }
    static void store(Stored* target, Floats values) { qcode::store(target, values); }
};
struct Float16 {
    using Stored = uint16_t;
    static constexpr float kUnit = 1;
    static Floats load(const Stored* source) { return load_half(source); }
    static void store(Stored* target, Floats values) { store_half(target, values); }
};
struct BFloat16 {
    using Stored = uint16_t;
    static constexpr float kUnit = 1;
    static Floats load(const Stored* source) { return load_bfloat(source); }
    static void store(Stored* target, Floats values) {
        typedef uint16_t Halves __attribute__((vector_size(2 * kLanes)));
        const Ints bits = (Ints)values;
        const Ints rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
        const Ints narrow = values == values ? rounded : Ints{} + 0x7fc0;
        qcode::store(target, __builtin_convertvector(narrow, Halves));
    }
};
struct Int8 {
    using Stored = int8_t;
    static constexpr float kUnit = 1;
    static constexpr float kLargest = 127;
    static Floats load(const Stored* source) { return load_signed_bytes(source); }
    static void store(Stored* target, Floats values) {
        // Adding 1.5 * 2^23 rounds to an integer, which is then in the low bits.
        store_small_ints(target, (Ints)(values + 12582912.0f) - (Ints)floats(12582912.0f));
    }
};
// e4m3 without infinities. Its bits are those of a half-precision float 256 times smaller, shorter
// by seven bits of mantissa; only what is not a number becomes one.
struct Float8 {
    using Stored = uint8_t;
    static constexpr float kUnit = 256;
    static constexpr float kLargest = 448;
    static Floats load(const Stored* source) { return load_short_half(source); }
    static void store(Stored* target, Floats values) {
        const Ints bits = (Ints)values & 0x7fffffff;
        const Ints normal = ((bits + 0x7ffff + ((bits >> 20) & 1)) >> 20) - (120 << 3);
        // Below 2^-6 the step is 2^-9, that of floats around 1.5 * 2^14.
        const Ints subnormal = (Ints)((Floats)bits + 24576.0f) - (Ints)floats(24576.0f);
        const Ints magnitude = bits < 0x3c800000 ? subnormal : normal;
        store_small_ints(target, magnitude | (((Ints)values >> 24) & 0x80));
    }
};

// `work(Format{})` for the format of that number: 0 float32, 1 float16, 2 bfloat16, 3 int8, 4 float8.
template <class Work>
void with_cache_format(int format, const Work& work) {
    switch (format) {
        case 0: return work(Float32{});
        case 1: return work(Float16{});
        case 2: return work(BFloat16{});
        case 3: return work(Int8{});
        case 4: return work(Float8{});
    }
}

}  // namespace qcode
