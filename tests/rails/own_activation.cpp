// An expert with a user's own activation, at -O2 and with no other flags. The test
// disassembly_test.cpp compiles it and looks at the code; nothing runs it.
#include <semoe/backend/cpu/cpu.hpp>
#include <semoe/core/math.hpp>
#include <semoe/expert/gated.hpp>

struct Squash {
    SEMOE_HD float operator()(float x) const { return x / (0.5f + semoe::exp(-x)); }
    SEMOE_HD float derivative(float x) const {
        float const e = semoe::exp(-x), s = 0.5f + e;
        return (s + x * e) / (s * s);
    }
};

template <class T>
void run(semoe::CpuBackend& b, semoe::expert::Gated<T, Squash> const& expert,
         semoe::ops::Group<std::byte const> const& weights,
         semoe::ops::Group<std::byte> const& gradients,
         semoe::ExpertRows<T, semoe::HostSpace> const& rows,
         semoe::ExpertGradientRows<T, semoe::HostSpace> const& gradient_rows) {
    expert.forward_grouped(b, weights, rows);
    expert.backward_grouped(b, weights, gradients, 0, gradient_rows);
}
template void run(semoe::CpuBackend&, semoe::expert::Gated<float, Squash> const&,
                  semoe::ops::Group<std::byte const> const&, semoe::ops::Group<std::byte> const&,
                  semoe::ExpertRows<float, semoe::HostSpace> const&,
                  semoe::ExpertGradientRows<float, semoe::HostSpace> const&);
template void run(semoe::CpuBackend&, semoe::expert::Gated<semoe::bf16, Squash> const&,
                  semoe::ops::Group<std::byte const> const&, semoe::ops::Group<std::byte> const&,
                  semoe::ExpertRows<semoe::bf16, semoe::HostSpace> const&,
                  semoe::ExpertGradientRows<semoe::bf16, semoe::HostSpace> const&);
