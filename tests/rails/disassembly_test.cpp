#include "rails/compiled.hpp"
#include "semoe/core/config.hpp"

#include <doctest/doctest.h>

#include <array>
#include <map>
#include <sstream>
#include <string>
#include <utility>

// What the compiler makes of the innermost loops. A call there, or a sum that lives on the stack,
// costs time and changes no result: nothing else would find it.

namespace disassembly_test {
namespace {

using namespace semoe::test;

/// Code by the function's name, as `objdump -dr -C` prints it.
std::map<std::string, std::string> functions_of(std::string const& disassembly) {
    std::map<std::string, std::string> functions;
    std::string* code = nullptr;
    std::istringstream in(disassembly);
    for (std::string line; std::getline(in, line);) {
        auto const name = line.find(" <");
        if (!line.starts_with(' ') && line.ends_with(">:") && name != std::string::npos)
            code = &functions[line.substr(name + 2, line.size() - name - 4)];
        else if (code)
            *code += line + '\n';
    }
    return functions;
}
/// Lines that have both in them.
int count_lines(std::string const& code, std::string const& a, std::string const& b = {}) {
    int count = 0;
    std::istringstream in(code);
    for (std::string line; std::getline(in, line);)
        count += line.find(a) != std::string::npos && line.find(b) != std::string::npos;
    return count;
}
/// The code of every function with that in its name: compilers make copies. There must be one.
std::string code_of(std::map<std::string, std::string> const& functions, std::string const& part) {
    std::string code;
    for (auto const& function : functions)
        if (function.first.find(part) != std::string::npos) code += function.second;
    CAPTURE(part);
    REQUIRE(!code.empty());
    return code;
}
/// Of calls, and of jumps into another function.
int count_calls(std::string const& code) {
    return count_lines(code, "\tcall") + count_lines(code, "R_X86_64_PLT32");
}
int count_spills(std::string const& code, std::string const& registers = "%zmm") {
    return count_lines(code, registers, "(%rsp") + count_lines(code, registers, "(%rbp)");
}

/// Of a translation unit of this folder; none, and a message, where nothing can be looked at.
std::map<std::string, std::string> functions_of_unit(char const* name) {
    if (!SEMOE_X86 || run("objdump --version > /dev/null 2>&1").status != 0) {
        MESSAGE("skipped: not x86-64, or no objdump");
        return {};
    }
    Compiled const unit(name);
    REQUIRE(unit.cost.status == 0);
    return functions_of(output_of("objdump -dr -C --no-show-raw-insn " + unit.object));
}

TEST_CASE(
    "rails/disassembly: a user's own activation leaves no call in the fused loops, and no sum "
    "of a product leaves its register") {
    auto const functions = functions_of_unit("own_activation");
    if (functions.empty()) return;
    for (auto const& [kernels, registers] :
         {std::pair{"Avx2Kernels", "%ymm"}, std::pair{"Avx512Kernels", "%zmm"}})
        for (char const* tile : {"UnitTile<", "UnitTileBackward<"}) {
            std::string const name =
                kernels + std::string("::call<semoe::ops::cpu::detail::") + tile;
            CAPTURE(name);
            std::string const code = code_of(functions, name);
            CHECK(count_calls(code) == 0);
            CHECK(count_lines(code, "vdivps", registers) > 0); // the activation's, of whole vectors
        }
    for (auto const& [chains, words, sums] :
         {std::array{"Chains", "FloatWords", "run<0l, 0l, 1l"},
          {"Chains", "FloatWords", "run<0l, 1l, 0l, 1l"},
          {"Chains", "FloatWords", "run<0l, 1l, 2l, 0l, 1l"},
          {"Chains", "FloatWords", "run<0l, 1l, 2l, 3l, 0l, 1l"},
          {"Chains", "DotWords", "run<0l, 0l, 1l"},
          {"Chains", "DotWords", "run<0l, 1l, 0l, 1l"},
          {"Chains", "DotWords", "run<0l, 1l, 2l, 0l, 1l"},
          {"Chains", "DotWords", "run<0l, 1l, 2l, 3l, 0l, 1l"},
          {"FewKernel", "FloatWords", "chains<0l, 1l"},
          {"FewKernel", "WidenedWords", "chains<0l, 1l"},
          {"FewKernel", "DotWords", "chains<0l, 1l"}}) {
        std::string const name =
            std::string("avx512::") + chains + "<semoe::ops::cpu::avx512::" + words + ">::" + sums;
        CAPTURE(name);
        std::string const code = code_of(functions, name);
        CHECK(count_calls(code) == 0);
        CHECK(count_lines(code, "%zmm") > 0);
        // Turning sixteen lines takes a seventeenth register, which sixteen sums do not leave.
        bool const all_registers =
            chains == std::string("FewKernel") && words == std::string("DotWords");
        CHECK(count_spills(code) <= (all_registers ? 4 : 0));
    }
}

TEST_CASE("rails/disassembly: products of codes leave no call and no sum in memory") {
    auto const functions = functions_of_unit("quantized_experts");
    if (functions.empty()) return;
    auto const check = [&](std::string const& name, char const* product, int copies) {
        CAPTURE(name);
        std::string const code = code_of(functions, name);
        CHECK(count_calls(code) == 0);
        CHECK(count_lines(code, product, "%zmm") >= 16);
        CHECK(count_spills(code) <= copies);
    };
    for (auto const& [kernel, words, chains, product] :
         {std::array{"Chains", "ByteDotWords", "run<0l, 0l, 1l", "vpdpbusd"},
          {"Chains", "ByteDotWords", "run<0l, 1l, 0l, 1l", "vpdpbusd"},
          {"FewKernel", "ByteDotWords", "chains<0l, 1l", "vpdpbusd"}})
        check(std::string("avx512::") + kernel + "<semoe::ops::cpu::avx512::" + words +
                  ">::" + chains,
              product, 0);
    check("avx512::PairSums::add<1l, ", "vpmaddwd", 0);
    check("avx512::PairSums::add<2l, ", "vpmaddwd", 0);
    // Between groups some of sixteen results make room; sums in memory would be sixteen a word.
    check("avx512::FactorSums<semoe::quant::Int4>::add<", "vpmaddubsw", 8);
    // A Fetch is copied by whole vectors, five times at most; sums in memory would be sixteen.
    for (std::string const tokens : {"::tile<4l", "::tile<8l"}) {
        for (std::string const format : {"Int8", "Int4"})
            check("avx512::FewRows<semoe::quant::" + format +
                      ", semoe::ops::cpu::avx512::DotLine>" + tokens,
                  "vpdpbusd", 5);
        check("avx512::FewRows<semoe::quant::Int8, semoe::ops::cpu::avx512::SignedLine>" + tokens,
              "vpmaddubsw", 5);
        // And what zeros added to four rows is stored once, after the loop.
        check("avx512::FewFactors<semoe::quant::Int4>" + tokens, "vpmaddubsw", 9);
    }
    auto const check_avx2 = [&](std::string const& name, char const* product, int most_spills) {
        CAPTURE(name);
        std::string const code = code_of(functions, "avx2::" + name);
        CHECK(count_calls(code) == 0);
        CHECK(count_lines(code, product, "%ymm") >= 8);
        CHECK(count_spills(code, "%ymm") <= most_spills);
    };
    for (std::string const tokens : {"::tile<2l", "::tile<4l", "::tile<8l"}) {
        check_avx2("FewBytes" + tokens, "vpmaddubsw", 0);
        // What zeros added is stored once, after the loop.
        check_avx2("FewFactors<semoe::quant::Int4>" + tokens, "vpmaddubsw", 2);
    }
    check_avx2("FactorSums<semoe::quant::Int4>::add<", "vpmaddubsw", 0);
    check_avx2("PairSums::add<", "vpmaddwd", 0);
}

TEST_CASE("rails/disassembly: a call, a jump that is one, and a spilled sum are found") {
    auto const functions = functions_of("a.o:     file format elf64-x86-64\n\n"
                                        "0000000000000000 <f(int)>:\n"
                                        "   0:\tcall   5 <f(int)+0x5>\n"
                                        "   5:\tvmovaps %zmm1,0x40(%rsp)\n"
                                        "   d:\tvmovaps -0x40(%rbp),%zmm1\n\n"
                                        "0000000000000000 <g(int)>:\n"
                                        "   0:\tvmovaps (%rax),%zmm1\n"
                                        "   6:\tjmp    b <g(int)+0xb>\n"
                                        "\t\t\t7: R_X86_64_PLT32\texpf-0x4\n");
    CHECK(functions.size() == 2);
    CHECK(count_calls(code_of(functions, "f(")) == 1);
    CHECK(count_spills(code_of(functions, "f(")) == 2);
    CHECK(count_calls(code_of(functions, "g(")) == 1);
    CHECK(count_spills(code_of(functions, "g(")) == 0);
}

} // namespace
} // namespace disassembly_test
