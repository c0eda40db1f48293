#include "semoe/ops/quantized_feed_forward.hpp"

#include "semoe/ops/worker_scratch.hpp"
#include "support/backends.hpp"
#include "support/matrix.hpp"

#include <cmath>
#include <doctest/doctest.h>
#include <limits>
#include <vector>

using namespace semoe;
using namespace semoe::test;

namespace {

using Gated = ops::unit::Gated<ops::activation::Silu>;
using Plain = ops::unit::Plain<ops::activation::Silu>;

/// Experts of one group, with rows between rows that belong to nobody.
template <class Format, class T, class Unit, class B>
struct QuantizedExperts {
    B b;
    index_t H, I, inputs = Unit::inputs * I;
    std::vector<index_t> counts;
    index_t total = 1;
    ops::QuantizedFeedForwardBlock<Unit> block;
    std::vector<std::vector<std::uint8_t>> bytes; ///< of each expert's block
    std::vector<Buffer<std::uint8_t, B>> blocks;
    std::vector<T> x;
    Buffer<T, B> in, saved, act, out;

    QuantizedExperts(B backend, index_t h, index_t i, std::vector<index_t> rows, bool bias)
      : b(backend)
      , H(h)
      , I(i)
      , counts(std::move(rows))
      , block{{}, h, i, 0, 0, 0, 0} {
        index_t at = 0;
        auto const place = [&](index_t n) { return std::exchange(at, at + n); };
        block.in_codes = place(Unit::inputs * Format::code_bytes(I, H));
        block.down_codes = place(Format::code_bytes(H, I));
        block.in_scales = place(Unit::inputs * Format::scale_bytes(I, H));
        block.down_scales = place(Format::scale_bytes(H, I));
        if (bias) block.in_bias_at = place(4 * inputs), block.down_bias_at = place(4 * H);
        for (std::size_t e = 0; e < counts.size(); ++e) {
            std::vector<std::uint8_t> w(static_cast<std::size_t>(at));
            std::uint64_t seed = 100 * e;
            auto const encode = [&](index_t codes, index_t scales, index_t n, index_t k) {
                auto const numbers = random_values<float>(++seed, n * k, 1 / std::sqrt(double(k)));
                for (index_t r = 0; r < n; ++r)
                    Format::encode(ops::detail::NumberRow<float>{numbers.data() + r * k},
                                   {w.data() + codes, w.data() + scales, n, k}, r);
            };
            for (int m = 0; m < Unit::inputs; ++m)
                encode(block.in_codes + m * Format::code_bytes(I, H),
                       block.in_scales + m * Format::scale_bytes(I, H), I, H);
            encode(block.down_codes, block.down_scales, H, I);
            if (bias)
                for (index_t n = 0; n < inputs + H; ++n)
                    quant::detail::store_float(w.data() + block.in_bias_at + 4 * n,
                                               float(n % 7) / 7 - 0.4f);
            blocks.push_back(to_backend(b, w));
            bytes.push_back(std::move(w));
            total += counts[e] + 1;
        }
        x = random_values<T>(1, total * H);
        in = to_backend(b, x);
        saved = to_backend(b, sevens(inputs));
        act = to_backend(b, sevens(I));
        out = to_backend(b, sevens(H));
    }
    std::vector<T> sevens(index_t cols) const {
        return std::vector<T>(std::size_t(total * cols), T(7.0f));
    }
    MatrixView<T, space_of<B>> view(Buffer<T, B>& v, index_t cols) {
        return {v.data(), total, cols};
    }
    void forward(ops::Group<std::byte const> const& g) {
        ops::grouped_quantized_feed_forward<Format, T>(
            b, g, block, MatrixView<T const, space_of<B>>(view(in, H)), view(saved, inputs),
            view(act, I), view(out, H));
    }
    void forward() {
        ops::Group<std::byte const> g;
        index_t first = 1;
        for (std::size_t e = 0; e < counts.size(); first += counts[e++] + 1)
            g.add(first, counts[e], reinterpret_cast<std::byte const*>(blocks[e].data()));
        forward(g);
    }
    std::vector<T> result() { return to_host(b, out); }

