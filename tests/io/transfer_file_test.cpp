#include "semoe/io/transfer_file.hpp"

#include "support/direct.hpp"
#include "support/faulty_file_system.hpp"

#include <doctest/doctest.h>

using namespace semoe;
using namespace semoe::io;
using namespace semoe::test;

namespace {
/// Takes the flag, and refuses the transfers.
struct LateRefusal : PosixFileSystem {
    std::set<int> direct;
    int open(char const* path, int flags, mode_t mode) override {
        int const descriptor = PosixFileSystem::open(path, flags & ~O_DIRECT, mode);
        if (flags & O_DIRECT) direct.insert(descriptor);
        return descriptor;
    }
    ssize_t read_at(int descriptor, void* to, std::size_t n, index_t offset) override {
        if (!direct.contains(descriptor))
            return PosixFileSystem::read_at(descriptor, to, n, offset);
        errno = EINVAL;
        return -1;
    }
};

/// Another file is renamed over the path as soon as somebody has opened it.
struct ReplacedAfterOpen : PosixFileSystem {
    std::string path, next;
    int open(char const* name, int flags, mode_t mode) override {
        int const descriptor = PosixFileSystem::open(name, flags, mode);
        if (!std::exchange(replaced_, true)) PosixFileSystem::rename(next.c_str(), path.c_str());
        return descriptor;
    }

private:
    bool replaced_ = false;
};

std::string read_all(TransferFile const& file, std::size_t n) {
    std::string text(n, '?');
    CHECK(file.read_some(text.data(), n, 0) == index_t(n));
    return text;
}
} // namespace

TEST_CASE("io/transfer_file: goes through the cache where direct transfers are refused") {
    ScratchDirectory directory;
    std::string const path = directory / "file";
    write_text(path, "some text");
    LateRefusal late;
    FaultyFileSystem early;
    early.takes_direct = false;
    for (FileSystem* system : {static_cast<FileSystem*>(&late), static_cast<FileSystem*>(&early)}) {
        TransferFile file(*system, path, true);
        CHECK(file.way() == Way::cached);
        CHECK(read_all(file, 9) == "some text");
        CHECK(file.write_some("SOME", 4, 0) == 4);
        CHECK(read_all(file, 4) == "SOME");
        CHECK(file.write_some("some", 4, 0) == 4);
    }
}

TEST_CASE("io/transfer_file: an error that is not a refusal is an error") {
    ScratchDirectory directory;
    std::string const path = directory / "file";
    CHECK_THROWS_WITH_AS(TransferFile(default_file_system(), path, false),
                         (path + ": open: No such file or directory").c_str(), file_error);
    write_text(path, "some text");
    FaultyFileSystem system;
    system.fail_at = 1;
    CHECK_THROWS_WITH_AS(TransferFile(system, path, false),
                         (path + ": open: Input/output error").c_str(), file_error);
}

TEST_CASE("io/transfer_file: a mapped file is read to its end, and never written") {
    ScratchDirectory directory;
    std::string const path = directory / "file";
    write_text(path, "some text");
    TransferFile const file(default_file_system(), path, false, Way::mapped);
    CHECK(file.way() == Way::mapped);
    CHECK_FALSE(file.native());
    CHECK(read_all(file, 9) == "some text");
    char rest[8];
    CHECK(file.read_some(rest, 8, 5) == 4);
    CHECK(file.read_some(rest, 8, 9) == 0);
    CHECK(file.read_some(rest, 8, 100) == 0);
    CHECK_THROWS_WITH_AS(
        TransferFile(default_file_system(), path, true, Way::mapped),
        (path + ": a mapped file is for reading; open it with another Way to write").c_str(),
        precondition_error);
}

TEST_CASE("io/transfer_file: a path that names another file meanwhile is refused or not seen") {
    for (Way const way : {Way::direct, Way::cached, Way::mapped}) {
        ScratchDirectory directory;
        std::string const path = directory / "file";
        write_text(path, "some text");
        write_text(directory / "next", "MORE TEXT");
        ReplacedAfterOpen system;
        system.path = path;
        system.next = directory / "next";
        if (way == Way::direct && direct_works()) { // else refused before that is seen
            CHECK_THROWS_WITH_AS(TransferFile(system, path, false, way),
                                 (path + ": it was replaced while it was opened").c_str(),
                                 store_error);
        } else {
            TransferFile const file(system, path, false, way);
            CHECK(read_all(file, 9) == "some text");
        }
        CHECK(read_text(path) == "MORE TEXT");
    }
}
