// Memory for what lives as long as one call.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

namespace qcode {

// Gives out pieces of a large chunk, kept from call to call. Pointers stay valid until `restart`.
class Arena {
  public:
    // `count` values of a plain type, uninitialised, at a multiple of 64 bytes.
    template <class T>
    T* take(long count) {
        const size_t bytes = (size_t(count) * sizeof(T) + 63) / 64 * 64;
        if (chunks_.empty() || used_ + bytes > chunks_.back().bytes) {
            const size_t grown = chunks_.empty() ? kFirstBytes : 2 * chunks_.back().bytes;
            chunks_.emplace_back(bytes > grown ? bytes : grown);
            used_ = 0;
        }
        void* piece = chunks_.back().start + used_;
        used_ += bytes;
        return static_cast<T*>(piece);
    }

    // All that was given out is free again.
    void restart() {
        if (chunks_.size() > 1) {
            size_t total = 0;
            for (const Chunk& chunk : chunks_) total += chunk.bytes;
            chunks_.clear();
            chunks_.emplace_back(total);
        }
        used_ = 0;
    }

    // As `restart`, and what a large call needed goes back to the system.
    void release() {
        restart();
        if (!chunks_.empty() && chunks_.back().bytes > kKeptBytes) chunks_.clear();
    }

  private:
    static constexpr size_t kFirstBytes = 256 * 1024, kKeptBytes = 4 * 1024 * 1024;

    struct Chunk {
        explicit Chunk(size_t size)
            : bytes(size), memory(new char[size + 63]),
              start(memory.get() + (64 - reinterpret_cast<size_t>(memory.get()) % 64) % 64) {}
        size_t bytes;
        std::unique_ptr<char[]> memory;
        char* start;
    };

    std::vector<Chunk> chunks_;
    size_t used_ = 0;
};

}  // namespace qcode
