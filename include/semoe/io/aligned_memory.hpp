#pragma once

#include "semoe/core/error.hpp"
#include "semoe/core/message.hpp"
#include "semoe/core/types.hpp"

#include <cstddef>
#include <cstdint>
#include <new>
#include <utility>

namespace semoe::io {

/// What transfers past the system's cache are aligned to: in memory, in the file and in length.
inline constexpr index_t direct_alignment = 4096;

inline constexpr index_t round_up(index_t n) {
    return (n + direct_alignment - 1) / direct_alignment * direct_alignment;
}
inline bool is_aligned(void const* p) {
    return reinterpret_cast<std::uintptr_t>(p) % std::uintptr_t(direct_alignment) == 0;
}

/// Memory that direct transfers may use: move-only, uninitialised.
class AlignedMemory {
public:
    AlignedMemory() = default;
    /// @throws store_error when there is no more
    explicit AlignedMemory(index_t bytes)
      : data_(static_cast<std::byte*>(::operator new(std::size_t(bytes), alignment, std::nothrow)))
      , size_(bytes) {
        if (!data_) throw store_error(message("io: no memory for a buffer of {} bytes", bytes));
    }
    AlignedMemory(AlignedMemory&& other) noexcept
      : data_(std::exchange(other.data_, nullptr))
      , size_(std::exchange(other.size_, 0)) {}
    AlignedMemory& operator=(AlignedMemory&& other) noexcept {
        std::swap(data_, other.data_);
        std::swap(size_, other.size_);
        return *this;
    }
    ~AlignedMemory() { ::operator delete(data_, alignment); }

    std::byte* data() const { return data_; }
    index_t size() const { return size_; }

private:
    static constexpr std::align_val_t alignment{std::size_t(direct_alignment)};
    std::byte* data_ = nullptr;
    index_t size_ = 0;
};

} // namespace semoe::io
