#include "semoe/ops/pack.hpp"

#include "support/backends.hpp"
#include "support/matrix.hpp"

#include <doctest/doctest.h>
#include <vector>

using namespace semoe;
using namespace semoe::test;

namespace {

template <class T, class B>
void check_pack(B& b) {
    struct Shape {
        index_t n, k;
    };
    for (Shape const s : {Shape{0, 5}, {5, 0}, {1, 1}, {15, 3}, {16, 7}, {17, 20}, {50, 33}}) {
        CAPTURE(s.n);
        PaddedMatrix<T, B> rows(b, s.n, s.k, 1), back(b, s.n, s.k, 2);
        index_t const elements = ops::panel_elements(s.n, s.k);
        auto const panels = to_backend(b, std::vector<T>(std::size_t(elements), T(9.0f)));
        ops::pack_panels(b, rows.const_view(), panels.view());
        auto const got = to_host(b, panels);
        bool ok = true;
        for (index_t n = 0; n < (s.n + 15) / 16 * 16; ++n)
            for (index_t k = 0; k < s.k; ++k) {
                double const expected = n < s.n ? double(rows(n, k)) : 0;
                ok &= double(got[std::size_t((n / 16 * s.k + k) * 16 + n % 16)]) == expected;
            }
        CHECK(ok);
        VectorView<T const, space_of<B>> const view = panels.view();
        ops::unpack_panels(b, view, back.view());
        CHECK(same_bits(back.read(b), rows.read(b)));
        CHECK(back.padding_intact(b));
    }
}

} // namespace

TEST_CASE_TEMPLATE("ops/pack: panels hold 16 rows side by side, and give them back", B,
                   SEMOE_TEST_BACKENDS) {
    B b;
    check_pack<float>(b);
    check_pack<bf16>(b);
    check_pack<double>(b);
}

TEST_CASE_TEMPLATE("ops/pack: a wrong number of elements is refused", B, SEMOE_TEST_BACKENDS) {
    B b;
    PaddedMatrix<float, B> rows(b, 17, 3, 1);
    Buffer<float, B> panels(b, 95);
    CHECK_THROWS_WITH_AS(ops::pack_panels(b, rows.view(), panels.view()),
                         "pack_panels: [17,3] makes 96 elements of panels, 95 given",
                         precondition_error);
    CHECK_THROWS_WITH_AS(ops::unpack_panels(b, panels.view(), rows.view()),
                         "unpack_panels: [17,3] makes 96 elements of panels, 95 given",
                         precondition_error);
}
