#include "semoe/plan/memory.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <vector>

using namespace semoe;
using namespace semoe::plan;

namespace {

/// Layers of attention of width H and experts of two matrices [H, 4 H] with biases.
ModelSize transformer(double layers, double width, double vocabulary, double experts) {
    return {layers * (4 * width * width + 4 * width) + vocabulary * width,
            layers * experts * (8 * width * width + 5 * width), index_t(layers), 0.25};
}
bool near(double a, double b) { return std::fabs(a - b) <= 1e-12 * std::fabs(b); }

} // namespace

TEST_CASE("plan/memory: sizes of the paper's models come out of their shapes") {
    double const billions[] = {13.9, 26.8, 52.6, 104.1, 207.2};
    double experts = 8;
    for (double const expected : billions) {
        auto const m = transformer(12, 4096, 50304, experts);
        CHECK(std::fabs((m.dense + m.sparse) / 1e9 - expected) <= 0.051);
        experts *= 2;
    }
}

TEST_CASE("plan/memory: what a model needs is the sum of its states") {
    auto const need = memory_needed({.dense = 100, .sparse = 1000, .layers = 10, .active = 0.5});
    CHECK(need.compute == 16 * 100 + 4 * 0.5 * 1000 / 10);
    CHECK(need.cache == 16 * 0.5 * 1000);
    CHECK(need.storage == 12 * 1000);
}

TEST_CASE("plan/memory: each memory may be what binds, and more of it allows more") {
    ModelSize const m{.dense = 1e9, .sparse = 0, .layers = 12, .active = 0.1};
    MemoryBytes const ample{1e12, 1e13, 1e14};
    index_t const devices = 4;
    for (double MemoryBytes::*memory :
         {&MemoryBytes::compute, &MemoryBytes::cache, &MemoryBytes::storage}) {
        double before = -1;
        for (double bytes = 8e9; bytes < 1e11; bytes *= 1.5) {
            auto available = ample;
            available.*memory = bytes;
            double const sparse = largest_sparse(available, devices, m);
            CHECK(sparse > before);
            before = sparse;
            // The largest model fills that memory, and fits.
            ModelSize whole = m;
            whole.sparse = sparse;
            auto const need = memory_needed(whole);
            CHECK(near(need.*memory, bytes * double(devices)));
            whole.sparse = sparse * (1 - 1e-9);
            CHECK(split_memory(available, devices, whole).*memory <= bytes);
        }
    }
}

TEST_CASE("plan/memory: a budget that is too small names the memory and the least that would do") {
    ModelSize const m{.dense = 100, .sparse = 1000, .layers = 10, .active = 0.5};
    CHECK_THROWS_WITH_AS(split_memory({1e6, 3999, 1e6}, 2, m),
                         "split_memory: cache needs at least 4000 bytes a device, 3999 are there",
                         precondition_error);
    CHECK_THROWS_WITH_AS(largest_sparse({700, 1e6, 1e6}, 2, m),
                         "largest_sparse: dense parameters need 800 bytes a device, 700 are "
                         "available",
                         precondition_error);
    // Six digits would not do: what it asks for is enough.
    ModelSize const large{.sparse = 1e9 / 12 + 1};
    CHECK_THROWS_WITH_AS(
        split_memory({1e12, 1e13, 1e9}, 1, large),
        "split_memory: storage needs at least 1000000012 bytes a device, 1000000000 are there",
        precondition_error);
    CHECK(split_memory({1e12, 1e13, 1000000012}, 1, large).storage > 1e9);
    for (double const bytes : {-1.0, std::nan("")}) {
        CHECK_THROWS_AS(largest_sparse({1e12, bytes, 1e14}, 4, m), precondition_error);
        CHECK_THROWS_AS(split_memory({1e12, bytes, 1e14}, 4, m), precondition_error);
    }
    CHECK_THROWS_WITH_AS(memory_needed({.layers = 0}), "ModelSize: layers is 0, must be at least 1",
                         precondition_error);
    CHECK_THROWS_WITH_AS(memory_needed({.active = 0}),
                         "ModelSize: active is 0, must be above 0, at most 1", precondition_error);
}
