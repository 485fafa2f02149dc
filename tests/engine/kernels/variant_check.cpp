// Runs the kernels on the same numbers wherever it is compiled for and prints what they compute, a
// line for each case: a name, then the numbers. Two variants are compared by what they print.
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

extern "C" {
const char* qcode_best_variant();
long qcode_packed_bytes(int ggml_type, long rows, long columns);
void qcode_pack(int ggml_type, const void* source, void* packed, long rows, long columns,
                int threads);
int qcode_unpack_rows(int ggml_type, const void* packed, const int64_t* ids, long count,
                      float* values, long rows, long columns);
void qcode_multiply(int ggml_type, const void* packed, const float* x, float* y, long tokens,
                    long rows, long columns, int threads);
long qcode_row_bytes(int ggml_type, long columns);
void qcode_multiply_rows(int ggml_type, const void* weight, const float* x, float* y, long tokens,
                         long rows, long columns, int threads);
int qcode_decode_rows(int ggml_type, const void* weight, const int64_t* ids, long count,
                      float* values, long rows, long columns);
void qcode_rms_norm(const float* x, const float* weight, float* y, long tokens, long width,
                    float epsilon, int threads);
void qcode_silu_and_mul(const float* gate, const float* up, float* y, long count, int threads);
void qcode_rotary(const float* x, const float* cosines, const float* sines, float* y, long tokens,
                  long heads, long head_dim, long half, long stride, int threads);
void qcode_write_cache(void* cached_keys, void* cached_values, float* key_scales,
                       float* value_scales, const float* key_channels, const float* keys,
                       const float* values, const int64_t* slots, long kv_heads, long head_dim,
                       long block_size, long stride, long tokens, int format, int threads);
void qcode_paged_attention(const float* q, void* keys, void* values, float* key_scales,
                           float* value_scales, const float* key_channels, const int32_t* tables,
                           const int32_t* query_starts, const int32_t* contexts, float* output,
                           long sequences, long heads, long kv_heads, long head_dim,
                           long block_size, long table_width, float scale, int format, int threads);
}

namespace {

constexpr int kThreads = 2;

// xorshift64 of Marsaglia (2003): the same numbers on every machine.
class Random {
  public:
    uint32_t bits() {
        state_ ^= state_ << 13, state_ ^= state_ >> 7, state_ ^= state_ << 17;
        return uint32_t(state_ >> 32);
    }
    int below(int limit) { return int(bits() % uint32_t(limit)); }
    float symmetric() { return float(below(2001) - 1000) / 1000; }

