// Causal attention over a paged cache of keys and values.
//
// The queries that share a key head (tokens times heads of the group) are rows of one tile. A tile
// walks its keys in blocks, keeping a running maximum, sum and weighted total for every row (online
// softmax: Milakov and Gimelshein 2018; FlashAttention: Dao et al. 2022). When there are fewer tiles
// than threads could share, as in decoding, the keys of a tile are split into ranges whose results
// are merged.
#include "attention.h"

#include <vector>

#include "attention_rows.h"
#include "attention_tile.h"
#include "threads.h"

namespace qcode {
namespace {

// From so many rows on, converting a block of keys once and then multiplying matrices is faster.
constexpr int kWideRows = 24;
// A key range is worth a thread's while from this length.
constexpr long kMinimumRange = 512;

template <class Format>
void run_task(const Problem<Format>& problem, const Task& task, Scratch& scratch, Softmax softmax) {
    if (task.rows < kWideRows)
        RowWalk<Format>(problem, task, scratch, softmax).run();
    else
        TileWalk<Format>(problem, task, scratch, softmax).run();
}

template <class Format>
void store_rows(const Problem<Format>& problem, const Task& task, const Softmax& softmax) {
    const long group = problem.group(), head_dim = problem.head_dim;
    for (long row = 0; row < task.rows; row++) {
        const long query = task.first_query + (task.first_row + row) / group;
        const long head = task.kv_head * group + (task.first_row + row) % group;
        float* target = problem.output + (query * problem.heads + head) * head_dim;
        const float inverse = 1 / softmax.sum[row];
        for (long d = 0; d < head_dim; d++)
            target[d] = softmax.total[row * head_dim + d] * inverse;
    }
}

// Adds the result over another range of keys to `into`.
void merge(Softmax& into, const Softmax& other, long rows, long head_dim) {
    for (long row = 0; row < rows; row++) {
        if (other.maximum[row] == kNegativeInfinity) continue;
        const float maximum = std::max(into.maximum[row], other.maximum[row]);
        const float mine = std::exp(into.maximum[row] - maximum);
        const float theirs = std::exp(other.maximum[row] - maximum);
        for (long d = 0; d < head_dim; d++) {
            float& total = into.total[row * head_dim + d];
            total = total * mine + other.total[row * head_dim + d] * theirs;
        }
        into.sum[row] = into.sum[row] * mine + other.sum[row] * theirs;
        into.maximum[row] = maximum;
    }
}

template <class Format>
std::vector<Task> plan(const Problem<Format>& problem, int threads, long& partials) {
    const int32_t *query_starts = problem.batch.query_starts, *contexts = problem.batch.contexts;
    std::vector<Task> tiles;
    for (long s = 0; s < problem.batch.sequences; s++) {
        const long queries = query_starts[s + 1] - query_starts[s];
        const long rows = queries * problem.group();
        for (long kv_head = 0; kv_head < problem.kv_heads; kv_head++)
            for (long first = 0; first < rows; first += kTileRows) {
                const long count = std::min<long>(kTileRows, rows - first);
                const long last_query = (first + count - 1) / problem.group();
                tiles.push_back({s, kv_head, query_starts[s], contexts[s], queries, first, count, 0,
                                 contexts[s] - queries + last_query + 1, -1});
            }
    }
    std::vector<Task> tasks;
    const long wanted = 4 * threads;
    partials = 0;
    for (const Task& tile : tiles) {
        const long most = std::max(1L, tile.end_key / kMinimumRange);
        const long ranges = std::min((wanted + long(tiles.size()) - 1) / long(tiles.size()), most);
        const long length = (tile.end_key + ranges - 1) / ranges;
        for (long first = 0; first < tile.end_key; first += length) {
            Task task = tile;
            task.first_key = first;
            task.end_key = std::min(first + length, tile.end_key);
            if (ranges > 1) task.partial = partials++;
            tasks.push_back(task);
        }
    }
    return tasks;
}

template <class Format>
void attend(const Problem<Format>& problem, int threads) {
    long partials;
    const std::vector<Task> tasks = plan(problem, threads, partials);
    const long partial_floats = Softmax::floats_needed(kTileRows, problem.head_dim);
    const std::unique_ptr<float[]> partial(new float[size_t(partials * partial_floats)]);
    const auto result_of = [&](const Task& task) {
        return Softmax(partial.get() + task.partial * partial_floats, task.rows);
    };
    const long count = long(tasks.size());
    share_work(count, threads, [&](Indices& indices) {
        Scratch scratch(problem.head_dim);
        for (long i; indices.next(&i);) {
            const Task& task = tasks[size_t(count - 1 - i)];  // later tiles see more keys: longest first
            if (task.partial >= 0) {
                run_task(problem, task, scratch, result_of(task));
            } else {
                const Softmax softmax(scratch.softmax.get(), task.rows);
                run_task(problem, task, scratch, softmax);
                store_rows(problem, task, softmax);
            }
        }
    });
    for (long i = 0; i < count;) {
        const Task& first = tasks[size_t(i++)];
        if (first.partial < 0) continue;
        Softmax whole = result_of(first);
        for (; i < count && tasks[size_t(i)].first_key > 0; i++)
            merge(whole, result_of(tasks[size_t(i)]), first.rows, problem.head_dim);
        store_rows(problem, first, whole);
    }
}

}  // namespace

void paged_attention(const PagedCache& cache, const AttentionBatch& batch, const float* q,
                     long q_stride, long heads, float scale, float* output, int threads) {
    with_cache_format(cache.format, [&]<class Format>(Format) {
        attend(Problem<Format>{cache, batch, q, q_stride, heads, scale, output}, threads);
    });
}

}  // namespace qcode

using namespace qcode;

extern "C" {

// Shapes as in PagedCache, AttentionBatch and paged_attention.
void qcode_paged_attention(const float* q, void* keys, void* values, float* key_scales,
                           float* value_scales, const float* key_channels, const int32_t* tables,
                           const int32_t* query_starts, const int32_t* contexts, float* output, long sequences, long heads,
                           long kv_heads, long head_dim, long block_size, long table_width,
                           float scale, int format, int threads) {
    const PagedCache cache{keys,     values,   key_scales, value_scales, key_channels,
                           kv_heads, head_dim, block_size, format};
    const AttentionBatch batch{tables, query_starts, contexts, sequences, table_width};
    paged_attention(cache, batch, q, heads * head_dim, heads, scale, output, threads);
}

}  // extern "C"
