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

/// A loop over independent instructions, enough of them to cover the latency of each.
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
/// Pairs of 16 bits, which bytes are widened to where there are no dot products of them.
inline void avx2_pair_products(long turns) {
    BENCH_LOOP("vpxor %%ymm\\r, %%ymm\\r, %%ymm\\r",
               "vpmaddwd %%ymm0, %%ymm1, %%ymm2\nvpaddd %%ymm2, %%ymm\\r, %%ymm\\r");
    __asm__ volatile("vzeroupper");
}
/// Half bytes, whose sums fit 16 bits for as long as a group of them lasts.
inline void avx2_half_byte_products(long turns) {
    BENCH_LOOP("vpxor %%ymm\\r, %%ymm\\r, %%ymm\\r",
               "vpmaddubsw %%ymm0, %%ymm1, %%ymm2\nvpaddw %%ymm2, %%ymm\\r, %%ymm\\r");
    __asm__ volatile("vzeroupper");
}
inline void avx512_pair_products(long turns) {
    BENCH_LOOP("vpxord %%zmm\\r, %%zmm\\r, %%zmm\\r",
               "vpmaddwd %%zmm0, %%zmm1, %%zmm2\nvpaddd %%zmm2, %%zmm\\r, %%zmm\\r");
    __asm__ volatile("vzeroupper");
}
inline void avx512_half_byte_products(long turns) {
    BENCH_LOOP("vpxord %%zmm\\r, %%zmm\\r, %%zmm\\r",
               "vpmaddubsw %%zmm0, %%zmm1, %%zmm2\nvpaddw %%zmm2, %%zmm\\r, %%zmm\\r");
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
inline void byte_dot_products(long turns) {
    BENCH_LOOP("vpxord %%zmm\\r, %%zmm\\r, %%zmm\\r", "vpdpbusd %%zmm0, %%zmm1, %%zmm\\r");
    __asm__ volatile("vzeroupper");
}
#undef BENCH_LOOP
#undef BENCH_TWELVE

/// Four accumulators of 16 x 16 from two tiles a side, three times a turn.
#define BENCH_TILES(instruction)                                                                   \
    __asm__ volatile("1:\n.rept 3\n" instruction " %%tmm6, %%tmm4, %%tmm0\n" instruction           \
                     " %%tmm7, %%tmm4, %%tmm1\n" instruction                                       \
                     " %%tmm6, %%tmm5, %%tmm2\n" instruction                                       \
                     " %%tmm7, %%tmm5, %%tmm3\n.endr\ndec %0\njnz 1b\ntilerelease\n"               \
                     : "+r"(turns)::"cc")
inline void configure_tiles() {
    struct alignas(64) {
        std::uint8_t palette = 1, start = 0, reserved[14] = {};
        std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
        std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } config;
    __asm__ volatile("ldtilecfg %0\n"
                     ".irp r,0,1,2,3,4,5,6,7\ntilezero %%tmm\\r\n.endr\n" ::"m"(config)
                     : "memory");
}
inline void amx_products(long turns) {
    configure_tiles();
    BENCH_TILES("tdpbf16ps");
}
inline void amx_byte_products(long turns) {
    configure_tiles();
    BENCH_TILES("tdpbusd");
}
#undef BENCH_TILES
inline constexpr ProductLoop float_loops[] = {{semoe::Isa::portable, sse_products, 12 * 4 * 2},
                                              {semoe::Isa::avx2, avx2_products, 12 * 8 * 2},
                                              {semoe::Isa::avx512, avx512_products, 12 * 16 * 2}};
inline constexpr ProductLoop bf16_loops[] = {
    {semoe::Isa::avx512_bf16, avx512_bf16_products, 12 * 32 * 2},
    {semoe::Isa::amx, amx_products, 12 * 16 * 16 * 32 * 2}};
inline constexpr ProductLoop byte_loops[] = {
    {semoe::Isa::avx2, avx2_pair_products, 12 * 16 * 2},
    {semoe::Isa::avx512, avx512_pair_products, 12 * 32 * 2},
    {semoe::Isa::avx512_vnni, byte_dot_products, 12 * 64 * 2},
    {semoe::Isa::amx, amx_byte_products, 12 * 16 * 16 * 64 * 2}};
inline constexpr ProductLoop half_byte_loops[] = {
    {semoe::Isa::avx2, avx2_half_byte_products, 12 * 32 * 2},
    {semoe::Isa::avx512, avx512_half_byte_products, 12 * 64 * 2}};
#elif SEMOE_ARM
#define BENCH_LOOP(instruction)                                                                    \
    __asm__ volatile(".irp r," BENCH_LOW "," BENCH_HIGH "\nmovi v\\r\\().16b, #0\n.endr\n"         \
                     "1:\n.irp r," BENCH_HIGH "\n" instruction "\n.endr\n"                         \
                     "subs %0, %0, #1\nb.ne 1b\n"                                                  \
                     : "+r"(turns)::"cc", "v0", "v1", "v2", "v4", "v5", "v6", "v7", "v8", "v9",    \
                       "v10", "v11", "v12", "v13", "v14", "v15", "v16", "v17", "v18", "v19",       \
                       "v20", "v21", "v22", "v23", "v24", "v25", "v26", "v27")
#define BENCH_LOW "0,1"
#define BENCH_HIGH "4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27"

inline void neon_products(long turns) { BENCH_LOOP("fmla v\\r\\().4s, v0.4s, v1.4s"); }
/// Pairs of words of 16 bits, which products of bytes are where there are no dot products of them.
inline void neon_byte_products(long turns) {
    BENCH_LOOP(
        "smull v2.8h, v0.8b, v1.8b\nsmlal2 v2.8h, v0.16b, v1.16b\nsadalp v\\r\\().4s, v2.8h");
}
/// sdot v\r.4s, v0.16b, v1.16b, which an assembler refuses for the oldest of these processors.
inline void neon_byte_dot_products(long turns) { BENCH_LOOP(".inst 0x4e819400 + \\r"); }
#undef BENCH_LOOP
#undef BENCH_LOW
#undef BENCH_HIGH
inline constexpr ProductLoop float_loops[] = {{semoe::Isa::portable, neon_products, 24 * 4 * 2}};
inline constexpr ProductLoop bf16_loops[] = {{semoe::Isa::portable, neon_products, 24 * 4 * 2}};
inline constexpr ProductLoop byte_loops[] = {
    {semoe::Isa::neon, neon_byte_products, 24 * 16 * 2},
    {semoe::Isa::neon_dot, neon_byte_dot_products, 24 * 16 * 2}};
inline constexpr ProductLoop half_byte_loops[] = {
    {semoe::Isa::neon, neon_byte_products, 24 * 16 * 2}};
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
inline constexpr ProductLoop byte_loops[] = {{semoe::Isa::portable, plain_products, 96 * 2}};
inline constexpr ProductLoop half_byte_loops[] = {{semoe::Isa::portable, plain_products, 96 * 2}};
#endif

/// What the factors of products are: what is narrower may also be widened, which some processors do
/// faster.
enum class Factors { floats, bf16, bytes, half_bytes };

/// The most flops a second that were seen, with the best instructions of the selected set.
class PeakProbe {
public:
    PeakProbe(int threads, Factors factors)
      : threads_(threads) {
        auto const try_all = [&](auto const& loops) {
            for (ProductLoop const& loop : loops)
                if (loop.isa <= semoe::selected_isa()) try_loop(loop);
        };
        try_all(float_loops);
        if (factors != Factors::floats) try_all(bf16_loops);
        if (factors >= Factors::bytes) try_all(byte_loops);
        if (factors == Factors::half_bytes) try_all(half_byte_loops);
        for (int i = 0; i < 5; ++i) measure();
    }

    /// One more look, of 10 ms: a machine that was busy before may be less so now.
    void measure() { best_ = std::max(best_, rate(loop_, turns_)); }
    double best() const { return best_; }

private:
    double rate(ProductLoop const& loop, long turns) const {
        double const seconds = run_together(threads_, [&](int) { loop.run(turns); });
        return double(threads_) * double(turns) * loop.flops_per_turn / seconds;
    }
    void try_loop(ProductLoop const& loop) {
        long turns = 1000;
        while (run_together(threads_, [&](int) { loop.run(turns); }) < 0.01) turns *= 2;
        double const found = std::max(rate(loop, turns), rate(loop, turns));
        if (found <= best_) return;
        best_ = found;
        loop_ = loop;
        turns_ = turns;
    }

    int threads_;
    ProductLoop loop_ = float_loops[0];
    long turns_ = 0;
    double best_ = 0;
};

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
        double best = 0;
        for (int i = 0; i < 6; ++i) {
            Read const read = i % 2 == 0 ? &read_ahead : &read_in_turn;
            double const found = measure(read);
            if (found > best) best = found, read_ = read;
        }
    }
    ~BandwidthProbe() { munmap(data_, bytes_ + page); }
    BandwidthProbe(BandwidthProbe const&) = delete;
    BandwidthProbe& operator=(BandwidthProbe const&) = delete;

    /// @return bytes a second, of one pass over the memory
    double measure() const { return measure(read_); }

