#pragma once

#include "semoe/io/directory.hpp"
#include "semoe/io/file.hpp"

#include <atomic>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <unistd.h>
#include <utility>

namespace semoe::io {

/// A file that appears whole or not at all: bytes go to a temporary in the same directory, and
/// commit() brings them to the device and renames the temporary over the target. Until then the
/// previous file is untouched; a failure, an exception or plain abandonment removes the temporary.
/// A process that is killed leaves it behind: `.semoe-PID-N.tmp`, safe to delete.
class AtomicFile {
public:
    /// @throws file_error when the directory is missing or takes no files
    explicit AtomicFile(std::string path, FileSystem& system = default_file_system())
      : system_(&system)
      , path_(std::move(path))
      , directory_(system, parent_directory(path_), Open::directory) {
        static std::atomic<std::uint32_t> number = 0;
        // Another host may share the directory and our process number: try the next name.
        for (int attempt = 0; !file_; ++attempt) {
            std::string const temporary = directory_.name() + "/.semoe-" +
                                          std::to_string(::getpid()) + "-" +
                                          std::to_string(number.fetch_add(1)) + ".tmp";
            try {
                file_.emplace(system, temporary, Open::create, path_);
                temporary_ = temporary;
            } catch (file_error const& error) {
                if (error.code != EEXIST || attempt == 100) throw;
            }
        }
    }
    AtomicFile(AtomicFile const&) = delete;
    AtomicFile& operator=(AtomicFile const&) = delete;
    ~AtomicFile() {
        if (temporary_.empty()) return;
        file_.reset();
        system_->unlink(temporary_.c_str());
    }

    /// The target's name.
    std::string const& path() const { return path_; }

    /// @throws file_error naming the target
    void write_at(std::span<std::byte const> bytes, index_t offset) {
        file_->write_at(bytes, offset);
    }

    /// On return the target is the new file, on the device. Call it once, last.
    /// @throws file_error naming it; the target is then still the previous file, except when only
    ///         the directory's fsync failed: it is the new one, whole, but may not survive a power
    ///         cut
    /// @sync waits for the device
    void commit() { publish(false); }
    /// As commit, but a file that is there already stays, and nothing is thrown.
    void commit_new() { publish(true); }

private:
    void publish(bool only_new) {
        file_->sync();
        file_->close();
        if ((only_new ? system_->rename_new(temporary_.c_str(), path_.c_str())
                      : system_->rename(temporary_.c_str(), path_.c_str())) != 0) {
            if (only_new && errno == EEXIST) return;
            throw file_error(path_, "rename", errno);
        }
        temporary_.clear();
        directory_.sync();
    }

    FileSystem* system_;
    std::string path_;
    File directory_;
    std::string temporary_; // empty once it is the target
    std::optional<File> file_;
};

} // namespace semoe::io
