// The number formats of a key and value cache: `load` gives kLanes values divided by kUnit.
#pragma once

#include "simd.h"

namespace qcode {

struct Float32 {
    using Stored = float;
    static constexpr float kUnit = 1;
    static Floats load(const Stored* source) { return qcode::load<Floats>(source); }
};
struct Float16 {
    using Stored = uint16_t;
    static constexpr float kUnit = 1;
    static Floats load(const Stored* source) { return load_half(source); }
};
struct BFloat16 {
    using Stored = uint16_t;
    static constexpr float kUnit = 1;
    static Floats load(const Stored* source) { return load_bfloat(source); }
};
struct Int8 {
    using Stored = int8_t;
    static constexpr float kUnit = 1;
    static Floats load(const Stored* source) { return load_signed_bytes(source); }
};
// e4m3 without infinities. Its bits are those of a half-precision float 256 times smaller, shorter
// by seven bits of mantissa; only what is not a number becomes one.
struct Float8 {
    using Stored = uint8_t;
    static constexpr float kUnit = 256;
    static Floats load(const Stored* source) { return load_short_half(source); }
};

}  // namespace qcode
