#pragma once

#include "semoe/backend/buffer.hpp"
#include "semoe/core/error.hpp"

namespace semoe {

/// A bump allocator over one block of memory. Over no memory it only counts, so the code that
/// carves a workspace is also the code that sizes it.
template <class Space>
class Arena {
public:
    static constexpr index_t alignment = 64;

    /// Counts only: views have null data, used() says how much memory the same calls need.
    Arena() = default;
    explicit Arena(Bytes<Space> memory)
      : memory_(memory)
      , counts_only_(false) {}

    /// @throws precondition_error when the memory is too small, naming both sizes
    template <class T>
    VectorView<T, Space> take(index_t n) {
        index_t const bytes = (n * index_t(sizeof(T)) + alignment - 1) / alignment * alignment;
        index_t const begin = used_;
        used_ += bytes;
        if (counts_only_) return {nullptr, n};
        expects(used_ <= memory_.size, "Arena: {} bytes needed, {} reserved", used_, memory_.size);
        return {reinterpret_cast<T*>(memory_.data + begin), n};
    }
    template <class T>
    MatrixView<T, Space> take(index_t rows, index_t cols) {
        return {take<T>(rows * cols).data, rows, cols};
    }

    index_t used() const { return used_; }

private:
    Bytes<Space> memory_;
    bool counts_only_ = true;
    index_t used_ = 0;
};

/// Backend memory for one context, carved once by an Arena and reused every step.
template <class B>
class Workspace {
public:
    Workspace(B const& backend, index_t bytes)
      : memory_(backend, bytes) {}
    Arena<space_of<B>> arena() const { return Arena<space_of<B>>{memory_.view()}; }
    index_t size_bytes() const { return memory_.size(); }

private:
    Buffer<std::byte, B> memory_;
};

} // namespace semoe
