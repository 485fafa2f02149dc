// Work shared among threads over and over, for ThreadSanitizer (.ci/sanitize): several callers at
// once, jobs of every size that end while threads still come, plain memory that one job writes and
// the next reads. Exits with 1 when a number is missing.
#include "../../../qcode/engine/kernels/threads.h"

#include <cstdio>
#include <thread>
#include <vector>

namespace {

constexpr int kCallers = 3;
constexpr int kJobs = 4000;

// Long enough for other threads to join.
long slowly(long value) {
    volatile int left = 2000;
    while (left > 0) left = left - 1;
    return value;
}

bool every_number_is_there(int caller) {
    for (int job = 0; job < kJobs; job++) {
        const long count = 1 + (job * 7 + caller) % 97;
        std::vector<long> written(count), copied(count);
        qcode::parallel_for(count, 1 + job % 4, [&](long i) { written[i] = slowly(i + job); });
        qcode::parallel_for(count, 2 + job % 3, [&](long i) { copied[i] = written[count - 1 - i]; });
        for (long i = 0; i < count; i++)
            if (copied[i] != count - 1 - i + job) return false;
    }
    return true;
}

}  // namespace

int main() {
    bool complete[kCallers];
    std::vector<std::thread> callers;
    for (int i = 0; i < kCallers; i++)
        callers.emplace_back([&complete, i] { complete[i] = every_number_is_there(i); });
    for (std::thread& caller : callers) caller.join();
    for (const bool one : complete)
        if (!one) return std::puts("a number is missing"), 1;
    return 0;
}
