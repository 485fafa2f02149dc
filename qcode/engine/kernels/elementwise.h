// Norm, activation and rotary embedding of one row.
#pragma once

#include <cmath>

#include "exponential.h"

namespace qcode {

// Root-mean-square norm; y may be x.
inline void normalize_row(const float* x, const float* weight, float* y, long width,
                          float epsilon) {
    Floats squares = {};
    float rest = 0;
    long i = 0;
    for (; i + kLanes <= width; i += kLanes) {
        const Floats values = load<Floats>(x + i);
        squares += values * values;
    }
    for (; i < width; i++) rest += x[i] * x[i];
    const float scale = 1 / std::sqrt((sum(squares) + rest) / float(width) + epsilon);
    for (long j = 0; j < width; j++) y[j] = x[j] * scale * weight[j];
}

inline Floats sigmoid(Floats x) { return 1.0f / (exponential(-x) + 1.0f); }

inline Floats silu(Floats x) { return x / (exponential(-x) + 1.0f); }

// y = silu(gate) * up; y may be either of them.
inline void silu_and_mul_row(const float* gate, const float* up, float* y, long count) {
    long i = 0;
    for (; i + kLanes <= count; i += kLanes)
        store(y + i, silu(load<Floats>(gate + i)) * load<Floats>(up + i));
    for (; i < count; i++) y[i] = silu(floats(gate[i]))[0] * up[i];
}

// Dimension i turns with dimension i + half; those from 2 * half on pass through. y may be x.
inline void rotate_head(const float* x, const float* cosines, const float* sines, float* y,
                        long head_dim, long half) {
    for (long i = 0; i < half; i++) {
        const float first = x[i], second = x[half + i];
        y[i] = first * cosines[i] - second * sines[i];
        y[half + i] = second * cosines[i] + first * sines[i];
    }
    if (y != x) std::memcpy(y + 2 * half, x + 2 * half, size_t(head_dim - 2 * half) * sizeof(float));
}

}  // namespace qcode
