#include "rails/compiled.hpp"

#include <doctest/doctest.h>

#include <cstdlib>
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

} // namespace
} // namespace compile_budget_test