  private:
    uint64_t state_ = 88172645463325252u;
} random_numbers;

std::vector<float> random_floats(long count) {
    std::vector<float> values(static_cast<size_t>(count));
    for (float& value : values) value = random_numbers.symmetric();
    return values;
}

// Whole multiples of a power of two, up to 127 of them in every block of 32: these are the same in
// eight bits on every machine, however a product and a sum are rounded.
std::vector<float> exact_in_eight_bits(long count) {
    std::vector<float> values(static_cast<size_t>(count));
    float unit = 1;
    for (size_t i = 0; i < values.size(); i++) {
        if (i % 32 == 0) unit = random_numbers.below(8) ? 1.0f / float(1 << random_numbers.below(9)) : 0;
        values[i] = unit * float(i % 32 == 7 ? 127 : random_numbers.below(255) - 127);
    }
    return values;
}

void print(const std::string& name, const std::vector<float>& values) {
    std::printf("%s", name.c_str());
    for (float value : values) std::printf(" %.9g", double(value));
    std::printf("\n");
}

struct Type {
    int id;
    long columns, bytes;
    std::vector<long> halves;  // where half-precision numbers lie in a block
    bool packs;
};

const Type kTypes[] = {
    {2, 32, 18, {0}, true},      {6, 32, 22, {0}, true},        {8, 32, 34, {0}, true},
    {12, 256, 144, {0, 2}, true}, {13, 256, 176, {0, 2}, true},  {14, 256, 210, {208}, true},
    {3, 32, 20, {0, 2}, false},  {7, 32, 24, {0, 2}, false},    {10, 256, 84, {80, 82}, false},
    {11, 256, 110, {108}, false}, {20, 32, 18, {0}, false},      {23, 256, 136, {0}, false},
    {39, 32, 17, {}, false},     {1, 4, 8, {0, 2, 4, 6}, false},
};

// Half-precision numbers: denormal, ordinary, and next to the largest.
enum Scale { kSmallest, kOrdinary, kLargest };

uint16_t random_half(Scale scale) {
    const int sign = random_numbers.below(2) << 15;
    if (scale == kSmallest) return uint16_t(sign | random_numbers.below(0x400));
    if (scale == kOrdinary) return uint16_t(sign | (0x2800 + random_numbers.below(0x800)));
    return uint16_t(sign | (0x7b00 + random_numbers.below(0x100)));
}

std::vector<uint8_t> random_weight(const Type& type, Scale scale, long rows, long columns) {
    std::vector<uint8_t> weight(size_t(rows * columns / type.columns * type.bytes));
    for (uint8_t& byte : weight) byte = uint8_t(random_numbers.bits());
    for (size_t block = 0; block < weight.size(); block += size_t(type.bytes)) {
        if (type.halves.empty()) weight[block] = uint8_t(100 + random_numbers.below(50));
        for (long at : type.halves) {
            const uint16_t half = random_half(scale);
            std::memcpy(&weight[block + size_t(at)], &half, sizeof half);
        }
    }
    return weight;
}

void check_product(const Type& type, Scale scale, long rows, long columns, long tokens) {
    const std::string of = std::to_string(type.id) + "/" + std::to_string(scale) + "/" +
                           std::to_string(rows) + "x" + std::to_string(columns) + "/" +
                           std::to_string(tokens);
    const std::vector<uint8_t> weight = random_weight(type, scale, rows, columns);
    const std::vector<float> x = exact_in_eight_bits(tokens * columns);
    std::vector<float> y(size_t(tokens * rows)), row(static_cast<size_t>(columns));
    const int64_t last = rows - 1;
    qcode_multiply_rows(type.id, weight.data(), x.data(), y.data(), tokens, rows, columns, kThreads);
    print("multiply_rows/" + of, y);
    qcode_decode_rows(type.id, weight.data(), &last, 1, row.data(), rows, columns);
    print("decode_rows/" + of, row);
    if (!type.packs) return;
    std::vector<uint8_t> packed(size_t(qcode_packed_bytes(type.id, rows, columns)));
    qcode_pack(type.id, weight.data(), packed.data(), rows, columns, kThreads);
    qcode_multiply(type.id, packed.data(), x.data(), y.data(), tokens, rows, columns, kThreads);
    print("multiply/" + of, y);
    qcode_unpack_rows(type.id, packed.data(), &last, 1, row.data(), rows, columns);
    print("unpack_rows/" + of, row);
}

void check_elementwise(long tokens, long width) {
    const std::string of = "/" + std::to_string(tokens) + "x" + std::to_string(width);
    const std::vector<float> x = random_floats(tokens * width), weight = random_floats(width);
    std::vector<float> y(x.size());
    qcode_rms_norm(x.data(), weight.data(), y.data(), tokens, width, 1e-6f, kThreads);
    print("rms_norm" + of, y);
    std::vector<float> gate = random_floats(tokens * width);
    for (size_t i = 0; i < gate.size(); i++) gate[i] *= i % 3 ? 5 : 120;
    qcode_silu_and_mul(gate.data(), x.data(), y.data(), tokens * width, kThreads);
    print("silu_and_mul" + of, y);
    const long half = width / 4;
    const std::vector<float> cosines = random_floats(tokens * half);
    const std::vector<float> sines = random_floats(tokens * half);
    qcode_rotary(x.data(), cosines.data(), sines.data(), y.data(), tokens, 1, width, half, width,
                 kThreads);
    print("rotary" + of, y);
}

// One of the cache's formats, numbered as in cache_formats.h.
struct Cache {
    static constexpr long kBlocks = 24, kBlockSize = 16, kHeads = 2;
    int format;
    long head_dim;
    std::vector<uint8_t> keys, values;
    std::vector<float> key_scales, value_scales;

    Cache(int format, long head_dim) : format(format), head_dim(head_dim) {
        const long numbers = kBlocks * kHeads * kBlockSize * head_dim;
        keys = random_numbers_of(numbers), values = random_numbers_of(numbers);
        if (format >= 3) {
            for (long i = 0; i < numbers / head_dim; i++) {
                key_scales.push_back(0.01f + 0.01f * random_numbers.symmetric() / 2);
                value_scales.push_back(0.01f + 0.01f * random_numbers.symmetric() / 2);
            }
        }
    }
    long width() const { return format == 0 ? 4 : format < 3 ? 2 : 1; }
    float* scales_of_keys() { return format >= 3 ? key_scales.data() : nullptr; }
    float* scales_of_values() { return format >= 3 ? value_scales.data() : nullptr; }