private:
    using Read = void (*)(char const* chunk);
    static constexpr std::size_t chunk = std::size_t{1} << 20, page = 4096;

    double measure(Read read) const {
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

    // A load from each line. What gives most differs from processor to processor.

    /// With a prefetch of the line one page on.
    static void read_ahead(char const* from) {
        std::uint64_t sum = 0;
        for (std::size_t i = 0; i < chunk; i += 64) {
            std::uint64_t value;
            std::memcpy(&value, from + i, sizeof value);
            sum ^= value;
            __builtin_prefetch(from + i + page, 0, 2);
        }
        __asm__ volatile("" ::"r"(sum));
    }
    /// From both halves in turn.
    static void read_in_turn(char const* from) {
        std::uint64_t sum = 0;
        for (std::size_t i = 0; i < chunk / 2; i += 64)
            for (char const* const line : {from + i, from + chunk / 2 + i}) {
                std::uint64_t value;
                std::memcpy(&value, line, sizeof value);
                sum ^= value;
            }
        __asm__ volatile("" ::"r"(sum));
    }

    int threads_;
    std::size_t bytes_;
    char* data_ = nullptr;
    Read read_ = &read_ahead;
};

/// What rows are compared with: probed before the first of them, and again during each.
struct Probes {
    BandwidthProbe memory;
    PeakProbe bf16_peak, float_peak, byte_peak, half_byte_peak;
    std::vector<double> bandwidths; ///< of every pass

    explicit Probes(int threads)
      : memory(threads)
      , bf16_peak(threads, Factors::bf16)
      , float_peak(threads, Factors::floats)
      , byte_peak(threads, Factors::bytes)
      , half_byte_peak(threads, Factors::half_bytes) {
        for (int i = 0; i < 9; ++i) measure_memory();
    }
    Probes(Probes const&) = delete;
    Probes& operator=(Probes const&) = delete;

    double measure_memory() { return bandwidths.emplace_back(memory.measure()); }
    PeakProbe& peak(Factors factors) {
        return factors == Factors::floats  ? float_peak
               : factors == Factors::bf16  ? bf16_peak
               : factors == Factors::bytes ? byte_peak
                                           : half_byte_peak;
    }
};

} // namespace bench
