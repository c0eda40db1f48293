#pragma once

#include "semoe/backend/buffer.hpp"

#include <vector>

namespace semoe::testing::detail {

/// A copy of host values in backend memory. @sync waits
template <class B, class T>
Buffer<T, B> upload(B& b, std::vector<T> const& values) {
    Buffer<T, B> buffer(b, index_t(values.size()));
    if (!values.empty()) b.copy(buffer.data(), values.data(), values.size() * sizeof(T));
    b.synchronize();
    return buffer;
}
/// A host copy of backend memory, once everything enqueued has run. @sync waits
template <class B, class T>
std::vector<T> download(B& b, Buffer<T, B> const& buffer) {
    std::vector<T> values(std::size_t(buffer.size()));
    if (!values.empty()) b.copy(values.data(), buffer.data(), values.size() * sizeof(T));
    b.synchronize();
    return values;
}

} // namespace semoe::testing::detail
