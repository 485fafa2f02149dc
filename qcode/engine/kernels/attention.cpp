// Causal attention over a paged cache of keys and values.
//
// The queries that share a key head (tokens times heads of the group) are rows of one tile. A tile
// walks its keys in blocks, keeping a running maximum, sum and weighted total for every row (online
// softmax: Milakov and Gimelshein 2018; FlashAttention: Dao et al. 2022). When there are fewer tiles
// than threads could share, as in decoding, the keys of a tile are split into ranges whose results
// are merged.
//
// A query that comes with few others of its sequence has the same result to the last bit whatever
// comes with it: what it computes, and in which order, depends on positions alone. So a guess that is
// checked in a step of several tokens leads to the answer that steps of one token lead to.
#include "attention.h"

#include <vector>

#include "attention_rows.h"
#include "attention_tile.h"
#include "threads.h"

namespace qcode {
namespace {

// Up to so many queries of a sequence each is computed as if it were alone. With more, converting a
// block of keys once and then multiplying matrices is faster.
constexpr int kNarrowQueries = 32;
// A key range is worth a thread's while from this length.
constexpr long kMinimumRange = 512;

// `results` has room for those of all chunks of the task.
template <class Format>
void run_task(const Problem<Format>& problem, const Task& task, Scratch& scratch, float* results) {
    if (task.is_narrow)
        RowWalk<Format>(problem, task, scratch, results).run();
    else
        TileWalk<Format>(problem, task, scratch, Softmax(results, task.rows)).run();
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

// Adds the result over another range of keys to `into`. A row that sees none of them stays as it is.
void merge(Softmax& into, const Softmax& other, long rows, long head_dim) {
    for (long row = 0; row < rows; row++) {
        if (other.maximum[row] == kNegativeInfinity) continue;
        const float maximum = std::max(into.maximum[row], other.maximum[row]);
        const float mine = std::exp(into.maximum[row] - maximum);
        const float theirs = std::exp(other.maximum[row] - maximum);
        for (long d = row * head_dim; d < (row + 1) * head_dim; d += kLanes)
            store(into.total + d, load<Floats>(into.total + d) * mine +
                                      load<Floats>(other.total + d) * theirs);
        into.sum[row] = into.sum[row] * mine + other.sum[row] * theirs;
        into.maximum[row] = maximum;
    }
}

// The rows of each sequence and key head, up to kTileRows at a time, over all keys they see.
template <class Format>
std::vector<Task> tile_queries(const Problem<Format>& problem) {
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
                                 contexts[s] - queries + last_query + 1, -1,
                                 queries <= kNarrowQueries});
            }
    }
    return tiles;
}

// The tasks of all tiles, those of a tile in the order of their keys. Narrow ones begin with a chunk.
template <class Format>
std::vector<Task> plan(const Problem<Format>& problem, int threads, long& partial_floats) {
    const std::vector<Task> tiles = tile_queries(problem);
    const long wanted = (4 * threads + long(tiles.size()) - 1) / std::max(1L, long(tiles.size()));
    std::vector<Task> tasks;
    partial_floats = 0;
    for (const Task& tile : tiles) {
        const long most = std::max(1L, tile.end_key / kMinimumRange);
        const long ranges = std::min(wanted, most);
        long length = (tile.end_key + ranges - 1) / ranges;
        if (tile.is_narrow) length = (length + kChunkKeys - 1) / kChunkKeys * kChunkKeys;
        const bool is_merged = length < tile.end_key || tile.chunks() > 1;
        for (long first = 0; first < tile.end_key; first += length) {
            Task task = tile;
            task.first_key = first;
            task.end_key = std::min(first + length, tile.end_key);
            if (is_merged) {
                task.partial = partial_floats;
                partial_floats +=
                    task.chunks() * Softmax::floats_needed(task.rows, problem.head_dim);
            }
            tasks.push_back(task);
        }
    }
    return tasks;
}

// Merges the results of a tile, which lie one after another, and stores them.
template <class Format>
void merge_tile(const Problem<Format>& problem, const Task& first, const Task& last,
                float* partials) {
    const long floats = Softmax::floats_needed(first.rows, problem.head_dim);
    Softmax whole(partials + first.partial, first.rows);
    const long end = last.partial + last.chunks() * floats;
    for (long partial = first.partial + floats; partial < end; partial += floats)
        merge(whole, Softmax(partials + partial, first.rows), first.rows, problem.head_dim);
    store_rows(problem, first, whole);
}

template <class Format>
void attend(const Problem<Format>& problem, int threads) {
    long partial_floats;
    const std::vector<Task> tasks = plan(problem, threads, partial_floats);
    const std::unique_ptr<float[]> partials(new float[size_t(partial_floats)]);
    const long count = long(tasks.size());
    share_work(count, threads, [&](Indices& indices) {
        Scratch scratch(problem.head_dim);
        for (long i; indices.next(&i);) {
            const Task& task = tasks[size_t(count - 1 - i)];  // later tiles see more keys: longest first
            if (task.partial >= 0) {
                run_task(problem, task, scratch, partials.get() + task.partial);
            } else {
                run_task(problem, task, scratch, scratch.softmax.get());
                store_rows(problem, task, Softmax(scratch.softmax.get(), task.rows));
            }
        }
    });
    for (long i = 0; i < count;) {
        const long first = i++;
        while (i < count && tasks[size_t(i)].first_key > 0) i++;
        if (tasks[size_t(first)].partial >= 0)
            merge_tile(problem, tasks[size_t(first)], tasks[size_t(i - 1)], partials.get());
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
