#include "semoe/ops/cpu/kernels.hpp"

#include "semoe/ops/tolerance.hpp"
#include "support/matrix.hpp"

#include <cmath>
#include <doctest/doctest.h>
#include <string>
#include <vector>

using namespace semoe;
using namespace semoe::test;
using ops::cpu::PanelProduct;

namespace {

/// How a(r, k) may lie: rows of k, or columns packed by 8.
enum class Order { by_rows, by_columns };

template <class T>
struct Operands {
    index_t rows, panels, depth;
    std::vector<float> a, c;
    std::vector<T> b;
    PanelProduct<T> product;

    Operands(index_t m, index_t p, index_t k, Order order, bool b_in_rows, bool add)
      : rows(m)
      , panels(p)
      , depth(k)
      , a(random_values<float>(1, (m + 1) * (k + 3)))
      , c(random_values<float>(2, m * p * 16 + 1))
      , b(random_values<T>(3, p * 16 * k + 1)) {
        product = {a.data(),
                   order == Order::by_rows ? k + 3 : 1,
                   order == Order::by_rows ? 1 : m + 1,
                   b.data(),
                   b_in_rows ? 16 * p : 16,
                   b_in_rows ? 16 : 16 * k,
                   c.data(),
                   b_in_rows ? 16 * p : 16,
                   b_in_rows ? 16 : 16 * m,
                   m,
                   p,
                   k,
                   add};
    }
};

template <class T>
std::vector<float> run(Isa isa, Operands<T> const& operands) {
    std::vector<float> c = operands.c;
    PanelProduct<T> product = operands.product;
    product.a = operands.a.data();
    product.b = operands.b.data();
    product.c = c.data();
    ops::cpu::multiply(isa, product);
    return c;
}

template <class T>
void check_against_double(Operands<T> const& operands) {
    auto const got = run(Isa::portable, operands);
    PanelProduct<T> const& p = operands.product;
    bool ok = true;
    for (index_t r = 0; r < p.rows; ++r)
        for (index_t panel = 0; panel < p.panels; ++panel)
            for (index_t j = 0; j < 16; ++j) {
                auto const at = std::size_t(r * p.c_row + panel * p.c_panel + j);
                double sum = p.add ? double(operands.c[at]) : 0, magnitude = std::fabs(sum);
                for (index_t k = 0; k < p.depth; ++k) {
                    double const term =
                        double(operands.a[std::size_t(r * p.a_row + k * p.a_k)]) *
                        double(operands.b[std::size_t(panel * p.b_panel + k * p.b_k + j)]);
                    sum += term, magnitude += std::fabs(term);
                }
                ok &=
                    std::fabs(double(got[at]) - sum) <= ops::tolerance<float>(p.depth) * magnitude;
            }
    CHECK(ok);
}

} // namespace

TEST_CASE_TEMPLATE("ops/cpu/kernels: every instruction set gives the portable twin's bits", T,
                   float, bf16, f16) {
    int compared = 0;
    for (Isa isa : all_isas) {
        if (!is_available(isa)) continue;
        ++compared;
        for (index_t rows : {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 15, 17, 31})
            for (index_t panels : {1, 2, 3, 4})
                for (index_t depth : {0, 1, 2, 37})
                    for (Order order : {Order::by_rows, Order::by_columns})
                        for (bool b_in_rows : {false, true})
                            for (bool add : {false, true}) {
                                Operands<T> const x(rows, panels, depth, order, b_in_rows, add);
                                if (same_bits(run(isa, x), run(Isa::portable, x))) continue;
                                FAIL_CHECK(std::string(to_string(isa))
                                           << " rows " << rows << " panels " << panels << " depth "
                                           << depth);
                            }
    }
    CHECK(compared >= 1);
}

TEST_CASE_TEMPLATE("ops/cpu/kernels: the portable twin agrees with a double reference", T, float,
                   bf16, f16) {
    for (bool add : {false, true}) {
        check_against_double(Operands<T>(5, 3, 300, Order::by_rows, false, add));
        check_against_double(Operands<T>(7, 2, 19, Order::by_columns, true, add));
        check_against_double(Operands<T>(3, 1, 0, Order::by_rows, false, add));
    }
}

