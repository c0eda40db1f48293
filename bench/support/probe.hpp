#pragma once

#include "semoe/backend/cpu/isa.hpp"
#include "support/machine.hpp"

#include <algorithm>
#include <atomic>
#include <barrier>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>
#include <sys/mman.h>
#include <thread>
#include <vector>

/// What this machine can do at most, measured here and now: products a second in registers, and
/// bytes a second from memory.
namespace bench {

using Clock = std::chrono::steady_clock;
inline double seconds_since(Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
}

/// Runs work(thread) on `threads` threads that begin together.
/// @return seconds until the last one is done
template <class Work>
double run_together(int threads, Work const& work) {
    Clock::time_point start;
    std::barrier begin(threads, [&start]() noexcept { start = Clock::now(); });
    std::vector<double> seconds(std::size_t(threads), 0.0);
    auto const run = [&](int thread) {
        begin.arrive_and_wait();
        work(thread);
        seconds[std::size_t(thread)] = seconds_since(start);
    };
    {
        std::vector<std::jthread> others;
        for (int thread = 1; thread < threads; ++thread) others.emplace_back(run, thread);
        run(0);
    }
    return *std::max_element(seconds.begin(), seconds.end());
}

/// A loop over twelve independent instructions, which covers the latency of each of them.
struct ProductLoop {
    semoe::Isa isa;
    void (*run)(long turns);
    double flops_per_turn;
};

#if SEMOE_X86
// Written out, so that no compiler's habits with registers come in between.
#define BENCH_TWELVE "4,5,6,7,8,9,10,11,12,13,14,15"
#define BENCH_LOOP(zero, instruction)                                                              \
    __asm__ volatile(".irp r,0,1," BENCH_TWELVE "\n" zero "\n.endr\n"                              \
                     "1:\n.irp r," BENCH_TWELVE "\n" instruction "\n.endr\n"                       \
                     "dec %0\njnz 1b\n"                                                            \
                     : "+r"(turns)::"cc", "xmm0", "xmm1", "xmm2", "xmm4", "xmm5", "xmm6", "xmm7",  \
                       "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15")

inline void sse_products(long turns) {
    BENCH_LOOP("xorps %%xmm\\r, %%xmm\\r",
               "movaps %%xmm0, %%xmm2\nmulps %%xmm1, %%xmm2\naddps %%xmm2, %%xmm\\r");
}
inline void avx2_products(long turns) {
    BENCH_LOOP("vxorps %%ymm\\r, %%ymm\\r, %%ymm\\r", "vfmadd231ps %%ymm0, %%ymm1, %%ymm\\r");
    __asm__ volatile("vzeroupper");
}
inline void avx512_products(long turns) {
    BENCH_LOOP("vpxord %%zmm\\r, %%zmm\\r, %%zmm\\r", "vfmadd231ps %%zmm0, %%zmm1, %%zmm\\r");
    __asm__ volatile("vzeroupper");
}
inline void avx512_bf16_products(long turns) {
    BENCH_LOOP("vpxord %%zmm\\r, %%zmm\\r, %%zmm\\r", "vdpbf16ps %%zmm0, %%zmm1, %%zmm\\r");
    __asm__ volatile("vzeroupper");
}
#undef BENCH_LOOP
#undef BENCH_TWELVE

/// Four accumulators of 16 x 16 from two tiles a side, three times a turn.
inline void amx_products(long turns) {
    struct alignas(64) {
        std::uint8_t palette = 1, start = 0, reserved[14] = {};
        std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
        std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } config;
    __asm__ volatile("ldtilecfg %0\n"
                     ".irp r,0,1,2,3,4,5,6,7\ntilezero %%tmm\\r\n.endr\n" ::"m"(config)
                     : "memory");
    __asm__ volatile("1:\n.rept 3\n"
                     "tdpbf16ps %%tmm6, %%tmm4, %%tmm0\ntdpbf16ps %%tmm7, %%tmm4, %%tmm1\n"
                     "tdpbf16ps %%tmm6, %%tmm5, %%tmm2\ntdpbf16ps %%tmm7, %%tmm5, %%tmm3\n"
                     ".endr\ndec %0\njnz 1b\n"
                     "tilerelease\n"
                     : "+r"(turns)::"cc");
}
inline constexpr ProductLoop float_loops[] = {{semoe::Isa::portable, sse_products, 12 * 4 * 2},
                                              {semoe::Isa::avx2, avx2_products, 12 * 8 * 2},
                                              {semoe::Isa::avx512, avx512_products, 12 * 16 * 2}};
inline constexpr ProductLoop bf16_loops[] = {
    {semoe::Isa::avx512_bf16, avx512_bf16_products, 12 * 32 * 2},
    {semoe::Isa::amx, amx_products, 12 * 16 * 16 * 32 * 2}};
#else
/// Plain loops over sixteen floats, as good as the compiler makes them.
inline void plain_products(long turns) {
    float sums[96] = {};
    for (; turns > 0; --turns) {
        for (float& sum : sums) sum = sum * 0.5f + 1.0f;
        __asm__ volatile("" ::"r"(sums) : "memory");
    }
}
inline constexpr ProductLoop float_loops[] = {{semoe::Isa::portable, plain_products, 96 * 2}};
inline constexpr ProductLoop bf16_loops[] = {{semoe::Isa::portable, plain_products, 96 * 2}};
#endif

/// Flops a second of one loop on so many threads: the best of some runs of 10 ms.
inline double product_rate(ProductLoop const& loop, int threads) {
    auto const run = [&](long turns) {
        return run_together(threads, [&](int) { loop.run(turns); });
    };
    long turns = 1000;
    while (run(turns) < 0.01) turns *= 2;
    double best = run(turns);
    for (int i = 0; i < 8; ++i) best = std::min(best, run(turns));
    return double(threads) * double(turns) * loop.flops_per_turn / best;
}

/// Reads memory that no cache holds. Threads take chunks as they get to them, as a layer's do, so
/// that a thread which another process holds up costs its own time and not everybody's.
class BandwidthProbe {
public:
    explicit BandwidthProbe(int threads)
      : threads_(threads)
      , bytes_(std::size_t(std::max(1.5 * last_level_cache_bytes(), 256e6)) / chunk * chunk) {
        void* const p = mmap(nullptr, bytes_ + page, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (p == MAP_FAILED) throw std::bad_alloc();
        data_ = static_cast<char*>(p);
        madvise(data_, bytes_ + page, MADV_HUGEPAGE);
        std::memset(data_, 1, bytes_ + page);
    }
    ~BandwidthProbe() { munmap(data_, bytes_ + page); }
    BandwidthProbe(BandwidthProbe const&) = delete;
    BandwidthProbe& operator=(BandwidthProbe const&) = delete;

    /// @return bytes a second, of one pass over the memory
    double measure() const {
        std::atomic<std::size_t> next{0};
        double const seconds = run_together(threads_, [&](int) {
            for (;;) {
                std::size_t const at = next.fetch_add(chunk);
                if (at >= bytes_) return;
                read(data_ + at);
            }
        });
        return double(bytes_) / seconds;
    }

private:
    static constexpr std::size_t chunk = std::size_t{1} << 20, page = 4096;

    /// A load from each line, and a prefetch of the line one page on: more than loads alone give.
    static void read(char const* from) {
        std::uint64_t sum = 0;
        for (std::size_t i = 0; i < chunk; i += 64) {
            std::uint64_t value;
            std::memcpy(&value, from + i, sizeof value);
            sum ^= value;
            __builtin_prefetch(from + i + page, 0, 2);
        }
        __asm__ volatile("" ::"r"(sum));
    }

    int threads_;
    std::size_t bytes_;
    char* data_ = nullptr;
};

/// Limits of the machine in flops and bytes a second.
struct Roofs {
    double bf16_flops = 0, float_flops = 0, bytes = 0;

    double flops(bool is_bf16) const { return is_bf16 ? bf16_flops : float_flops; }
};

/// The rates of the best instructions that the selected instruction set includes. bf16 may also be
/// widened to float, which some processors do faster.
inline Roofs probe_roofs(int threads, BandwidthProbe const& memory) {
    Roofs roofs;
    auto const best = [&](auto const& loops) {
        double rate = 0;
        for (ProductLoop const& loop : loops)
            if (loop.isa <= semoe::selected_isa())
                rate = std::max(rate, product_rate(loop, threads));
        return rate;
    };
    roofs.float_flops = best(float_loops);
    roofs.bf16_flops = std::max(roofs.float_flops, best(bf16_loops));
    std::vector<double> rates;
    for (int i = 0; i < 9; ++i) rates.push_back(memory.measure());
    std::nth_element(rates.begin(), rates.begin() + 4, rates.end());
    roofs.bytes = rates[4];
    return roofs;
}

} // namespace bench