    /// What loops over doubles make of one row and the weights that the block stands for.
    std::vector<double> reference(std::size_t e, index_t row) const {
        auto const* const memory = reinterpret_cast<std::byte const*>(bytes[e].data());
        auto const bias = [&](index_t at, index_t n) {
            return at < 0 ? 0 : double(quant::detail::load_float(bytes[e].data() + at + 4 * n));
        };
        std::vector<double> pre, y;
        for (index_t n = 0; n < inputs; ++n) {
            quant::ConstCodes w = block.in(memory);
            w.codes += n / I * Format::code_bytes(I, H);
            w.scales += n / I * Format::scale_bytes(I, H);
            double sum = bias(block.in_bias_at, n);
            for (index_t k = 0; k < H; ++k)
                sum += double(Format::weight(w, n % I, k)) *
                       double(float(x[std::size_t(row * H + k)]));
            pre.push_back(sum);
        }
        for (index_t n = 0; n < H; ++n) {
            double sum = bias(block.down_bias_at, n);
            for (index_t i = 0; i < I; ++i) {
                double const gate = pre[std::size_t(i)], silu = gate / (1 + std::exp(-gate));
                sum += double(Format::weight(block.down(memory), n, i)) *
                       (Unit::inputs == 2 ? silu * pre[std::size_t(I + i)] : silu);
            }
            y.push_back(sum);
        }
        return y;
    }
    /// The error of all rows as a part of their size; other rows must be as they were.
    double error(index_t step) {
        auto const got = result();
        double error = 0, size = 1e-60;
        index_t first = 1;
        for (std::size_t e = 0; e < counts.size(); first += counts[e++] + 1) {
            CHECK(float(got[std::size_t((first - 1) * H)]) == 7);
            for (index_t r = first; r < first + counts[e]; r += step) {
                auto const want = reference(e, r);
                for (index_t h = 0; h < H; ++h) {
                    double const difference =
                        double(got[std::size_t(r * H + h)]) - want[std::size_t(h)];
                    error += difference * difference;
                    size += want[std::size_t(h)] * want[std::size_t(h)];
                }
            }
        }
        return std::sqrt(error / size);
    }
};

/// What tokens rounded to 8 bits, or to bf16, may add to the rounding of T.
template <class Format, class T, class B>
double tolerance() {
    if (ops::has_fused_quantized_feed_forward<B, Format, T>) return 0.0447; // a cosine of 0.999
    if (sizeof(T) == 2) return 0.01;
    return 1e-5;
}

template <class Format, class T, class Unit, class B>
void check(index_t H, index_t I, std::vector<index_t> const& counts, bool bias, index_t step = 1) {
    CAPTURE(H);
    CAPTURE(I);
    QuantizedExperts<Format, T, Unit, B> x(B{}, H, I, counts, bias);
    x.forward();
    CHECK(x.error(step) <= tolerance<Format, T, B>());
}
template <class T, class B>
void check_formats(index_t H, index_t I, std::vector<index_t> const& counts, bool bias,
                   index_t step = 1) {
    check<quant::Int8, T, Gated, B>(H, I, counts, bias, step);
    check<quant::Int4, T, Gated, B>(H, I, counts, bias, step);
    check<quant::Mxfp4, T, Gated, B>(H, I, counts, bias, step);
}

} // namespace

TEST_CASE_TEMPLATE("ops/quantized_feed_forward: agrees with the dequantised weights in doubles", B,
                   SEMOE_TEST_BACKENDS) {
    for (bool const bias : {false, true}) {
        check_formats<float, B>(1, 1, {1}, bias);
        check_formats<bf16, B>(70, 45, {3, 0, 33, 17, 6, 8}, bias);
        check_formats<bf16, B>(64, 128, {32, 1}, bias);
        check<quant::Int8, float, Plain, B>(33, 65, {5, 31, 0}, bias);
        check<quant::Mxfp4, bf16, Plain, B>(96, 64, {48, 1}, bias);
    }
    check<quant::Int4, f16, Gated, B>(40, 33, {3}, true);
    check<quant::Int8, double, Gated, B>(33, 40, {9}, true);
}

#if !defined(__CUDACC__)
TEST_CASE_TEMPLATE("ops/quantized_feed_forward: more than a slab, a panel and a task of rows", T,
                   float, bf16) {
    check_formats<T, CpuBackend>(1600, 37, {3, 6, 1}, false);
    check_formats<T, CpuBackend>(64, 1500, {400, 1, 50}, false, 97);
    check_formats<T, CpuBackend>(64, 64, {9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 11, 12, 13, 14}, true);
}

