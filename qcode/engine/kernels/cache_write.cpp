#include "cache_write.h"

#include <algorithm>
#include <vector>

#include "exponential.h"
#include "threads.h"

namespace qcode {
namespace {

// Tokens that one thread writes at a time.
constexpr long kTokensTogether = 16;

float largest_magnitude(const float* source, long count) {
    Floats largest = {};
    for (long i = 0; i < count; i += kLanes) {
        const Floats values = load<Floats>(source + i);
        largest = larger(largest, larger(values, -values));
    }
    float result = 0;
    for (int lane = 0; lane < kLanes; lane++) result = std::max(result, largest[lane]);
    return result;
}

// Scratch of one thread, for a vector.
struct Divided {
    std::vector<float> values;

    const float* of(const float* source, const float* divisors, long head_dim) {
        values.resize(size_t(head_dim));
        for (long d = 0; d < head_dim; d++) values[size_t(d)] = source[d] / divisors[d];
        return values.data();
    }
};

template <class Format>
void write_vector(const float* source, void* target, float* scale, long head_dim) {
    auto* stored = static_cast<typename Format::Stored*>(target);
    if constexpr (sizeof(*stored) == 1) {
        const Floats limit = floats(Format::kLargest);
        *scale = largest_magnitude(source, head_dim) / Format::kLargest;
        // A row of zeros, or of values too small to tell from it, has scale 0.
        const float divisor = *scale == 0 ? 1 : *scale;
        for (long d = 0; d < head_dim; d += kLanes) {
            const Floats values = load<Floats>(source + d) / divisor;
            Format::store(stored + d, smaller(larger(values, -limit), limit));
        }
    } else {
        for (long d = 0; d < head_dim; d += kLanes)
            Format::store(stored + d, load<Floats>(source + d));
    }
}

template <class Format>
void write_token(const PagedCache& cache, const float* keys, const float* values, int64_t slot,
                 Divided& divided) {
    using Stored = typename Format::Stored;
    const long head_dim = cache.head_dim;
    for (long head = 0; head < cache.kv_heads; head++, keys += head_dim, values += head_dim) {
        const long vector =
            cache.first_vector(slot / cache.block_size, head) + slot % cache.block_size;
        const auto write = [&](const float* source, void* stored, float* scales) {
            write_vector<Format>(source, static_cast<Stored*>(stored) + vector * head_dim,
                                 scales ? scales + vector : nullptr, head_dim);
        };
        const float* channels = cache.key_channels;
        write(channels ? divided.of(keys, channels + head * head_dim, head_dim) : keys, cache.keys,
              cache.key_scales);
        write(values, cache.values, cache.value_scales);
    }
}

}  // namespace

void write_cache(const PagedCache& cache, const float* keys, const float* values, long stride,
                 const int64_t* slots, long tokens, int threads) {
    with_cache_format(cache.format, [&]<class Format>(Format) {
        const long parts = (tokens + kTokensTogether - 1) / kTokensTogether;
        parallel_for(parts, threads, [&](long part) {
            const long end = std::min(tokens, (part + 1) * kTokensTogether);
            Divided divided;
            for (long t = part * kTokensTogether; t < end; t++)
                write_token<Format>(cache, keys + t * stride, values + t * stride, slots[t], divided);
        });
    });
}

}  // namespace qcode

using namespace qcode;

extern "C" {

// Shapes as in PagedCache and write_cache.
void qcode_write_cache(void* cached_keys, void* cached_values, float* key_scales,
                       float* value_scales, const float* key_channels, const float* keys,
                       const float* values, const int64_t* slots, long kv_heads, long head_dim, long block_size,
                       long stride, long tokens, int format, int threads) {
    const PagedCache cache{cached_keys, cached_values, key_scales, value_scales, key_channels,
                           kv_heads,    head_dim,      block_size, format};
    write_cache(cache, keys, values, stride, slots, tokens, threads);
}

}  // extern "C"
