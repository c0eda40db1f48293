#include "semoe/expert/quantized.hpp"

#include "semoe/ops/worker_scratch.hpp"
#include "support/backends.hpp"
#include "support/matrix.hpp"

#include <cmath>
#include <doctest/doctest.h>
#include <vector>

#if !defined(__CUDACC__)
#include "support/allocation_counter.hpp"
#endif

using namespace semoe;
using namespace semoe::test;

namespace {

template <class T>
double cosine(std::vector<T> const& a, std::vector<T> const& b) {
    double ab = 0, aa = 1e-60, bb = 1e-60;
    for (std::size_t i = 0; i < a.size(); ++i) {
        double const x = double(a[i]), y = double(b[i]);
        ab += x * y, aa += x * x, bb += y * y;
    }
    return ab / std::sqrt(aa * bb);
}

/// One expert of some rows on a backend; in falling order, and read through an index that says so,
/// where `reversed`.
template <class X, class B>
std::vector<typename X::value_type> run(B& b, X const& expert, void const* block, index_t rows,
                                        bool reversed = false) {
    using T = typename X::value_type;
    auto x = random_values<T>(3, rows * expert.hidden);
    std::vector<index_t> order;
    for (index_t r = rows; r-- > 0 && reversed;) order.push_back(r);
    for (index_t r = 0; r < rows / 2 && reversed; ++r)
        std::swap_ranges(x.begin() + r * expert.hidden, x.begin() + (r + 1) * expert.hidden,
                         x.end() - (r + 1) * expert.hidden);
    auto const index = to_backend(b, order);
    Buffer<T, B> const in = to_backend(b, x), out(b, rows * expert.hidden),
                       saved(b, rows * expert.saved_columns()),
                       scratch(b, rows * expert.scratch_columns());
    ops::Group<std::byte const> g;
    g.add(0, rows, static_cast<std::byte const*>(block));
    using Rows = MatrixView<T, space_of<B>>;
    expert.forward_grouped(
        b, g,
        ExpertRows<T, space_of<B>>{Rows(in.data(), rows, expert.hidden),
                                   Rows(out.data(), rows, expert.hidden),
                                   Rows(saved.data(), rows, expert.saved_columns()),
                                   Rows(scratch.data(), rows, expert.scratch_columns()),
                                   false,
                                   {reversed ? index.data() : nullptr, index.size()}});
    return to_host(b, out);
}
template <class Format, class Float, class B>
void check_against_float(B& b, Float const& base, double least) {
    using T = typename Float::value_type;
    expert::Quantized const quantized{Format{}, base};
    BlockLayout const floats = base.layout(b), bytes = quantized.layout(b);
    auto const numbers = to_backend(
        b, random_values<T>(1, floats.primary_elements(), 1 / std::sqrt(double(base.hidden))));
    Buffer<std::uint8_t, B> block(b, bytes.elements());
    Buffer<T, B> back(b, floats.primary_elements());
    quantized.quantize(b, as_bytes(VectorView<T const, space_of<B>>(numbers.view())),
                       as_writable_bytes(block.view()));
    auto const want = run(b, base, numbers.data(), 20);
    auto const got = run(b, quantized, block.data(), 20);
    CHECK(cosine(got, want) >= least);
    // The block's numbers, biases among them, are those that the format rounds to.
    quantized.dequantize(b, as_writable_bytes(block.view()), as_writable_bytes(back.view()));
    CHECK(cosine(got, run(b, base, back.data(), 20)) >= 0.999);
    if (quantized.reads_indexed_rows(b)) CHECK(run(b, quantized, block.data(), 20, true) == got);
    if (base.bias) {
        auto const before = to_host(b, numbers), after = to_host(b, back);
        for (index_t i = floats.slice("down_bias").offset; i < floats.primary_elements(); ++i)
            CHECK(double(before[std::size_t(i)]) == double(after[std::size_t(i)]));
    }
}

} // namespace

TEST_CASE_TEMPLATE("expert/quantized: a quantised expert does what the float expert does", B,
                   SEMOE_TEST_BACKENDS) {
    B b{};
    for (bool const bias : {false, true}) {
        expert::SwiGlu<float> const gated{.hidden = 100, .intermediate = 70, .bias = bias};
        check_against_float<quant::Int8>(b, gated, 0.999);
        check_against_float<quant::Int4>(b, gated, 0.98);
        check_against_float<quant::Mxfp4>(b, gated, 0.95);
        expert::Ffn<bf16, ops::activation::Gelu> const plain{
            .hidden = 64, .intermediate = 96, .bias = bias};
        check_against_float<quant::Int8>(b, plain, 0.999);
        check_against_float<quant::Mxfp4>(b, plain, 0.95);
    }
}

