// Experts whose weights are codes, at -O2 and with no other flags. The test disassembly_test.cpp
// compiles it and looks at the code; nothing runs it.
#include <semoe/backend/cpu/cpu.hpp>
#include <semoe/expert/gated.hpp>
#include <semoe/expert/quantized.hpp>

template <class Format>
void run(semoe::CpuBackend& b,
         semoe::expert::Quantized<Format, semoe::expert::SwiGlu<semoe::bf16>> const& expert,
         semoe::ops::Group<std::byte const> const& weights,
         semoe::ExpertRows<semoe::bf16, semoe::HostSpace> const& rows) {
    expert.forward_grouped(b, weights, rows);
}
template void
run(semoe::CpuBackend&,
    semoe::expert::Quantized<semoe::quant::Int8, semoe::expert::SwiGlu<semoe::bf16>> const&,
    semoe::ops::Group<std::byte const> const&,
    semoe::ExpertRows<semoe::bf16, semoe::HostSpace> const&);
template void
run(semoe::CpuBackend&,
    semoe::expert::Quantized<semoe::quant::Int4, semoe::expert::SwiGlu<semoe::bf16>> const&,
    semoe::ops::Group<std::byte const> const&,
    semoe::ExpertRows<semoe::bf16, semoe::HostSpace> const&);
