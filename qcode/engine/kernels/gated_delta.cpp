// One token of each of several sequences through a Gated DeltaNet layer: its short convolution and
// the recurrence. See layers/gated_delta.py, whose `_decode` this computes.
#include <algorithm>
#include <cmath>
#include <vector>

#include "exponential.h"
#include "threads.h"

namespace qcode {
namespace {

constexpr float kUnitEpsilon = 1e-6f;
// Channels that one thread convolves at a time.
constexpr long kChannelsTogether = 1024;

struct DeltaStep {
    const float* qkv;            // [sequences, channels]
    const float *g, *beta;       // [sequences, heads]
    const float* weight;         // [channels, taps]
    float* conv;                 // [slots, channels, taps - 1]
    float* recurrent;            // [slots, heads, key_dim, value_dim]
    const int64_t* slots;        // [sequences]
    float* output;               // [sequences, heads, value_dim]
    long sequences, channels, taps, heads, key_dim, value_dim;

    long num_keys() const { return (channels - heads * value_dim) / 2; }
};

// silu of the convolution of some channels of a sequence, whose last inputs move on by one.
void convolve(const DeltaStep& step, long sequence, long first, long end, float* mixed) {
    const long kept = step.taps - 1;
    const float* x = step.qkv + sequence * step.channels;
    float* history = step.conv + step.slots[sequence] * step.channels * kept;
    for (long channel = first; channel < end; channel++) {
        const float* weight = step.weight + channel * step.taps;
        float* past = history + channel * kept;
        float sum = x[channel] * weight[kept];
        for (long tap = 0; tap < kept; tap++) sum += past[tap] * weight[tap];
        for (long tap = 0; tap + 1 < kept; tap++) past[tap] = past[tap + 1];
        if (kept) past[kept - 1] = x[channel];
        mixed[channel] = sum;
    }
    long channel = first;
    for (; channel + kLanes <= end; channel += kLanes) {
        const Floats sums = load<Floats>(mixed + channel);
        store(mixed + channel, sums / (1 + exponential(-sums)));
    }
    for (; channel < end; channel++) mixed[channel] /= 1 + std::exp(-mixed[channel]);
}

// source [count] with length `length` -> target.
void resize(const float* source, long count, float length, float* target) {
    float square = 0;
    for (long i = 0; i < count; i++) square += source[i] * source[i];
    const float factor = length / std::sqrt(square + kUnitEpsilon);
    for (long i = 0; i < count; i++) target[i] = source[i] * factor;
}

// One head's state fades, takes up the value and is read; `memory` [2 key_dim + value_dim].
void recur(const DeltaStep& step, const float* mixed, long sequence, long head, float* memory) {
    const long key_dim = step.key_dim, value_dim = step.value_dim;
    const long served = step.heads * key_dim / step.num_keys();
    const float* source = mixed + head / served * key_dim;
    float *query = memory, *key = memory + key_dim, *written = memory + 2 * key_dim;
    resize(source, key_dim, 1 / std::sqrt(float(key_dim)), query);
    resize(source + step.num_keys(), key_dim, 1, key);
    const float* value = mixed + 2 * step.num_keys() + head * value_dim;
    const long row = sequence * step.heads + head;
    const float decay = std::exp(step.g[row]), beta = step.beta[row];
    float* state = step.recurrent +
                   (step.slots[sequence] * step.heads + head) * key_dim * value_dim;
    float* output = step.output + row * value_dim;

    std::fill(written, written + value_dim, 0.0f);
    for (long i = 0; i < key_dim; i++)
        for (long d = 0; d < value_dim; d++) written[d] += key[i] * state[i * value_dim + d];
    for (long d = 0; d < value_dim; d++) written[d] = (value[d] - written[d] * decay) * beta;
    std::fill(output, output + value_dim, 0.0f);
    for (long i = 0; i < key_dim; i++)
        for (long d = 0; d < value_dim; d++) {
            float& held = state[i * value_dim + d];
            held = held * decay + key[i] * written[d];
            output[d] += query[i] * held;
        }
}

void run(const DeltaStep& step, int threads) {
    std::vector<float> mixed(size_t(step.sequences * step.channels));
    const long parts = (step.channels + kChannelsTogether - 1) / kChannelsTogether;
    parallel_for(step.sequences * parts, threads, [&](long i) {
        const long sequence = i / parts, first = i % parts * kChannelsTogether;
        convolve(step, sequence, first, std::min(first + kChannelsTogether, step.channels),
                 mixed.data() + sequence * step.channels);
    });
    share_work(step.sequences * step.heads, threads, [&](Indices& indices) {
        std::vector<float> memory(size_t(2 * step.key_dim + step.value_dim));
        for (long i; indices.next(&i);) {
            const long sequence = i / step.heads;
            recur(step, mixed.data() + sequence * step.channels, sequence, i % step.heads,
                  memory.data());
        }
    });
}

}  // namespace
}  // namespace qcode

using namespace qcode;

extern "C" {

// Shapes as in DeltaStep. No two sequences have the same slot.
void qcode_gated_delta_step(const float* qkv, const float* g, const float* beta,
                            const float* weight, float* conv, float* recurrent,
                            const int64_t* slots, float* output, long sequences, long channels,
                            long taps, long heads, long key_dim, long value_dim, int threads) {
    run({qkv, g, beta, weight, conv, recurrent, slots, output, sequences, channels, taps, heads,
         key_dim, value_dim},
        threads);
}

}  // extern "C"
