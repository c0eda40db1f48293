#include "semoe/ops/cpu/kernels.hpp"

#include "support/matrix.hpp"

#include <doctest/doctest.h>
#include <string>
#include <vector>

using namespace semoe;
using namespace semoe::test;

namespace {

constexpr index_t lengths[] = {0, 1, 5, 15, 16, 17, 63, 64, 100, 128, 200, 333};

/// Calls check(isa) for every instruction set but the portable one.
template <class F>
void for_each_isa(F const& check) {
    for (Isa isa : all_isas)
        if (isa != Isa::portable && is_available(isa)) check(isa);
}

template <class T, class Base>
std::vector<T> sum(Isa isa, index_t cols, bool with_base, bool with_weights, bool with_next) {
    index_t const ld = cols + 3;
    auto const rows = random_values<T>(1, 5 * ld + 1);
    auto const base = random_values<Base>(2, cols + 1);
    std::vector<index_t> const slots{4, -1, 0, 2, -1, 3}, next{1, 0, -1, 2, 3, 3};
    auto const weights = random_values<float>(3, 6);
    std::vector<T> to(std::size_t(cols + 1), T(7.0f));
    ops::cpu::sum_rows(isa, ops::cpu::RowSum<T, Base>{
                                with_base ? base.data() : nullptr, 0.3f, rows.data(), ld,
                                slots.data(), with_next ? next.data() : nullptr,
                                with_weights ? weights.data() : nullptr, 6, to.data(), cols});
    CHECK(float(to.back()) == 7.0f);
    return to;
}

} // namespace

TEST_CASE_TEMPLATE("ops/cpu/rows: a sum of rows has the portable twin's bits", T, float, bf16,
                   f16) {
    for_each_isa([](Isa isa) {
        for (index_t cols : lengths)
            for (int form = 0; form < 8; ++form) {
                bool const a = form & 1, b = form & 2, c = form & 4;
                CHECK(same_bits(sum<T, T>(isa, cols, a, b, c),
                                sum<T, T>(Isa::portable, cols, a, b, c)));
                CHECK(same_bits(sum<T, float>(isa, cols, a, b, c),
                                sum<T, float>(Isa::portable, cols, a, b, c)));
            }
    });
}

TEST_CASE_TEMPLATE("ops/cpu/rows: a weighed row and its dot have the portable twin's bits", T,
                   float, bf16, f16) {
    for_each_isa([](Isa isa) {
        for (index_t cols : lengths) {
            auto const dy = random_values<T>(1, cols + 1), row = random_values<T>(2, cols + 1);
            auto const weigh = [&](Isa which, float& dot) {
                std::vector<T> d_row = row; // in place
                ops::cpu::weigh_row(which, ops::cpu::RowWeight<T, T>{dy.data(), d_row.data(), 0.7f,
                                                                     d_row.data(), cols, &dot,
                                                                     row.data()});
                return d_row;
            };
            float got = 0, expected = 0;
            CHECK(same_bits(weigh(isa, got), weigh(Isa::portable, expected)));
            CHECK(same_bits(std::vector<float>{got}, std::vector<float>{expected}));
        }
    });
}

TEST_CASE_TEMPLATE("ops/cpu/rows: dots of rows have the portable twin's bits", T, float, bf16,
                   f16) {
    for_each_isa([](Isa isa) {
        for (index_t depth : lengths)
            for (index_t m : {1, 2, 3, 4, 9})
                for (index_t n : {1, 3, 4, 7, 8, 13}) {
                    auto const a = random_values<T>(1, m * (depth + 2));
                    auto const w = random_values<float>(2, n * (depth + 1));
                    auto const dots = [&](Isa which) {
                        std::vector<float> c(std::size_t(m * (n + 1)), 7.0f);
                        ops::cpu::dot_rows(which, ops::cpu::RowDots<T, float>{
                                                      a.data(), depth + 2, w.data(), depth + 1,
                                                      c.data(), n + 1, m, n, depth});
                        return c;
                    };
                    CHECK(same_bits(dots(isa), dots(Isa::portable)));
                }
    });
}

TEST_CASE("ops/cpu/rows: a copy is whole, past the caches or not, wherever it begins") {
    for (Isa isa : all_isas) {
        if (!is_available(isa)) continue;
        for (bool past : {false, true})
            for (std::size_t offset : {0u, 1u, 32u, 64u})
                for (std::size_t bytes : {0u, 1u, 63u, 64u, 200u, 4096u}) {
                    auto const from = random_values<float>(1, 2000);
                    alignas(64) std::byte to[5000] = {};
                    auto const* const source = reinterpret_cast<std::byte const*>(from.data());
                    ops::cpu::copy_row(isa, source, bytes, to + offset, past);
                    ops::cpu::finish_copies();
                    CHECK(std::memcmp(to + offset, source, bytes) == 0);
                    CHECK(to[offset + bytes] == std::byte(0));
                }
    }
}
