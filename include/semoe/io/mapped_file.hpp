#pragma once

#include "semoe/io/file.hpp"

#include <cstddef>
#include <span>
#include <string>
#include <utility>

namespace semoe::io {

/// A file's bytes as read-only memory: move-only. Pages are loaded when they are touched, so a
/// file far larger than memory is ordinary. The file must not shrink while it is mapped: the
/// system answers a touch past its end with SIGBUS.
class MappedFile {
public:
    MappedFile() = default;
    /// @throws store_error when the file cannot be opened, is no regular file or cannot be mapped
    explicit MappedFile(std::string const& path, FileSystem& system = default_file_system())
      : MappedFile(File{system, path, Open::read}) {}
    /// A file that is open already; it may be closed afterwards.
    explicit MappedFile(File const& file) {
        auto const size = std::size_t(file.size());
        if (size > 0) // an empty mapping is an error to the system, not to us
            bytes_ = {static_cast<std::byte const*>(file.map(size)), size};
    }
    MappedFile(MappedFile&& other) noexcept
      : bytes_(std::exchange(other.bytes_, {})) {}
    MappedFile& operator=(MappedFile&& other) noexcept {
        std::swap(bytes_, other.bytes_);
        return *this;
    }
    ~MappedFile() {
        if (!bytes_.empty()) ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
    }

    std::span<std::byte const> bytes() const { return bytes_; }

private:
    std::span<std::byte const> bytes_;
};

} // namespace semoe::io
