// exp of a vector of floats.
#pragma once

#include "simd.h"

namespace qcode {

inline Floats smaller(Floats a, Floats b) { return a < b ? a : b; }
inline Floats larger(Floats a, Floats b) { return a > b ? a : b; }

// Relative error below 2e-7 for x in [-87, 88]; beyond, the value at the nearer end. Cody and Waite
// reduction to |r| <= ln(2) / 2 and a Taylor polynomial, as in Cephes' expf.
inline Floats exponential(Floats x) {
    x = smaller(larger(x, floats(-87)), floats(88));
    // Adding 1.5 * 2^23 rounds to an integer, which is then in the low bits.
    const Floats shifted = x * 1.44269504f + 12582912.0f;
    const Ints power = (Ints)shifted - (Ints)floats(12582912.0f);
    const Floats rounded = shifted - 12582912.0f;
    const Floats r = (x - rounded * 0.693359375f) + rounded * 2.12194440e-4f;
    Floats polynomial = r * 1.9875691500e-4f + 1.3981999507e-3f;
    polynomial = polynomial * r + 8.3334519073e-3f;
    polynomial = polynomial * r + 4.1665795894e-2f;
    polynomial = polynomial * r + 1.6666665459e-1f;
    polynomial = polynomial * r + 5.0000001201e-1f;
    const Floats fraction = polynomial * r * r + r + 1.0f;
    return fraction * (Floats)((power + 127) << 23);
}

}  // namespace qcode
