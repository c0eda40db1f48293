#include "semoe/io/mapped_file.hpp"

#include "support/faulty_file_system.hpp"

#include <doctest/doctest.h>
#include <type_traits>

using namespace semoe;
using namespace semoe::io;
using namespace semoe::test;

static_assert(!std::is_copy_constructible_v<MappedFile> &&
              std::is_nothrow_move_constructible_v<MappedFile>);

namespace {
std::string text_of(MappedFile const& file) {
    return {reinterpret_cast<char const*>(file.bytes().data()), file.bytes().size()};
}
} // namespace

TEST_CASE("io/mapped_file: the bytes are the file's, also after moves and after unlinking") {
    ScratchDirectory directory;
    std::string const long_text(100'003, 'x');
    write_text(directory / "a", long_text);
    write_text(directory / "b", "b");
    MappedFile a{directory / "a"};
    std::byte const* const pages = a.bytes().data();
    std::filesystem::remove(directory / "a");
    MappedFile moved{std::move(a)};
    CHECK(a.bytes().empty());
    CHECK(moved.bytes().data() == pages);
    CHECK(text_of(moved) == long_text);
    MappedFile b{directory / "b"};
    b = std::move(moved);
    CHECK(text_of(b) == long_text);
}

TEST_CASE("io/mapped_file: an empty file is zero bytes") {
    ScratchDirectory directory;
    write_text(directory / "empty", "");
    CHECK(MappedFile{directory / "empty"}.bytes().empty());
    CHECK(MappedFile{}.bytes().empty());
}

TEST_CASE("io/mapped_file: what cannot be mapped is refused by name, leaving nothing open") {
    ScratchDirectory directory;
    CHECK_THROWS_WITH_AS(MappedFile{directory / "none"},
                         (directory / "none: open: No such file or directory").c_str(),
                         store_error);
    CHECK_THROWS_WITH_AS(MappedFile{directory.path()},
                         (directory.path() + ": size: not a regular file").c_str(), store_error);
    write_text(directory / "a", "text");
    char const* const names[] = {"open", "size", "map"};
    for (int i = 0; i < 3; ++i) {
        FaultyFileSystem system;
        system.fail_at = i;
        system.error = EACCES;
        CHECK_THROWS_WITH_AS((MappedFile{directory / "a", system}),
                             (directory / "a: " + names[i] + ": Permission denied").c_str(),
                             store_error);
        CHECK(system.open_files.empty());
    }
}