TEST_CASE_TEMPLATE("expert/quantized: initialize() draws what the float expert would", B,
                   SEMOE_TEST_BACKENDS) {
    B b{};
    expert::SwiGlu<bf16> const base{.hidden = 33, .intermediate = 40, .bias = true};
    expert::Quantized const quantized{quant::Int4{}, base};
    BlockKey const key{.layer = 2, .expert = 5};
    Buffer<bf16, B> numbers(b, base.layout(b).primary_elements());
    Buffer<std::uint8_t, B> drawn(b, quantized.layout(b).elements()), made(b, drawn.size());
    expert::initialize<bf16>(b, base.layout(b), 7, key, as_writable_bytes(numbers.view()));
    quantized.quantize(b, as_bytes(VectorView<bf16 const, space_of<B>>(numbers.view())),
                       as_writable_bytes(made.view()));
    quantized.initialize(b, 7, key, as_writable_bytes(drawn.view()));
    CHECK(same_bits(to_host(b, drawn), to_host(b, made)));
}

TEST_CASE("expert/quantized: the block is named slices of bytes") {
    CpuBackend const b{.threads = 1};
    expert::SwiGlu<bf16> const base{.hidden = 100, .intermediate = 40, .bias = true};
    auto const layout = expert::Quantized{quant::Int4{}, base}.layout(b);
    CHECK(layout.id() == LayoutId::int4);
    CHECK(layout.slice("gate_proj").rows == 3);
    CHECK(layout.slice("gate_proj").cols == 1024);
    CHECK(layout.slice("up_proj").offset == 3 * 1024);
    CHECK(layout.slice("down_proj").rows == 7);
    CHECK(layout.slice("gate_scales").cols == 2 * 64);
    CHECK(layout.slice("down_scales").rows == 7);
    CHECK(layout.slice("up_bias").cols == 4 * 40);
    // A quarter of a float, or an eighth, and the scales.
    expert::SwiGlu<float> const large{.hidden = 2048, .intermediate = 1024};
    double const whole = 4.0 * double(large.layout(b).elements());
    auto const part = [&](auto format) {
        return double(expert::Quantized{format, large}.layout(b).elements()) / whole;
    };
    CHECK(part(quant::Int8{}) <= 0.251);
    CHECK(part(quant::Int4{}) <= 0.134);
    CHECK(part(quant::Mxfp4{}) <= 0.134);
}

#if !defined(__CUDACC__)
TEST_CASE("expert/quantized: nothing allocates where workers have their scratch") {
    CpuBackend b{.threads = 2};
    expert::Quantized const expert{quant::Int8{},
                                   expert::SwiGlu<bf16>{.hidden = 96, .intermediate = 200}};
    Buffer<std::uint8_t, CpuBackend> block(b, expert.layout(b).elements());
    expert.initialize(b, 1, {}, as_writable_bytes(block.view()));
    ops::reserve_worker_scratch(b, expert.worker_scratch_bytes(b));
    Buffer<bf16, CpuBackend> in(b, 400 * 96), out(b, 400 * 96), saved(b, 400 * 400),
        scratch(b, 400 * 200);
    for (index_t i = 0; i < in.size(); ++i) in.data()[i] = bf16(float(i % 7));
    using Rows = MatrixView<bf16, HostSpace>;
    for (index_t const rows : {1, 40, 400}) {
        ops::Group<std::byte const> g;
        g.add(0, rows, reinterpret_cast<std::byte const*>(block.data()));
        long const before = num_allocations;
        expert.forward_grouped(b, g,
                               ExpertRows<bf16, HostSpace>{Rows(in.data(), rows, 96),
                                                           Rows(out.data(), rows, 96),
                                                           Rows(saved.data(), rows, 400),
                                                           Rows(scratch.data(), rows, 200), false});
        CHECK(num_allocations == before);
    }
}
#endif

TEST_CASE("expert/quantized: sizes that do not work are refused by name") {
    auto const validate = [](index_t hidden, index_t intermediate) {
        expert::Quantized{quant::Int8{},
                          expert::SwiGlu<float>{.hidden = hidden, .intermediate = intermediate}}
            .validate();
    };
    CHECK_NOTHROW(validate(1, 65536));
    CHECK_THROWS_WITH_AS(validate(8, 0), doctest::Contains("intermediate is 0"),
                         precondition_error);
    CHECK_THROWS_WITH_AS(validate(65537, 8), doctest::Contains("the most is 65536"),
                         precondition_error);
    expert::Quantized other{quant::Int8{}, expert::SwiGlu<float>{.hidden = 8, .intermediate = 8}};
    other.hidden = 9;
    CHECK_THROWS_WITH_AS(other.validate(), doctest::Contains("hidden is 9"), precondition_error);
    CpuBackend b{.threads = 1};
    CHECK_THROWS_AS(other.quantize(b, {}, {}), precondition_error);
}
