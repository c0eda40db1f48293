#include "rails/compiled.hpp"

#include <doctest/doctest.h>

#include <cstdlib>
#include <sstream>
#include <string>

namespace compile_budget_test {
namespace {

using namespace semoe::test;

/// Bytes of code and constants in an object file, as `size` counts them.
long text_bytes(std::string const& object) {
    std::string const table = output_of("size " + object); // one line of names, one of numbers
    return std::strtol(table.c_str() + table.find('\n'), nullptr, 10);
}

TEST_CASE("rails/compile_budget: one layer, forward and backward, costs 1 GB and 2 MB of text, and "
          "nothing for a tracer that is not there") {
    Compiled const layer("one_layer");
    REQUIRE(layer.cost.status == 0);
    long const text = text_bytes(layer.object);

    MESSAGE("compiling one layer took ", layer.cost.seconds, " s, ", layer.cost.megabytes, " MB, ",
            text, " bytes of text"); // time is reported, not asserted: it is the machine's
    CHECK(layer.cost.megabytes < 1024);
    CHECK(text > 0);
    CHECK(text < 2 * 1024 * 1024);

    // Stages are templates of their tracer, whose name is part of theirs.
    std::string const symbols = output_of("nm -C " + layer.object);
    CHECK(symbols.find("semoe::trace::Null>::") != std::string::npos);
    for (std::string const traced : {"trace::Recorder", "trace::detail::", "trace::Null::"}) {
        CAPTURE(traced);
        CHECK(symbols.find(traced) == std::string::npos);
    }
}

TEST_CASE(
    "rails/compile_budget: with the kernels in a unit of their own, one layer has no code for "
    "an instruction set but copies of rows") {
    Compiled const layer("one_layer", "-DSEMOE_EXTERN_KERNELS");
    REQUIRE(layer.cost.status == 0);
    MESSAGE("compiling it took ", layer.cost.seconds, " s, ", layer.cost.megabytes, " MB, ",
            text_bytes(layer.object), " bytes of text");

    std::istringstream symbols(output_of("nm -C --defined-only " + layer.object));
    int copies = 0;
    for (std::string symbol; std::getline(symbols, symbol);) {
        CAPTURE(symbol);
        bool const kernel = symbol.find("Kernels::") != std::string::npos ||
                            symbol.find("cpu::avx") != std::string::npos ||
                            symbol.find("cpu::portable::") != std::string::npos;
        bool const copies_row = symbol.find("Kernels::copy_row(") != std::string::npos;
        CHECK(kernel == copies_row);
        copies += copies_row;
    }
    CHECK(copies > 0);
}

} // namespace
} // namespace compile_budget_test
