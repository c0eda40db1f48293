#include <doctest/doctest.h>

#include <cctype>
#include <fstream>
#include <iterator>
#include <string>

namespace {

std::string read(char const* path) {
    std::ifstream in(path);
    return {std::istreambuf_iterator<char>(in), {}};
}
/// The text without its white space, so that indentation does not count.
std::string squeezed(std::string const& text) {
    std::string out;
    for (char const c : text)
        if (!std::isspace(static_cast<unsigned char>(c))) out += c;
    return out;
}

TEST_CASE("rails/readme: its program is the first example's") {
    std::string const readme = read(SEMOE_SOURCE_DIR "/README.md"), fence = "```cpp\n";
    auto const begin = readme.find(fence);
    REQUIRE(begin != std::string::npos);
    auto const end = readme.find("```", begin + fence.size());
    REQUIRE(end != std::string::npos);
    auto const code = squeezed(readme.substr(begin + fence.size(), end - begin - fence.size()));
    CHECK(code.size() > 100);
    auto const example = squeezed(read(SEMOE_SOURCE_DIR "/examples/01_forward.cpp"));
    CHECK(example.find(code) != std::string::npos);
}

} // namespace
