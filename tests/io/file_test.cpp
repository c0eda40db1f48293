#include "semoe/io/file.hpp"

#include "semoe/io/directory.hpp"
#include "support/faulty_file_system.hpp"

#include <doctest/doctest.h>
#include <functional>
#include <sys/stat.h>

using namespace semoe;
using namespace semoe::io;
using namespace semoe::test;

namespace {
std::string message_of(std::function<void()> const& f) {
    try {
        f();
    } catch (store_error const& error) {
        return error.what();
    }
    return "nothing thrown";
}
std::string content(File const& file, index_t offset, std::size_t n) {
    std::string text(n, '?');
    file.read_at(std::as_writable_bytes(std::span(text)), offset);
    return text;
}
} // namespace

TEST_CASE("io/file: what is written is read back, at any offset") {
    ScratchDirectory directory;
    File file{default_file_system(), directory / "a", Open::create};
    file.write_at(bytes_of("hello"), 3);
    file.write_at(bytes_of("abc"), 0);
    CHECK(file.size() == 8);
    CHECK(content(file, 0, 8) == "abchello");
    CHECK(content(file, 4, 2) == "el");
    CHECK(content(file, 8, 0) == "");
    file.sync();
    file.close();
    File const again{default_file_system(), directory / "a", Open::read};
    CHECK(content(again, 0, 3) == "abc");
    File const emptied{default_file_system(), directory / "a", Open::replace};
    CHECK(emptied.size() == 0);
}

TEST_CASE("io/file: an error names the file, the operation and the reason") {
    ScratchDirectory directory;
    FileSystem& system = default_file_system();
    std::string const a = directory / "a";
    CHECK(message_of([&] { File(system, a, Open::read); }) ==
          a + ": open: No such file or directory");
    write_text(a, "12345");
    CHECK(message_of([&] { File(system, a, Open::create); }) == a + ": create: File exists");
    CHECK(message_of([&] { File(system, a, Open::directory); }) == a + ": open: Not a directory");
    CHECK(message_of([&] { File(system, a + "/b", Open::create, "the target"); }) ==
          "the target: create: Not a directory");
    CHECK(message_of([&] { (void)File(system, directory.path(), Open::read).size(); }) ==
          directory.path() + ": size: not a regular file");
    File const file{system, a, Open::read};
    CHECK(message_of([&] { (void)content(file, 3, 4); }) ==
          a + ": read: the file ends at byte 5, 2 more were expected");
    try {
        File(system, directory / "none", Open::read);
        FAIL("opened");
    } catch (file_error const& error) {
        CHECK(error.code == ENOENT);
    }
}

TEST_CASE("io/file: a pipe is refused without waiting for its other end") {
    ScratchDirectory directory;
    std::string const pipe = directory / "pipe";
    REQUIRE(::mkfifo(pipe.c_str(), 0600) == 0);
    File const file{default_file_system(), pipe, Open::read};
    CHECK_THROWS_AS((void)file.size(), store_error);
}

TEST_CASE("io/file: transfers wait for the device, whatever the opening did not wait for") {
    ScratchDirectory directory;
    write_text(directory / "a", "abc");
    for (Open const how : {Open::read, Open::update}) {
        File const file{default_file_system(), directory / "a", how};
        CHECK((::fcntl(file.descriptor(), F_GETFL) & O_NONBLOCK) == 0);
    }
}

TEST_CASE("io/file: where a mount has no locks all are let in") {
    struct Lockless : PosixFileSystem {
        int error = ENOSYS;
        int lock(int, bool) override {
            errno = error;
            return -1;
        }
    } system;
    ScratchDirectory directory;
    File file{system, directory / "a", Open::create};
    file.lock(false);
    system.error = EOPNOTSUPP;
    file.lock(true);
    system.error = EIO;
    CHECK(message_of([&] { file.lock(false); }) == directory / "a" + ": lock: Input/output error");
    system.error = EWOULDBLOCK;
    CHECK(message_of([&] { file.lock(false); }) ==
          directory / "a" + ": it is already open, here or elsewhere");
}

TEST_CASE("io/file: short transfers and interruptions are continued") {
    ScratchDirectory directory;
    FaultyFileSystem system;
    system.longest_transfer = 3;
    system.interrupts = true;
    std::string const text = "0123456789";
    File file{system, directory / "a", Open::create};
    file.write_at(bytes_of(text), 0);
    file.sync();
    CHECK(content(file, 0, 10) == text);
    CHECK(std::count(system.log.begin(), system.log.end(), "write") == 4);
    CHECK(std::count(system.log.begin(), system.log.end(), "read") == 4);
}

TEST_CASE("io/file: a device that takes nothing is full, not an endless loop") {
    ScratchDirectory directory;
    FaultyFileSystem system;
    File file{system, directory / "a", Open::create};
    system.longest_transfer = 0;
    CHECK(message_of([&] { file.write_at(bytes_of("x"), 0); }) ==
          directory / "a" + ": write: No space left on device");
}

TEST_CASE("io/file: every operation's failure is reported, and every descriptor closed") {
    ScratchDirectory directory;
    char const* const names[] = {"create", "write", "fsync", "size", "read", "close"};
    for (int i = 0; i < 6; ++i) {
        FaultyFileSystem system;
        system.fail_at = i;
        std::string const path = directory / std::to_string(i);
        CHECK(message_of([&] {
                  File file{system, path, Open::create};
                  file.write_at(bytes_of("abc"), 0);
                  file.sync();
                  (void)file.size();
                  (void)content(file, 0, 3);
                  file.close();
              }) == path + ": " + names[i] + ": Input/output error");
        CHECK(system.open_files.empty());
    }
}

TEST_CASE("io/file: moving hands the descriptor over") {
    ScratchDirectory directory;
    FaultyFileSystem system;
    {
        File a{system, directory / "a", Open::create};
        File b{std::move(a)};
        File c{system, directory / "c", Open::create};
        c = std::move(b);
        c.write_at(bytes_of("moved"), 0);
        CHECK(system.open_files.size() == 2);
    }
    CHECK(system.open_files.empty());
    CHECK(read_text(directory / "a") == "moved");
}

TEST_CASE("io/directory: missing directories are made, existing ones are fine, files are not") {
    ScratchDirectory directory;
    std::string const deep = directory / "a/b/c";
    create_directories(deep);
    create_directories(deep);
    create_directories(deep + "/");
    CHECK(std::filesystem::is_directory(deep));
    write_text(deep + "/f", "");
    CHECK(message_of([&] { create_directories(deep + "/f"); }) ==
          deep + "/f: open: Not a directory");
    CHECK(message_of([&] { create_directories(deep + "/f/g"); }) ==
          deep + "/f/g: mkdir: Not a directory");
    CHECK(parent_directory("x") == ".");
    CHECK(parent_directory("a/x") == "a");
    CHECK(parent_directory("/x") == "/");
}

TEST_CASE("io/directory: a made directory is synced into the one above") {
    ScratchDirectory directory;
    FaultyFileSystem system;
    create_directories(directory / "a/b", system);
    CHECK(std::count(system.log.begin(), system.log.end(), "fsync") == 2);
    for (index_t n = 0; n < system.operations; ++n) {
        FaultyFileSystem faulty;
        faulty.fail_at = n;
        std::string const path = directory / std::to_string(n);
        std::string const said = message_of([&] { create_directories(path, faulty); });
        if (faulty.failed && faulty.log[std::size_t(n)] != "close") {
            CAPTURE(said);
            CHECK(said.find(": Input/output error") != std::string::npos);
        }
        CHECK(faulty.open_files.empty());
    }
}
