#pragma once

#include "semoe/backend/concept.hpp"
#include "semoe/core/error.hpp"

#include <limits>
#include <optional>
#include <utility>

namespace semoe {

/// Owns n elements of backend memory: move-only, uninitialised, freed in queue order.
template <class T, class B>
class Buffer {
public:
    using space = space_of<B>;

    Buffer() = default;
    /// @throws precondition_error naming an n that is negative, or whose bytes have no number
    /// @cost one allocation of n * sizeof(T) bytes, none for n = 0
    Buffer(B const& backend, index_t n)
      : backend_(backend)
      , size_(n) {
        expects(n >= 0 && n <= std::numeric_limits<index_t>::max() / index_t(sizeof(T)),
                "Buffer: {} elements of {} bytes", n, index_t(sizeof(T)));
        if (n > 0) data_ = static_cast<T*>(backend_->allocate(std::size_t(n) * sizeof(T)));
    }
    Buffer(Buffer&& other) noexcept
      : backend_(std::move(other.backend_))
      , data_(std::exchange(other.data_, nullptr))
      , size_(std::exchange(other.size_, 0)) {}
    Buffer& operator=(Buffer&& other) noexcept {
        std::swap(backend_, other.backend_);
        std::swap(data_, other.data_);
        std::swap(size_, other.size_);
        return *this;
    }
    ~Buffer() {
        if (data_) backend_->deallocate(data_, std::size_t(size_) * sizeof(T));
    }

    T* data() const { return data_; }
    index_t size() const { return size_; }
    VectorView<T, space> view() const { return {data_, size_}; }
    MatrixView<T, space> matrix(index_t rows, index_t cols) const { return {data_, rows, cols}; }

private:
    std::optional<B> backend_; // empty only in a default-constructed buffer
    T* data_ = nullptr;
    index_t size_ = 0;
};

} // namespace semoe
