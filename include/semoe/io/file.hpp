#pragma once

#include "semoe/core/error.hpp"
#include "semoe/core/message.hpp"
#include "semoe/core/types.hpp"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fcntl.h>
#include <span>
#include <string>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <utility>

namespace semoe::io {

/// The system calls that semoe makes on files. Each behaves as the call of its name: -1 (map:
/// MAP_FAILED) and errno on failure, short transfers and EINTR allowed. Replace it to inject
/// faults or to reach storage of another kind; callers use File, which completes and explains.
class FileSystem {
public:
    virtual ~FileSystem() = default;
    virtual int open(char const* path, int flags, mode_t mode) = 0;
    virtual int close(int descriptor) = 0;
    virtual ssize_t read_at(int descriptor, void* to, std::size_t n, index_t offset) = 0;
    virtual ssize_t write_at(int descriptor, void const* from, std::size_t n, index_t offset) = 0;
    virtual int sync(int descriptor) = 0;
    /// The size in bytes of a regular file; for anything else -1 and EINVAL.
    virtual index_t size(int descriptor) = 0;
    /// Read-only pages of the first n bytes, released with ::munmap.
    virtual void* map(int descriptor, std::size_t n) = 0;
    virtual int rename(char const* from, char const* to) = 0;
    virtual int unlink(char const* path) = 0;
    virtual int make_directory(char const* path, mode_t mode) = 0;
    /// Keeps others that ask from the open file until it is closed, or only those that do not
    /// share: EWOULDBLOCK when one of them is first. Storage without such a thing lets all in.
    virtual int lock(int, bool /*shared*/) { return 0; }
    /// Whether two descriptors are of one file; storage that cannot tell takes it to be so.
    virtual bool same_file(int, int) { return true; }
    /// As rename, but EEXIST where `to` names something. Storage without such a thing replaces it.
    virtual int rename_new(char const* from, char const* to) { return rename(from, to); }
    /// Whether the path names the open file, still. Storage that cannot tell says so.
    virtual bool names(char const* /*path*/, int /*descriptor*/) { return true; }
    /// Whether descriptors are the system's own, so that it may be handed transfers of them past
    /// read_at and write_at.
    virtual bool native() const { return false; }
};

/// The system's own files.
class PosixFileSystem : public FileSystem {
public:
    int open(char const* path, int flags, mode_t mode) override {
        int const descriptor = ::open(path, flags | O_CLOEXEC, mode);
        // It was for the opening; io_uring would not wait for devices that cannot say when.
        if (descriptor >= 0 && (flags & O_NONBLOCK) != 0)
            ::fcntl(descriptor, F_SETFL, flags & ~O_NONBLOCK);
        return descriptor;
    }
    int close(int descriptor) override { return ::close(descriptor); }
    ssize_t read_at(int descriptor, void* to, std::size_t n, index_t offset) override {
        return ::pread(descriptor, to, n, offset);
    }
    ssize_t write_at(int descriptor, void const* from, std::size_t n, index_t offset) override {
        return ::pwrite(descriptor, from, n, offset);
    }
    int sync(int descriptor) override { return ::fsync(descriptor); }
    index_t size(int descriptor) override {
        struct stat status = {};
        if (::fstat(descriptor, &status) != 0) return -1;
        if (S_ISREG(status.st_mode)) return status.st_size;
        errno = EINVAL;
        return -1;
    }
    void* map(int descriptor, std::size_t n) override {
        return ::mmap(nullptr, n, PROT_READ, MAP_PRIVATE, descriptor, 0);
    }
    int rename(char const* from, char const* to) override { return std::rename(from, to); }
    int unlink(char const* path) override { return ::unlink(path); }
    int make_directory(char const* path, mode_t mode) override { return ::mkdir(path, mode); }
    int lock(int descriptor, bool shared) override {
        return ::flock(descriptor, (shared ? LOCK_SH : LOCK_EX) | LOCK_NB);
    }
    bool same_file(int a, int b) override {
        struct stat one = {}, other = {};
        return ::fstat(a, &one) == 0 && ::fstat(b, &other) == 0 && same(one, other);
    }
    int rename_new(char const* from, char const* to) override {
        if (::link(from, to) == 0) {
            ::unlink(from); // where it stays, it is one name too many
            return 0;
        }
        // A file system that has no links cannot do without a moment in which others may come.
        bool const has_none = errno == EPERM || errno == EOPNOTSUPP || errno == ENOSYS;
        return has_none ? std::rename(from, to) : -1;
    }
    bool names(char const* path, int descriptor) override {
        struct stat named = {}, opened = {};
        return ::stat(path, &named) == 0 && ::fstat(descriptor, &opened) == 0 &&
               same(named, opened);
    }
    bool native() const override { return true; }

private:
    static bool same(struct stat const& a, struct stat const& b) {
        return a.st_dev == b.st_dev && a.st_ino == b.st_ino;
    }
};

/// The file system that is meant where none is given.
inline FileSystem& default_file_system() {
    static PosixFileSystem system;
    return system;
}

/// A system call that failed: "NAME: OPERATION: REASON".
struct file_error : store_error {
    int code; ///< errno

