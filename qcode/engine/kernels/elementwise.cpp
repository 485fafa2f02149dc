// Norm, activation and rotary embedding over float32 tensors, row by row.
#include <cmath>

#include "exponential.h"
#include "threads.h"

namespace qcode {
namespace {

// Values for one thread at a time: below twice this many, sharing costs more than it saves.
constexpr long kSharedValues = 16 * 1024;

// `work(t)` for every token of `width` values.
template <class Work>
void for_each_token(long tokens, long width, int threads, const Work& work) {
    const long share = width < kSharedValues ? kSharedValues / width : 1;
    parallel_for((tokens + share - 1) / share, threads, [&](long index) {
        const long first = index * share, end = first + share < tokens ? first + share : tokens;
        for (long t = first; t < end; t++) work(t);
    });
}

void normalize_row(const float* x, const float* weight, float* y, long width, float epsilon) {
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

Floats silu(Floats x) { return x / (exponential(-x) + 1.0f); }

void rotate_head(const float* x, const float* cosines, const float* sines, float* y, long head_dim,
                 long half) {
    for (long i = 0; i < half; i++) {
        const float first = x[i], second = x[half + i];
        y[i] = first * cosines[i] - second * sines[i];
        y[half + i] = second * cosines[i] + first * sines[i];
    }
    std::memcpy(y + 2 * half, x + 2 * half, size_t(head_dim - 2 * half) * sizeof(float));
}

}  // namespace
}  // namespace qcode

using namespace qcode;

extern "C" {

// x, y [tokens, width]; weight [width].
void qcode_rms_norm(const float* x, const float* weight, float* y, long tokens, long width,
                    float epsilon, int threads) {
    for_each_token(tokens, width, threads, [&](long t) {
        normalize_row(x + t * width, weight, y + t * width, width, epsilon);
    });
}

// y = silu(gate) * up over `count` values.
void qcode_silu_and_mul(const float* gate, const float* up, float* y, long count, int threads) {
    const long whole = count / kLanes * kLanes;
    parallel_for((whole + kSharedValues - 1) / kSharedValues, threads, [&](long index) {
        const long first = index * kSharedValues;
        const long end = first + kSharedValues < whole ? first + kSharedValues : whole;
        for (long i = first; i < end; i += kLanes)
            store(y + i, silu(load<Floats>(gate + i)) * load<Floats>(up + i));
    });
    for (long i = whole; i < count; i++) y[i] = silu(floats(gate[i]))[0] * up[i];
}

// x, y [tokens, heads, head_dim], each token of x `stride` floats after the one before;
// cosines, sines [tokens, half].
void qcode_rotary(const float* x, const float* cosines, const float* sines, float* y, long tokens,
                  long heads, long head_dim, long half, long stride, int threads) {
    for_each_token(tokens, heads * head_dim, threads, [&](long t) {
        for (long h = 0; h < heads; h++)
            rotate_head(x + t * stride + h * head_dim, cosines + t * half, sines + t * half,
                        y + (t * heads + h) * head_dim, head_dim, half);
    });
}

}  // extern "C"