TEST_CASE_TEMPLATE("ops/cpu/kernels: a sum may be cut anywhere along k", T, float, bf16, f16) {
    for (Isa isa : all_isas) {
        if (!is_available(isa)) continue;
        Operands<T> const whole(13, 3, 50, Order::by_rows, false, false);
        std::vector<float> parts = whole.c;
        for (index_t first = 0, count = 1; first < 50; first += count, ++count) {
            PanelProduct<T> part = whole.product;
            part.a = whole.a.data() + first;
            part.b = whole.b.data() + first * 16;
            part.c = parts.data();
            part.depth = std::min(count, 50 - first);
            part.add = first > 0;
            ops::cpu::multiply(isa, part);
        }
        CHECK(same_bits(run(isa, whole), parts));
    }
}

TEST_CASE_TEMPLATE("ops/cpu/kernels: rows become a panel, zeros where there are none", T, float,
                   bf16, f16) {
    for (Isa isa : all_isas) {
        if (!is_available(isa)) continue;
        for (int rows : {0, 1, 7, 8, 9, 15, 16})
            for (index_t depth : {0, 1, 7, 8, 16, 31, 50}) {
                index_t const ld = depth + 2;
                // Exactly as much as may be read, so that a sanitizer sees one element more.
                index_t const readable = rows == 0 ? 1 : (rows - 1) * ld + depth;
                auto const from = random_values<T>(5, std::max(readable, index_t(1)));
                std::vector<float> panel(std::size_t(depth * 16 + 1), -7.0f);
                ops::cpu::transpose(isa, from.data(), ld, rows, depth, panel.data());
                bool ok = panel.back() == -7.0f;
                for (index_t k = 0; k < depth; ++k)
                    for (int j = 0; j < 16; ++j) {
                        float const expected =
                            j < rows ? float(from[std::size_t(j * ld + k)]) : 0.0f;
                        ok &= panel[std::size_t(k * 16 + j)] == expected;
                    }
                CHECK(ok);
            }
    }
}

TEST_CASE_TEMPLATE("ops/cpu/kernels: widening and narrowing round as the types themselves do", T,
                   float, bf16, f16) {
    // Every upper half of a float, then what lies on and beside the middle between two values.
    std::vector<float> values;
    for (std::uint32_t upper = 0; upper < 65536; ++upper)
        for (std::uint32_t lower : {0x0000u, 0x7fffu, 0x8000u, 0x8001u})
            values.push_back(semoe::detail::bits_of<float>(upper << 16 | lower));
    auto const n = index_t(values.size());
    for (Isa isa : all_isas) {
        if (!is_available(isa)) continue;
        std::vector<T> narrow(values.size());
        std::vector<float> wide(values.size());
        ops::cpu::narrow(isa, values.data(), 0, 1, n, narrow.data(), 0);
        ops::cpu::widen(isa, narrow.data(), 0, 1, n, wide.data(), 0);
        int wrong = 0;
        for (std::size_t i = 0; i < values.size(); ++i) {
            T const expected = T(values[i]);
            bool const nan = std::isnan(values[i]);
            bool const same = std::memcmp(&narrow[i], &expected, sizeof(T)) == 0;
            wrong += nan ? !std::isnan(wide[i]) : !same || !(wide[i] == float(expected));
        }
        CHECK(wrong == 0);
        // Rows of any length, and nothing behind their end.
        for (index_t cols : {0, 1, 7, 8, 9, 15, 17, 31}) {
            index_t const ld = cols + 2, rows = 3;
            float const* from = values.data() + 70000;
            std::vector<T> few(std::size_t(rows * ld), T(3.0f));
            std::vector<float> back(std::size_t(rows * ld), 5.0f);
            ops::cpu::narrow(isa, from, cols, rows, cols, few.data(), ld);
            ops::cpu::widen(isa, few.data(), ld, rows, cols, back.data(), ld);
            for (index_t i = 0; i < rows * ld; ++i) {
                bool const inside = i % ld < cols;
                float const value = inside ? float(T(from[i / ld * cols + i % ld])) : 3.0f;
                CHECK(float(few[std::size_t(i)]) == value);
                CHECK(back[std::size_t(i)] == (inside ? value : 5.0f));
            }
        }
    }
}
