// Norm, activation and rotary embedding over float32 tensors, row by row.
#include "elementwise.h"
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
    parallel_for((count + kSharedValues - 1) / kSharedValues, threads, [&](long index) {
        const long first = index * kSharedValues;
        const long end = first + kSharedValues < count ? first + kSharedValues : count;
        silu_and_mul_row(gate + first, up + first, y + first, end - first);
    });
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
