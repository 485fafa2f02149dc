#include "threads.h"

#include <chrono>
#include <system_error>
#include <thread>

#include <unistd.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace qcode {
namespace {

inline void pause() {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("isb");
#endif
}

// Waits for `done()`, at first without letting go of the core, then letting others run in between.
// False when `patience` is over first.
template <class Done>
bool spin_until(Done done, std::chrono::microseconds patience) {
    constexpr int kPauses = 1000;  // some tens of microseconds
    for (int i = 0; i < kPauses; i++) {
        if (done()) return true;
        pause();
    }
    const auto end = std::chrono::steady_clock::now() + patience;
    while (!done()) {
        if (std::chrono::steady_clock::now() > end) return false;
        std::this_thread::yield();
    }
    return true;
}

// One job at a time. `state_` is kOpen while threads may join it, plus the number that are in it.
// A thread may join late or never; a job that is closed and has nobody in it is over.
class ThreadPool {
  public:
    ThreadPool() : process_(getpid()) {}

    // Threads do not survive a fork.
    bool is_ours() const { return process_ == getpid(); }

    // False when another thread's job is running.
    bool run(long count, int threads, SharedWork work, const void* context) {
        if (busy_.test_and_set(std::memory_order_acquire)) return false;
        grow(threads - 1);
        work_ = work;
        context_ = context;
        indices_.restart(count);
        limit_ = threads - 1;
        state_.store(kOpen);
        if (sleepers_.load() > 0) {
            wakes_.fetch_add(1);
            wakes_.notify_all();
        }
        work(context, indices_);
        state_.fetch_and(~kOpen);
        const auto is_empty = [this] { return state_.load(std::memory_order_acquire) == 0; };
        while (!spin_until(is_empty, kPatience)) continue;
        busy_.clear(std::memory_order_release);
        return true;
    }

  private:
    static constexpr unsigned kOpen = 1u << 31;
    // Longer than what lies between two kernels of a step, shorter than anyone would notice.
    static constexpr std::chrono::microseconds kPatience{500};

    void grow(int workers) {
        for (; workers_ < workers; workers_++) {
            try {
                std::thread([this] { serve(); }).detach();
            } catch (const std::system_error&) {
                return;  // no more threads can be had: fewer do the work
            }
        }
    }

    [[noreturn]] void serve() {
        for (;;) {
            if (!spin_until([this] { return is_joinable(state_.load()); }, kPatience)) sleep();
            if (!join()) continue;
            work_(context_, indices_);
            // Nothing is left to do, so nobody need join any more.
            state_.fetch_and(~kOpen);
            state_.fetch_sub(1, std::memory_order_release);
        }
    }

    // `limit_` may already be that of the next job: a job may get a thread too many or too few.
    bool is_joinable(unsigned state) const {
        return (state & kOpen) && int(state & ~kOpen) < limit_.load(std::memory_order_relaxed);
    }

    bool join() {
        unsigned state = state_.load();
        while (is_joinable(state))
            if (state_.compare_exchange_weak(state, state + 1)) return true;
        return false;
    }

    void sleep() {
        const int seen = wakes_.load();
        sleepers_.fetch_add(1);
        if (!is_joinable(state_.load())) wakes_.wait(seen);
        sleepers_.fetch_sub(1);
    }

    const pid_t process_;
    int workers_ = 0;
    std::atomic_flag busy_ = ATOMIC_FLAG_INIT;
    SharedWork work_ = nullptr;
    const void* context_ = nullptr;
    std::atomic<int> limit_{0};
    alignas(64) Indices indices_;
    alignas(64) std::atomic<unsigned> state_{0};
    alignas(64) std::atomic<int> sleepers_{0};
    std::atomic<int> wakes_{0};
};

// Never destroyed: its threads may outlive everything else. One left behind by a fork is lost.
ThreadPool& pool() {
    static std::atomic<ThreadPool*> current{nullptr};
    ThreadPool* found = current.load(std::memory_order_acquire);
    if (found && found->is_ours()) return *found;
    ThreadPool* fresh = new ThreadPool;
    if (current.compare_exchange_strong(found, fresh)) return *fresh;
    delete fresh;
    return *found;
}

}  // namespace

void run_shared(long count, int threads, SharedWork work, const void* context) {
    if (threads > 1 && count > 1 && pool().run(count, threads, work, context)) return;
    Indices indices;
    indices.restart(count);
    work(context, indices);
}

}  // namespace qcode