    file_error(std::string const& name, char const* operation, int error)
      : store_error(name + ": " + operation + ": " + std::strerror(error))
      , code(error) {}
};

/// How a file is opened.
enum class Open {
    read,          ///< must exist
    update,        ///< must exist; to read and write
    direct_read,   ///< must exist; past the system's cache: aligned transfers only
    direct_update, ///< both
    create,        ///< must not exist
    replace,       ///< made when it is missing, emptied when it exists
    directory,     ///< must exist; only to make what it lists survive a power cut, with sync()
};

/// An open file: move-only; every transfer is whole or an exception that names the file, the
/// operation and the system's reason.
class File {
public:
    /// @param name what errors call the file, where that is not its path
    /// @throws file_error when it cannot be opened
    File(FileSystem& system, std::string const& path, Open how, std::string const& name = {})
      : system_(&system)
      , name_(name.empty() ? path : name) {
        int const flags = flags_of(how);
        do {
            descriptor_ = system_->open(path.c_str(), flags, 0666);
        } while (descriptor_ < 0 && errno == EINTR);
        if (descriptor_ < 0) fail(flags & O_CREAT ? "create" : "open");
    }
    File(File&& other) noexcept
      : system_(other.system_)
      , name_(std::move(other.name_))
      , descriptor_(std::exchange(other.descriptor_, -1)) {}
    File& operator=(File&& other) noexcept {
        std::swap(system_, other.system_);
        std::swap(name_, other.name_);
        std::swap(descriptor_, other.descriptor_);
        return *this;
    }
    /// Closes without asking how that went; call close() after writing.
    ~File() {
        if (descriptor_ >= 0) system_->close(descriptor_);
    }

    /// @throws store_error, also for what is not a regular file
    index_t size() const {
        index_t const n = system_->size(descriptor_);
        if (n < 0 && errno == EINVAL) throw store_error(name_ + ": size: not a regular file");
        if (n < 0) fail("size");
        return n;
    }

    /// Read-only pages of the first n bytes, released with ::munmap. @throws file_error
    void* map(std::size_t n) const {
        void* const pages = system_->map(descriptor_, n);
        if (pages == MAP_FAILED) fail("map");
        return pages;
    }

    /// Fills `to` from `offset` on. @throws store_error, also when the file ends before that
    void read_at(std::span<std::byte> to, index_t offset) const {
        while (!to.empty()) {
            ssize_t const n = system_->read_at(descriptor_, to.data(), to.size(), offset);
            if (n < 0 && errno == EINTR) continue;
            if (n < 0) fail("read");
            if (n == 0)
                throw store_error(
                    message("{}: read: the file ends at byte {}, {} more were expected", name_,
                            offset, to.size()));
            to = to.subspan(std::size_t(n));
            offset += n;
        }
    }

    /// Writes all of `from` at `offset`. @throws file_error
    void write_at(std::span<std::byte const> from, index_t offset) {
        while (!from.empty()) {
            ssize_t const n = system_->write_at(descriptor_, from.data(), from.size(), offset);
            if (n < 0 && errno == EINTR) continue;
            if (n < 0) fail("write");
            // A device that takes nothing and gives no reason is full.
            if (n == 0) throw file_error(name_, "write", ENOSPC);
            from = from.subspan(std::size_t(n));
            offset += n;
        }
    }

    /// On return the file's bytes are on the device. @throws file_error
    void sync() {
        int result = 0;
        do {
            result = system_->sync(descriptor_);
        } while (result != 0 && errno == EINTR);
        // EINVAL: a file system that has no such thing for directories keeps no list to lose.
        if (result != 0 && errno != EINVAL) fail("fsync");
    }

    /// Keeps every other File that asks from this one until it is closed, in any process; shared:
    /// those alone that do not share. A mount that has no locks lets all in.
    /// @throws store_error when one of them is first
    void lock(bool shared) {
        if (system_->lock(descriptor_, shared) == 0) return;
        if (errno == ENOSYS || errno == EOPNOTSUPP) return; // the mount has none
        if (errno != EWOULDBLOCK) fail("lock");
        throw store_error(name_ + (shared ? ": it is open for writing, here or elsewhere"
                                          : ": it is already open, here or elsewhere"));
    }

    /// Whether it is what its path names by now, and not a file that was replaced.
    bool is_named() const { return system_->names(name_.c_str(), descriptor_); }

    /// @throws file_error; the file is closed in any case
    void close() {
        // After EINTR the descriptor's state is the system's secret; Linux has closed it.
        if (system_->close(std::exchange(descriptor_, -1)) != 0 && errno != EINTR) fail("close");
    }

    std::string const& name() const { return name_; }
    int descriptor() const { return descriptor_; }

private:
    static int flags_of(Open how) {
#if defined(O_DIRECT)
        constexpr int direct = O_DIRECT;
#else
        constexpr int direct = 0;
#endif
        switch (how) {
        // Without O_NONBLOCK, opening a pipe by mistake waits for ever.
        case Open::read:
            return O_RDONLY | O_NONBLOCK;
        case Open::update:
            return O_RDWR | O_NONBLOCK;
        case Open::direct_read:
            return O_RDONLY | O_NONBLOCK | direct;
        case Open::direct_update:
            return O_RDWR | O_NONBLOCK | direct;
        case Open::create:
            return O_RDWR | O_CREAT | O_EXCL;
        case Open::replace:
            return O_RDWR | O_CREAT | O_TRUNC;
        case Open::directory:
            break;
        }
        return O_RDONLY | O_DIRECTORY;
    }
    [[noreturn]] void fail(char const* operation) const {
        throw file_error(name_, operation, errno);
    }

    FileSystem* system_;
    std::string name_;
    int descriptor_ = -1;
};

} // namespace semoe::io
