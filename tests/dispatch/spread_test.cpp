#include "semoe/dispatch/spread.hpp"

#include "support/backends.hpp"
#include "support/matrix.hpp"

#include <doctest/doctest.h>
#include <vector>

using namespace semoe;
using namespace semoe::test;

namespace {

/// Slots of T tokens of K choices in falling order, every fifth choice dropped.
std::vector<index_t> falling_slots(index_t tokens, index_t top_k, index_t& num_slots) {
    std::vector<index_t> slots;
    num_slots = 0;
    for (index_t i = 0; i < tokens * top_k; ++i) slots.push_back(i % 5 == 2 ? -1 : num_slots++);
    for (index_t& slot : slots)
        if (slot >= 0) slot = num_slots - 1 - slot;
    return slots;
}

template <class T, class B>
bool spreads(B& b, index_t tokens, index_t top_k, index_t hidden) {
    index_t num_slots = 0;
    auto const slots = falling_slots(tokens, top_k, num_slots);
    auto const on_backend = to_backend(b, slots);
    PaddedMatrix<T, B> x(b, tokens, hidden, 1), rows(b, num_slots + 1, hidden, 2);
    spread_rows(b, x.const_view(),
                MatrixView<index_t const, space_of<B>>(on_backend.matrix(tokens, top_k)),
                rows.view());
    auto const got = rows.read(b);
    bool ok = rows.padding_intact(b);
    for (index_t h = 0; h < hidden; ++h) { // nobody's slot
        ok &= got[std::size_t(num_slots * hidden + h)] == rows(num_slots, h);
        for (index_t i = 0; i < tokens * top_k; ++i)
            if (index_t const slot = slots[std::size_t(i)]; slot >= 0)
                ok &= got[std::size_t(slot * hidden + h)] == x(i / top_k, h);
    }
    return ok;
}

} // namespace

TEST_CASE_TEMPLATE("dispatch/spread: every slot takes its token's row", B, SEMOE_TEST_BACKENDS) {
    B b;
    for (index_t hidden : {0, 1, 16, 67, 300}) {
        CHECK(spreads<bf16>(b, 0, 2, hidden));
        CHECK(spreads<bf16>(b, 9, 3, hidden));
        CHECK(spreads<float>(b, 7, 1, hidden));
        CHECK(spreads<double>(b, 5, 2, hidden));
    }
}

TEST_CASE("dispatch/spread: many rows go past the caches and arrive") {
    CpuBackend b{.threads = 2};
    CHECK(spreads<float>(b, 300, 8, 1024));
}

TEST_CASE_TEMPLATE("dispatch/spread: shapes that do not fit are refused by name", B,
                   SEMOE_TEST_BACKENDS) {
    B b;
    PaddedMatrix<float, B> x(b, 3, 4, 1), rows(b, 6, 5, 2);
    auto const slots = to_backend(b, std::vector<index_t>(6, -1));
    CHECK_THROWS_WITH_AS(spread_rows(b, x.const_view(),
                                     MatrixView<index_t const, space_of<B>>(slots.matrix(3, 2)),
                                     rows.view()),
                         "spread_rows: x is [3,4], slot_of [3,2], rows [6,5]", precondition_error);
}