TEST_CASE_TEMPLATE("ops/quantized_feed_forward: bits do not depend on threads, scratch or other "
                   "rows",
                   Format, quant::Int8, quant::Int4, quant::Mxfp4) {
    using X = QuantizedExperts<Format, bf16, Gated, CpuBackend>;
    X first({.threads = 1}, 96, 80, {40, 3}, true);
    first.forward();
    for (int const threads : {1, 2, 3}) {
        X x({.threads = threads}, 96, 80, {40, 3}, true);
        ops::reserve_worker_scratch(
            x.b, ops::quantized_feed_forward_scratch_bytes<Format, bf16, CpuBackend>(x.block));
        x.forward();
        CHECK(same_bits(x.result(), first.result()));
    }
    X x({.threads = 2}, 96, 80, {40, 3}, true);
    for (index_t r = 1; r <= 40; r += 1 + r % 5) { // one to five at a time
        ops::Group<std::byte const> g;
        g.add(r, min(1 + r % 5, 41 - r), reinterpret_cast<std::byte const*>(x.blocks[0].data()));
        x.forward(g);
    }
    auto const all = first.result();
    auto const check = [&](index_t first_row, index_t n) {
        auto const rows = x.result();
        for (index_t i = first_row * 96; i < (first_row + n) * 96; ++i)
            REQUIRE(float(rows[std::size_t(i)]) == float(all[std::size_t(i)]));
    };
    check(1, 40);
    for (index_t n = 1; n < 40; ++n) { // together, from a row that moves
        ops::Group<std::byte const> g;
        g.add(41 - n, n, reinterpret_cast<std::byte const*>(x.blocks[0].data()));
        x.forward(g);
        check(41 - n, n);
    }
}

TEST_CASE_TEMPLATE("ops/quantized_feed_forward: bytes have the same bits on every instruction set",
                   Format, quant::Int8, quant::Int4) {
#if SEMOE_X86
    if (!is_available(Isa::avx512)) {
        MESSAGE("skipped: this machine lacks avx512");
        return;
    }
    for (index_t const rows : {3, 7, 12, 19, 24, 40, 77}) {
        QuantizedExperts<Format, bf16, Gated, CpuBackend> x({.threads = 1}, 130, 80, {rows}, true);
        std::vector<bf16> first;
        for (Isa const isa : {Isa::avx512, Isa::avx512_vnni, Isa::avx512_bf16, Isa::amx}) {
            if (!is_available(isa)) continue;
            using Tasks = ops::cpu::QuantizedTasks<Format, bf16, decltype(x.block)>;
            ops::Group<std::byte const> g;
            g.add(1, rows, reinterpret_cast<std::byte const*>(x.blocks[0].data()));
            x.b.parallel_tasks(1, Tasks{isa,
                                        g,
                                        x.block,
                                        x.view(x.in, 130),
                                        {},
                                        x.view(x.out, 130),
                                        1,
                                        1,
                                        Tasks::Part::all});
            if (first.empty()) first = x.result();
            CAPTURE(rows);
            CHECK(same_bits(x.result(), first));
        }
    }
#endif
}

TEST_CASE_TEMPLATE("ops/quantized_feed_forward: a row that is not finite becomes NaN, alone",
                   Format, quant::Int8, quant::Int4, quant::Mxfp4) {
    QuantizedExperts<Format, float, Gated, CpuBackend> x({.threads = 1}, 64, 32, {5}, false);
    x.in.data()[2 * 64 + 5] = std::numeric_limits<float>::infinity();
    x.in.data()[4 * 64 + 9] = std::numeric_limits<float>::quiet_NaN();
    x.forward();
    auto const y = x.result();
    for (index_t r = 1; r <= 5; ++r)
        for (index_t h = 0; h < 64; ++h)
            CHECK(std::isfinite(y[std::size_t(r * 64 + h)]) == (r != 2 && r != 4));
}

TEST_CASE("ops/quantized_feed_forward: a matrix that does not fit is refused by name") {
    QuantizedExperts<quant::Int8, float, Gated, CpuBackend> x({.threads = 1}, 32, 16, {4}, false);
    x.H = 31;
    CHECK_THROWS_AS(x.forward(), precondition_error);
}

TEST_CASE("ops/quantized_feed_forward: a depth whose sums of bytes may overflow is refused") {
    auto const forward = [](index_t depth) {
        QuantizedExperts<quant::Int8, float, Gated, CpuBackend>({.threads = 1}, depth, 1, {0}, true)
            .forward();
    };
    forward(65536);
    CHECK_THROWS_WITH_AS(forward(65537), doctest::Contains("H is 65537, I 1; kernels take 65536"),
                         precondition_error);
}
#endif
