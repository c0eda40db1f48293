#include "semoe/io/atomic_file.hpp"

#include "support/faulty_file_system.hpp"

#include <doctest/doctest.h>
#include <stdexcept>

using namespace semoe;
using namespace semoe::io;
using namespace semoe::test;

namespace {
using Names = std::vector<std::string>;

void replace(std::string const& path, std::string const& text, FileSystem& system) {
    AtomicFile file{path, system};
    for (std::size_t i = 0; i < text.size(); i += 4)
        file.write_at(bytes_of(text.substr(i, 4)), index_t(i));
    file.commit();
}
} // namespace

TEST_CASE("io/atomic_file: the file appears at commit, over whatever was there") {
    ScratchDirectory directory;
    std::string const path = directory / "target";
    for (char const* text : {"first version", "second", "3"}) {
        AtomicFile file{path};
        file.write_at(bytes_of(text), 0);
        CHECK(read_text(path) != text);
        file.commit();
        CHECK(read_text(path) == text);
        CHECK(directory.list() == Names{"target"});
    }
}

TEST_CASE("io/atomic_file: abandoned or thrown over, it leaves the previous file and no other") {
    ScratchDirectory directory;
    std::string const path = directory / "target";
    write_text(path, "previous");
    {
        AtomicFile file{path};
        file.write_at(bytes_of("half of"), 0);
        CHECK(directory.list().size() == 2);
    }
    CHECK(read_text(path) == "previous");
    CHECK(directory.list() == Names{"target"});
    try {
        AtomicFile file{path};
        file.write_at(bytes_of("half of"), 0);
        throw std::logic_error("elsewhere");
    } catch (std::logic_error const&) {
    }
    CHECK(read_text(path) == "previous");
    CHECK(directory.list() == Names{"target"});
}

TEST_CASE("io/atomic_file: bytes reach the device before the name, and the name before return") {
    ScratchDirectory directory;
    FaultyFileSystem system;
    replace(directory / "target", "12345678", system);
    CHECK(system.log ==
          Names{"open", "open", "write", "write", "fsync", "close", "rename", "fsync", "close"});
}

TEST_CASE("io/atomic_file: whichever operation fails, however, the previous file stays whole") {
    using Fault = FaultyFileSystem::Fault;
    std::string const old_text = "previous", new_text = "0123456789abcdef";
    ScratchDirectory clean;
    FaultyFileSystem counting;
    replace(clean / "target", new_text, counting);
    for (std::size_t longest : {std::size_t(-1), std::size_t(3)})
        for (int error : {ENOSPC, EIO, EDQUOT})
            for (Fault fault : {Fault::once, Fault::full_disk, Fault::dead_disk})
                for (index_t n = 0;; ++n) {
                    ScratchDirectory directory;
                    std::string const path = directory / "target";
                    write_text(path, old_text);
                    FaultyFileSystem system;
                    system.fail_at = n;
                    system.fault = fault;
                    system.error = error;
                    system.longest_transfer = longest;
                    std::string said;
                    try {
                        replace(path, new_text, system);
                    } catch (file_error const& e) {
                        said = e.what();
                        CHECK(e.code == error);
                    }
                    if (!system.failed) {
                        CHECK(read_text(path) == new_text);
                        break;
                    }
                    std::string const& operation = system.log[std::size_t(n)];
                    CAPTURE(n);
                    CAPTURE(operation);
                    CAPTURE(said);
                    CHECK(system.open_files.empty());
                    // The last close follows the last fsync: there is nothing left to lose.
                    bool const renamed = read_text(path) != old_text;
                    if (renamed) {
                        CHECK(read_text(path) == new_text);
                        CHECK((operation == "fsync" || operation == "close"));
                        CHECK(said.empty() == (operation == "close"));
                    } else {
                        bool const names_it = said.find(directory.path()) == 0;
                        CHECK(names_it);
                    }
                    if (fault != Fault::dead_disk) CHECK(directory.list() == Names{"target"});
                }
}

TEST_CASE("io/atomic_file: as a new file it appears where there is none, and else leaves what is "
          "there") {
    ScratchDirectory directory;
    std::string const path = directory / "target";
    for (char const* text : {"first version", "second"}) {
        AtomicFile file{path};
        file.write_at(bytes_of(text), 0);
        CHECK_NOTHROW(file.commit_new());
        CHECK(read_text(path) == "first version");
    }
    CHECK(directory.list() == Names{"target"});
}

TEST_CASE("io/atomic_file: bytes of a new file reach the device first, and an error is its own") {
    ScratchDirectory directory;
    std::string const path = directory / "target";
    for (int const error : {0, EIO}) {
        FaultyFileSystem system;
        if (error) system.fail_at = 5;
        std::string said;
        try {
            AtomicFile file{path, system};
            file.write_at(bytes_of("text"), 0);
            file.commit_new();
        } catch (file_error const& e) {
            said = e.what();
        }
        CHECK(said == (error ? path + ": rename: Input/output error" : ""));
        CHECK(system.log[3] == "fsync");
        CHECK(system.log[5] == "rename");
        CHECK(directory.list() == (error ? Names{} : Names{"target"}));
        PosixFileSystem{}.unlink(path.c_str());
    }
}

TEST_CASE("io/atomic_file: a new name is linked, or given where that is refused") {
    ScratchDirectory directory;
    std::string const file = directory / "file", folder = directory / "folder";
    std::string const other = directory / "other";
    write_text(file, "text");
    PosixFileSystem system;
    CHECK(system.make_directory(folder.c_str(), 0777) == 0);
    int const result = system.rename_new(file.c_str(), folder.c_str()), error = errno;
    CHECK(result == -1);
    CHECK(error == EEXIST);
    CHECK(read_text(file) == "text");
    // No system links directories: they stand for a file system that links nothing.
    CHECK(system.rename_new(folder.c_str(), other.c_str()) == 0);
    CHECK(directory.list() == Names{"file", "other"});
}

TEST_CASE("io/atomic_file: a temporary left by a killed process is stepped over") {
    ScratchDirectory directory;
    std::string own;
    {
        AtomicFile probe{directory / "target"};
        own = directory.list().at(0);
    }
    REQUIRE(own.find(".semoe-") == 0);
    std::size_t const dash = own.rfind('-') + 1;
    int const next = std::stoi(own.substr(dash)) + 1;
    std::string const stale = own.substr(0, dash) + std::to_string(next) + ".tmp";
    write_text(directory / stale, "of another");
    replace(directory / "target", "text", default_file_system());
    CHECK(read_text(directory / "target") == "text");
    CHECK(read_text(directory / stale) == "of another");
}

TEST_CASE("io/atomic_file: a missing directory or a directory as target is an error by name") {
    ScratchDirectory directory;
    CHECK_THROWS_WITH_AS(AtomicFile{directory / "none/target"},
                         (directory / "none: open: No such file or directory").c_str(), file_error);
    std::filesystem::create_directory(directory / "target");
    CHECK_THROWS_WITH_AS(replace(directory / "target", "x", default_file_system()),
                         (directory / "target: rename: Is a directory").c_str(), file_error);
    CHECK(directory.list() == Names{"target"});
}
