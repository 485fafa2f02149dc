// Threads that share the work of one kernel call.
//
// Why not OpenMP: all its threads must arrive before a region ends, and its waiting threads spin.
// On a machine that is busy with other work a region then takes as long as the system keeps any one
// thread from running. Here a thread that does not come in time is not waited for.
#pragma once

#include <atomic>

namespace qcode {

// Numbers below a count, each given out once, whichever thread asks.
class Indices {
  public:
    // Whether one was left; `*index` is then it.
    bool next(long* index) {
        *index = next_.fetch_add(1, std::memory_order_relaxed);
        return *index < count_;
    }
    void restart(long count) {
        count_ = count;
        next_.store(0, std::memory_order_relaxed);
    }

  private:
    long count_ = 0;
    std::atomic<long> next_{0};
};

using SharedWork = void (*)(const void* context, Indices& indices);

// Runs `work` on the calling thread and on up to `threads` - 1 others; returns when all of them have.
void run_shared(long count, int threads, SharedWork work, const void* context);

// `work(indices)` on each thread that takes part: it takes indices until there is none left.
template <class Work>
void share_work(long count, int threads, const Work& work) {
    run_shared(
        count, threads,
        [](const void* context, Indices& indices) { (*static_cast<const Work*>(context))(indices); },
        &work);
}

// `work(i)` for every i below `count`, in any order.
template <class Work>
void parallel_for(long count, int threads, const Work& work) {
    share_work(count, threads, [&work](Indices& indices) {
        for (long i; indices.next(&i);) work(i);
    });
}

}  // namespace qcode
