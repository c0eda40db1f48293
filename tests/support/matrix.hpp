#pragma once

#include "semoe/core/dtype.hpp"
#include "support/memory.hpp"

#include <cstring>
#include <vector>

namespace semoe::test {

/// A matrix in backend memory whose rows lie further apart than they are long. What lies between
/// them must survive every operation.
template <class T, class B>
class PaddedMatrix {
public:
    static constexpr index_t padding = 3;

    PaddedMatrix(B& b, index_t rows, index_t cols, std::uint64_t seed, double scale = 1)
      : rows_(rows)
      , cols_(cols)
      , before_(random_values<T>(seed, rows * (cols + padding), scale))
      , memory_(to_backend(b, before_)) {}

    MatrixView<T, space_of<B>> view() { return {memory_.data(), rows_, cols_, cols_ + padding}; }
    MatrixView<T const, space_of<B>> const_view() { return view(); }
    /// The element as it was made.
    T operator()(index_t r, index_t c) const {
        return before_[static_cast<std::size_t>(r * (cols_ + padding) + c)];
    }
    index_t rows() const { return rows_; }
    index_t cols() const { return cols_; }
    /// The elements as they are now, without padding.
    std::vector<T> read(B& b) {
        auto const now = to_host(b, memory_);
        std::vector<T> values;
        for (std::size_t i = 0; i < now.size(); ++i)
            if (index_t(i) % (cols_ + padding) < cols_) values.push_back(now[i]);
        return values;
    }
    bool padding_intact(B& b) {
        auto const now = to_host(b, memory_);
        for (std::size_t i = 0; i < now.size(); ++i)
            if (index_t(i) % (cols_ + padding) >= cols_ && !(now[i] == before_[i])) return false;
        return true;
    }

private:
    index_t rows_, cols_;
    std::vector<T> before_;
    Buffer<T, B> memory_;
};

/// Bits, for comparing: equal numbers of different sign, or NaN, differ or agree as they should.
template <class T>
bool same_bits(std::vector<T> const& a, std::vector<T> const& b) {
    return a.size() == b.size() &&
           (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

} // namespace semoe::test
