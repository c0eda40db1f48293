#include "semoe/backend/simulated.hpp"
#include "semoe/dispatch/combine.hpp"
#include "semoe/dispatch/spread.hpp"
#include "semoe/expert/ffn.hpp"
#include "semoe/expert/gated.hpp"
#include "semoe/expert/quantized.hpp"
#include "semoe/ops/gemm.hpp"
#include "semoe/ops/permute.hpp"
#include "semoe/ops/row_dots.hpp"
#include "semoe/optim/adamw8.hpp"
#include "support/memory.hpp"

#include <doctest/doctest.h>

using namespace semoe;

namespace cost_test {
namespace {

using Rows = MatrixView<float, HostSpace>;

/// What work on a simulated machine is charged: a flop and a byte take a second each.
template <class F>
Cost cost_of(F const& work) {
    Cost cost;
    for (double Cost::*part : {&Cost::flops, &Cost::bytes}) {
        SimulatedBackend b;
        (part == &Cost::flops ? b.machine.flops : b.machine.memory_bytes) = 1;
        work(b);
        cost.*part = simulated::seconds(b.makespan());
    }
    return cost;
}

} // namespace

TEST_CASE("ops/cost: a product takes two flops a term, and its operands and result once") {
    std::vector<float> a(7 * 5), w(3 * 5), c(7 * 3);
    Rows const ma{a.data(), 7, 5}, mw{w.data(), 3, 5}, mc{c.data(), 7, 3};
    double const flops = 2 * 7 * 5 * 3, bytes = 4 * (7 * 5 + 3 * 5 + 7 * 3);
    CHECK(cost_of([&](auto& b) { ops::gemm_nt(b, ma, mw, mc); }) == Cost{flops, bytes});
    CHECK(cost_of([&](auto& b) { ops::gemm_nt(b, ma, mw, mc, ops::Accumulate::yes); }) ==
          Cost{flops, bytes + 4 * 7 * 3});
    CHECK(cost_of([&](auto& b) { ops::gemm_nn(b, mc, mw, ma); }) == Cost{flops, bytes});
    CHECK(cost_of([&](auto& b) { ops::gemm_tn(b, mc, ma, mw); }) == Cost{flops, bytes});
    CHECK(cost_of([&](auto& b) { ops::row_dots(b, ma, mw, mc); }) == Cost{flops, bytes});
}

TEST_CASE("ops/cost: rows that are moved are read and written") {
    constexpr index_t T = 4, K = 3, S = T * K, H = 9;
    std::vector<float> x(T * H), rows(S * H), weights(S);
    std::vector<index_t> slots(S);
    for (std::size_t i = 0; i < slots.size(); ++i) slots[i] = index_t(i);
    Rows const mx{x.data(), T, H}, mr{rows.data(), S, H}, mw{weights.data(), T, K};
    MatrixView<index_t const, HostSpace> const slot_of{slots.data(), T, K};
    CHECK(cost_of([&](auto& b) { spread_rows(b, mx, slot_of, mr); }) == Cost{0, 4 * (T + S) * H});
    CHECK(cost_of([&](auto& b) {
              combine(b, mr, slot_of, mw, VectorView<std::uint8_t const, HostSpace>{}, mx);
          }) == Cost{0, 4 * (T + S) * H});
    CHECK(cost_of([&](auto& b) { combine_backward(b, mx, mr, slot_of, mw, {}, mr, mw); }) ==
          Cost{0, 4 * 3 * S * H});
    VectorView<index_t const, HostSpace> const index{slots.data(), T};
    CHECK(cost_of([&](auto& b) { ops::gather_rows(b, mr, index, mx); }) == Cost{0, 4 * 2 * T * H});
}

TEST_CASE("ops/cost: an update reads and writes what it keeps") {
    std::vector<float> weight(11), gradient(11), moments(22);
    ParameterBlock<float, HostSpace> block;
    block.weight = {weight.data(), 11};
    block.gradient = {gradient.data(), 11};
    block.moments = {moments.data(), 22};
    CHECK(cost_of([&](auto& b) { optim::AdamW{}.update(b, block, {}); }) ==
          Cost{0, 11 * 4 * (2 + 1 + 4)});
    std::vector<float> codes(std::size_t(optim::moments_size<optim::AdamW8, float>(11)));
    block.moments = {codes.data(), index_t(codes.size())};
    CHECK(cost_of([&](auto& b) { optim::AdamW8{}.update(b, block, {}); }) ==
          Cost{0, 4 * (11 * (2 + 1) + 2 * double(codes.size()))});
}

TEST_CASE_TEMPLATE("ops/cost: an expert takes the flops that it announces, and its weights once", X,
                   expert::Ffn<float, ops::activation::Relu>, expert::SwiGlu<float>) {
    constexpr index_t H = 6, I = 10, R = 13;
    X const expert{.hidden = H, .intermediate = I};
    SimulatedBackend layouts;
    auto const elements = expert.layout(layouts).elements();
    index_t const pre = expert.saved_columns();
    std::vector<float> block(static_cast<std::size_t>(elements)), gradient(block), second(block);
    auto const as_bytes = [](auto& v) { return reinterpret_cast<std::byte*>(v.data()); };
    ops::Group<std::byte const> group; // one expert without rows, which costs nothing
    group.add(0, 5, as_bytes(block));
    group.add(5, 0, as_bytes(block));
    group.add(5, 8, as_bytes(second));
    auto const rows_of = [](index_t cols) { return std::vector<float>(std::size_t(R * cols)); };
    auto in = rows_of(H), out = rows_of(H), d_out = rows_of(H), saved = rows_of(pre);
    auto scratch = rows_of(I), backward_scratch = rows_of(expert.backward_scratch_columns());
    auto const view = [](auto& v) { return Rows{v.data(), R, index_t(v.size()) / R}; };

    double const flops = R * expert.flops_per_row();
    // Both products read and write rows; so does the unit between them.
    auto const rows = double(R * (H + pre + I + H + pre + I));
    CHECK(cost_of([&](auto& b) {
              expert.forward_grouped(b, group,
                                     {view(in), view(out), view(saved), view(scratch), true});
          }) == Cost{flops, 4 * (rows + 2 * double(elements))});

    ops::Group<std::byte> gradients;
    gradients.add(0, 5, as_bytes(gradient));
    gradients.add(5, 0, as_bytes(gradient));
    gradients.add(5, 8, as_bytes(gradient));
    Cost const backward = cost_of([&](auto& b) {
        expert.backward_grouped(
            b, group, gradients, 0,
            {view(in), view(saved), view(d_out), view(out), view(backward_scratch)});
    });
    CHECK(backward.flops == 2 * flops);
    CHECK(backward.bytes > 4 * 4 * double(elements)); // weights read, gradients written
}

TEST_CASE_TEMPLATE("ops/cost: a quantised expert takes its codes and scales once", Format,
                   quant::Int8, quant::Int4, quant::Mxfp4) {
    constexpr index_t H = 32, I = 64, R = 9;
    expert::SwiGlu<float> const floats{.hidden = H, .intermediate = I};
    expert::Quantized const expert{Format{}, floats};
    SimulatedBackend layouts;
    std::vector<std::byte> block(std::size_t(expert.layout(layouts).elements()));
    ops::Group<std::byte const> group;
    group.add(0, R, block.data());
    std::vector<float> in(R * H), out(R * H), saved(R * 2 * I), scratch(R * I);
    auto const view = [](auto& v) { return Rows{v.data(), R, index_t(v.size()) / R}; };
    double const rows = R * (H + 2 * I + 2 * I + I + I + H);
    CHECK(cost_of([&](auto& b) {
              expert.forward_grouped(b, group,
                                     {view(in), view(out), view(saved), view(scratch), false});
          }) == Cost{R * floats.flops_per_row(), 4 * rows + double(block.size())});
}

} // namespace cost_test
