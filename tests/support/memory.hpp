#pragma once

#include "semoe/backend/buffer.hpp"

#include <cstdint>
#include <random>
#include <vector>

namespace semoe::test {

/// A copy of host values in backend memory.
template <class B, class T>
Buffer<T, B> to_backend(B& b, std::vector<T> const& values) {
    Buffer<T, B> buffer(b, index_t(values.size()));
    b.copy(buffer.data(), values.data(), values.size() * sizeof(T));
    b.synchronize();
    return buffer;
}
/// A host copy of n elements of backend memory, once everything enqueued has run.
template <class B, class T>
std::vector<std::remove_const_t<T>> to_host(B& b, T* data, index_t n) {
    std::vector<std::remove_const_t<T>> values(static_cast<std::size_t>(n));
    if (n > 0) b.copy(values.data(), data, values.size() * sizeof(T));
    b.synchronize();
    return values;
}
template <class B, class T>
std::vector<T> to_host(B& b, Buffer<T, B> const& buffer) {
    return to_host(b, buffer.data(), buffer.size());
}

/// Seeded normal numbers.
template <class T>
std::vector<T> random_values(std::uint64_t seed, index_t n, double scale = 1) {
    std::mt19937_64 engine(seed);
    std::normal_distribution<double> normal(0, scale);
    std::vector<T> values(static_cast<std::size_t>(n));
    for (T& v : values) {
        if constexpr (sizeof(T) == 2)
            v = T(float(normal(engine)));
        else
            v = T(normal(engine));
    }
    return values;
}

/// max|a - b| / max|b|, the error every tolerance here is stated in.
template <class A, class C>
double relative_error(std::vector<A> const& a, std::vector<C> const& b) {
    if (a.size() != b.size()) return 1e300;
    double difference = 0, scale = 0;
    for (std::size_t i = 0; i < a.size(); ++i) {
        double const x = double(a[i]), y = double(b[i]);
        if (!(x - y == x - y)) return 1e300;
        difference = std::max(difference, x > y ? x - y : y - x);
        scale = std::max(scale, y < 0 ? -y : y);
    }
    return difference == 0 ? 0 : difference / (scale > 0 ? scale : 1);
}

} // namespace semoe::test
