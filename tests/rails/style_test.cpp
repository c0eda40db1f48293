#include "rails/sources.hpp"
#include "semoe/core/message.hpp"

#include <doctest/doctest.h>

namespace style_test {
namespace {

using namespace semoe::test;

constexpr std::size_t max_columns = 100;

/// Columns of a line of UTF-8.
std::size_t columns(std::string const& line) {
    return std::size_t(
        std::count_if(line.begin(), line.end(), [](char c) { return (c & 0xC0) != 0x80; }));
}

void check_style(SourceFile const& file, Violations& all) {
    for (std::size_t i = 0; i < file.lines.size(); ++i) {
        std::string const& line = file.lines[i];
        if (columns(line) > max_columns) report(all, file, i, "more than 100 columns");
        if (line.find('\t') != std::string::npos) report(all, file, i, "a tab");
        if (line.ends_with(' ') || line.ends_with('\r')) report(all, file, i, "space at the end");
    }
    bool const header = file.path.ends_with(".hpp") || file.path.ends_with(".cuh");
    if (header && (file.lines.empty() || file.lines[0] != "#pragma once"))
        report(all, file, 0, "a header starts with #pragma once");
}

Violations check(std::string path, std::vector<std::string> lines) {
    Violations all;
    check_style({std::move(path), std::move(lines)}, all);
    return all;
}

TEST_CASE("rails/style: lines fit 100 columns, have no tabs, headers start with #pragma once") {
    Violations all;
    for (char const* folder : {"/include", "/tests", "/examples", "/bench"})
        for (SourceFile const& file : read_sources(std::string(SEMOE_SOURCE_DIR) + folder,
                                                   {".hpp", ".cuh", ".cpp", ".cu", ".cmake"}))
            check_style(file, all);
    INFO(join(all));
    CHECK(all.empty());
}

/// The only files that may ask which compiler reads them.
bool may_ask_for_cuda(std::string const& path) {
    return path == "core/config.hpp" || path.starts_with("backend/cuda/") || path.ends_with(".cuh");
}

void check_compiler_questions(SourceFile const& file, Violations& all) {
    if (may_ask_for_cuda(file.path)) return;
    for (std::size_t i = 0; i < file.lines.size(); ++i)
        for (char const* macro : {"__CUDACC__", "__CUDA_ARCH__", "__AVX", "_OPENMP"})
            if (file.lines[i].find(macro) != std::string::npos)
                report(all, file, i, semoe::message("asks for {}", macro));
}

TEST_CASE("rails/style: no header asks which compiler or instruction set builds it") {
    Violations all;
    for (SourceFile const& file : read_sources(SEMOE_SOURCE_DIR "/include/semoe", {".hpp", ".cuh"}))
        check_compiler_questions(file, all);
    INFO(join(all));
    CHECK(all.empty());
}

TEST_CASE("rails/style: what breaks a rule is found") {
    CHECK(check("a.hpp", {"#pragma once", std::string(100, 'x')}).empty());
    CHECK(check("a.cpp", {std::string(101, 'x')}) == Violations{"a.cpp:1: more than 100 columns"});
    CHECK(check("a.cpp", {semoe::message("{}\u03b1", std::string(99, 'x'))}).empty());
    CHECK(check("a.cpp", {"\tint x;"}) == Violations{"a.cpp:1: a tab"});
    CHECK(check("a.cpp", {"int x; "}).size() == 1);
    CHECK(check("a.hpp", {"// text", "#pragma once"}).size() == 1);
    CHECK(check("a.hpp", {}).size() == 1);

    Violations all;
    check_compiler_questions({"ops/gemm.hpp", {"#ifdef __CUDACC__", "#if defined(__AVX2__)"}}, all);
    check_compiler_questions({"backend/cuda/cuda.cuh", {"#ifdef __CUDACC__"}}, all);
    CHECK(all.size() == 2);
}

} // namespace

} // namespace style_test
