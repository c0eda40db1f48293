#pragma once

#include "semoe/io/file.hpp"

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <mutex>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace semoe::test {

/// A directory of the test's own, removed with everything in it.
class ScratchDirectory {
public:
    ScratchDirectory() {
        std::string pattern =
            (std::filesystem::temp_directory_path() / "semoe-test-XXXXXX").string();
        if (!::mkdtemp(pattern.data())) throw io::file_error(pattern, "mkdtemp", errno);
        path_ = pattern;
    }
    ScratchDirectory(ScratchDirectory const&) = delete;
    ScratchDirectory& operator=(ScratchDirectory const&) = delete;
    ~ScratchDirectory() {
        std::error_code ignored;
        std::filesystem::remove_all(path_, ignored);
    }
    std::string operator/(std::string const& name) const { return path_ + "/" + name; }
    std::string const& path() const { return path_; }
    /// Names of everything in it, sorted.
    std::vector<std::string> list() const {
        std::vector<std::string> names;
        for (auto const& entry : std::filesystem::directory_iterator(path_))
            names.push_back(entry.path().filename().string());
        std::sort(names.begin(), names.end());
        return names;
    }

private:
    std::string path_;
};

inline std::string read_text(std::string const& path) {
    std::ifstream in(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
}
inline void write_text(std::string const& path, std::string const& text) {
    std::ofstream(path, std::ios::binary) << text;
}
inline std::span<std::byte const> bytes_of(std::string const& text) {
    return std::as_bytes(std::span(text.data(), text.size()));
}

/// The system's files, counting operations and failing from the n-th on. Any thread may call; what
/// it has seen is to be looked at when none does.
class FaultyFileSystem : public io::PosixFileSystem {
public:
    /// What stops working once operation `fail_at` (from 0; negative: never) is reached.
    enum class Fault {
        once,      ///< that operation alone
        full_disk, ///< that operation and everything later that needs room
        dead_disk, ///< that operation and everything later but close
    };
    index_t fail_at = -1;
    Fault fault = Fault::once;
    int error = EIO;
    std::size_t longest_transfer = std::size_t(-1); ///< reads and writes stop short after this
    bool interrupts = false;  ///< every open, read, write and fsync first meets EINTR
    bool takes_direct = true; ///< whether files may be opened past the system's cache

    index_t operations = 0;
    std::vector<std::string> log; ///< every operation, by name
    bool failed = false;
    std::set<int> open_files;

    int open(char const* path, int flags, mode_t mode) override {
        if (!passes("open", flags & O_CREAT)) return -1;
        if (!takes_direct && (flags & O_DIRECT)) {
            errno = EINVAL;
            return -1;
        }
        int const descriptor = PosixFileSystem::open(path, flags, mode);
        std::lock_guard guard(mutex_);
        if (descriptor >= 0) open_files.insert(descriptor);
        return descriptor;
    }
    int close(int descriptor) override {
        bool const ok = passes("close", false);
        {
            std::lock_guard guard(mutex_);
            open_files.erase(descriptor);
        }
        int const result = PosixFileSystem::close(descriptor); // a failing close closes as well
        if (!ok) errno = error;
        return ok ? result : -1;
    }
    ssize_t read_at(int descriptor, void* to, std::size_t n, index_t offset) override {
        if (!passes("read", false)) return -1;
        return PosixFileSystem::read_at(descriptor, to, std::min(n, longest_transfer), offset);
    }
    ssize_t write_at(int descriptor, void const* from, std::size_t n, index_t offset) override {
        if (!passes("write", true)) return -1;
        return PosixFileSystem::write_at(descriptor, from, std::min(n, longest_transfer), offset);
    }
    int sync(int descriptor) override {
        // Nobody pulls the plug on a test, and devices are slow.
        return passes("fsync", true) && descriptor >= 0 ? 0 : -1;
    }
    index_t size(int descriptor) override {
        return passes("size", false) ? PosixFileSystem::size(descriptor) : -1;
    }
    void* map(int descriptor, std::size_t n) override {
        return passes("map", false) ? PosixFileSystem::map(descriptor, n) : MAP_FAILED;
    }
    int rename(char const* from, char const* to) override {
        return passes("rename", false) ? PosixFileSystem::rename(from, to) : -1;
    }
    int rename_new(char const* from, char const* to) override {
        return passes("rename", false) ? PosixFileSystem::rename_new(from, to) : -1;
    }
    int unlink(char const* path) override {
        return passes("unlink", false) ? PosixFileSystem::unlink(path) : -1;
    }
    int make_directory(char const* path, mode_t mode) override {
        return passes("mkdir", true) ? PosixFileSystem::make_directory(path, mode) : -1;
    }
    bool native() const override { return false; } // or transfers would pass it by

private:
    std::mutex mutex_;
    bool interrupt_next_ = true;

    bool passes(char const* name, bool needs_room) {
        std::lock_guard guard(mutex_);
        // Of the rest, the system's manual says that they do not meet it, or not to try again.
        bool const interruptible = std::string(name) == "open" || std::string(name) == "read" ||
                                   std::string(name) == "write" || std::string(name) == "fsync";
        if (interrupts && interruptible && std::exchange(interrupt_next_, !interrupt_next_)) {
            errno = EINTR;
            return false;
        }
        log.push_back(name);
        index_t const now = operations++;
        bool const later = fail_at >= 0 && now > fail_at;
        bool const fails = now == fail_at || (later && fault == Fault::full_disk && needs_room) ||
                           (later && fault == Fault::dead_disk && std::string(name) != "close");
        failed |= fails;
        if (fails) errno = error;
        return !fails;
    }
};

} // namespace semoe::test