    std::vector<uint8_t> random_numbers_of(long count) const {
        std::vector<uint8_t> bytes(size_t(count * width()));
        for (long i = 0; i < count; i++) {
            uint32_t bits = random_numbers.bits();
            const float value = random_numbers.symmetric();
            if (format == 0) std::memcpy(&bits, &value, sizeof bits);
            if (format == 1) bits = (bits & 0x83ff) | 0x3400;
            if (format == 2) bits = (bits & 0x807f) | 0x3f00;
            if (format == 4) bits &= 0xbf;
            std::memcpy(&bytes[size_t(i * width())], &bits, size_t(width()));
        }
        return bytes;
    }
};

void check_attention(Cache cache, long new_tokens, long context) {
    const std::string of = "/" + std::to_string(cache.format) + "/" + std::to_string(cache.head_dim) +
                           "/" + std::to_string(new_tokens) + "of" + std::to_string(context);
    constexpr long kQueryHeads = 6;
    const std::vector<float> q = random_floats(new_tokens * kQueryHeads * cache.head_dim);
    std::vector<float> output(q.size());
    std::vector<int32_t> table;
    for (int32_t i = 0; i < Cache::kBlocks; i++) table.push_back(i * 7 % Cache::kBlocks);
    const int32_t starts[] = {0, int32_t(new_tokens)}, contexts[] = {int32_t(context)};
    qcode_paged_attention(q.data(), cache.keys.data(), cache.values.data(), cache.scales_of_keys(),
                          cache.scales_of_values(), nullptr, table.data(), starts, contexts,
                          output.data(), 1, kQueryHeads, Cache::kHeads, cache.head_dim,
                          Cache::kBlockSize, Cache::kBlocks, 0.1f, cache.format, kThreads);
    print("attention" + of, output);
}

// Prints what was written as attention to one slot alone gives it back: its value.
void check_write(Cache cache) {
    const long tokens = 5, stride = Cache::kHeads * cache.head_dim;
    std::vector<float> keys = random_floats(tokens * stride), values = random_floats(tokens * stride);
    for (float& value : values) value *= 3;
    const std::vector<int64_t> slots{0, 17, 40, 100, 383};
    std::vector<float> channels(size_t(stride), 1.0f);
    qcode_write_cache(cache.keys.data(), cache.values.data(), cache.scales_of_keys(),
                      cache.scales_of_values(), channels.data(), keys.data(), values.data(),
                      slots.data(), Cache::kHeads, cache.head_dim, Cache::kBlockSize, stride, tokens,
                      cache.format, kThreads);
    for (int64_t slot : slots) {
        if (slot % Cache::kBlockSize) continue;
        const int32_t table[] = {int32_t(slot / Cache::kBlockSize)}, starts[] = {0, 1}, contexts[] = {1};
        std::vector<float> output(static_cast<size_t>(stride));
        qcode_paged_attention(keys.data(), cache.keys.data(), cache.values.data(),
                              cache.scales_of_keys(), cache.scales_of_values(), nullptr, table, starts,
                              contexts, output.data(), 1, Cache::kHeads, Cache::kHeads,
                              cache.head_dim, Cache::kBlockSize, 1, 1, cache.format, kThreads);
        print("write/" + std::to_string(cache.format) + "/" + std::to_string(cache.head_dim), output);
    }
    std::vector<float> bytes(cache.keys.begin(), cache.keys.end());
    if (cache.format < 3) print("bytes/" + std::to_string(cache.format), bytes);
}

}  // namespace

int main() {
    std::printf("variant %s\n", qcode_best_variant());
    for (const Type& type : kTypes)
        for (Scale scale : {kSmallest, kOrdinary, kLargest})
            for (long tokens = 1; tokens <= 9; tokens++)
                check_product(type, scale, tokens % 2 ? 5 : 19, tokens % 3 ? 256 : 768, tokens);
    for (long width : {32, 52, 256}) check_elementwise(3, width);
    for (int format = 0; format < 5; format++)
        for (long head_dim : {16, 64, 80}) {
            check_attention(Cache(format, head_dim), 1, 1);
            check_attention(Cache(format, head_dim), 1, 301);
            check_attention(Cache(format, head_dim), 3, 77);
            check_attention(Cache(format, head_dim), 40, 130);
            check_write(Cache(format, head_dim));
        }
    return 0;
}
