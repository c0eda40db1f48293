#pragma once

#include "semoe/core/error.hpp"
#include "semoe/io/aligned_memory.hpp"
#include "semoe/io/file.hpp"
#include "semoe/io/mapped_file.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>
#include <string>

namespace semoe::io {

/// How the bytes of a file come and go.
enum class Way {
    direct, ///< past the system's cache: no copy, and no memory but the caller's
    cached, ///< through the system's cache
    mapped, ///< the file's pages as memory; to read only
};
inline char const* to_string(Way way) {
    return way == Way::direct ? "direct" : way == Way::cached ? "cached" : "mapped";
}

/// A file open for asynchronous transfers.
class TransferFile {
public:
    /// @param wish  direct becomes cached where the file system has no such thing
    /// @throws store_error when it cannot be opened or mapped, and when the path begins to name
    ///         another file meanwhile
    TransferFile(FileSystem& system, std::string const& path, bool writable, Way wish = Way::direct)
      : system_(&system)
      , file_(system, path, writable ? Open::update : Open::read)
      , way_(wish) {
        expects(wish != Way::mapped || !writable, [&] {
            return path + ": a mapped file is for reading; open it with another Way to write";
        });
        if (wish == Way::mapped) map_ = MappedFile(file_);
        if (wish == Way::direct && !open_direct(path, writable)) way_ = Way::cached;
    }

    Way way() const { return way_; }
    std::string const& name() const { return file_.name(); }
    /// The same file through the system's cache.
    File& file() { return file_; }
    File const& file() const { return file_; }
    /// Whether the descriptor may be given to the system directly.
    bool native() const { return system_->native() && way_ != Way::mapped; }
    /// @param direct  false: of the same file through the system's cache
    int descriptor(bool direct = true) const {
        return direct && direct_ ? direct_->descriptor() : file_.descriptor();
    }

    /// Some bytes, as the system pleases. @return how many, or a negated errno
    index_t read_some(void* to, std::size_t n, index_t offset, bool direct = true) const {
        if (way_ == Way::mapped) {
            auto const bytes = map_.bytes();
            std::size_t const at = std::min(std::size_t(offset), bytes.size());
            n = std::min(n, bytes.size() - at);
            std::memcpy(to, bytes.data() + at, n);
            return index_t(n);
        }
        ssize_t const got = system_->read_at(descriptor(direct), to, n, offset);
        return got < 0 ? -index_t(errno) : index_t(got);
    }
    index_t write_some(void const* from, std::size_t n, index_t offset, bool direct = true) const {
        ssize_t const taken = system_->write_at(descriptor(direct), from, n, offset);
        return taken < 0 ? -index_t(errno) : index_t(taken);
    }

private:
    /// Some file systems refuse at open, others at the first transfer.
    bool open_direct(std::string const& path, bool writable) {
#if defined(O_DIRECT)
        try {
            direct_.emplace(*system_, path, writable ? Open::direct_update : Open::direct_read);
        } catch (file_error const& error) {
            if (error.code != EINVAL) throw;
            return false;
        }
        // A checkpoint is saved by a rename: the path may be another file's by now.
        if (!system_->same_file(file_.descriptor(), direct_->descriptor()))
            throw store_error(path + ": it was replaced while it was opened");
        AlignedMemory const page(direct_alignment);
        if (system_->read_at(direct_->descriptor(), page.data(), std::size_t(page.size()), 0) >=
                0 ||
            errno != EINVAL)
            return true;
        direct_.reset();
#else
        (void)path, (void)writable;
#endif
        return false;
    }

    FileSystem* system_;
    File file_;
    std::optional<File> direct_;
    MappedFile map_;
    Way way_;
};

} // namespace semoe::io
