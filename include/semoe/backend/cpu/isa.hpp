#pragma once

#include "semoe/core/config.hpp"
#include "semoe/core/error.hpp"

#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#if SEMOE_X86
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#elif SEMOE_ARM && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace semoe {

/// Instruction sets that tuned bodies are written for. A binary holds them all; which one runs is
/// decided once a process by what the processor is. Those of x86 and those of ARM each include the
/// ones before them.
enum class Isa {
    portable,    ///< plain C++: old machines, and the twin that the others are tested against
    avx2,        ///< AVX2, FMA and F16C
    avx512,      ///< AVX-512 F, BW, DQ and VL
    avx512_vnni, ///< and the dot products of bytes
    avx512_bf16, ///< and those of bf16
    amx,         ///< and AMX tiles of bf16 and of bytes
    neon,        ///< 64-bit ARM
    neon_dot,    ///< and its dot products of bytes
};
inline constexpr Isa all_isas[] = {Isa::portable,    Isa::avx2, Isa::avx512, Isa::avx512_vnni,
                                   Isa::avx512_bf16, Isa::amx,  Isa::neon,   Isa::neon_dot};
/// Whether it is one of 64-bit ARM's.
constexpr bool is_arm(Isa isa) { return isa >= Isa::neon; }

/// The name that SEMOE_ISA takes.
inline char const* to_string(Isa isa) {
    switch (isa) {
    case Isa::portable:
        return "portable";
    case Isa::avx2:
        return "avx2";
    case Isa::avx512:
        return "avx512";
    case Isa::avx512_vnni:
        return "avx512_vnni";
    case Isa::avx512_bf16:
        return "avx512_bf16";
    case Isa::amx:
        return "amx";
    case Isa::neon:
        return "neon";
    case Isa::neon_dot:
        return "neon_dot";
    }
    return "unknown";
}

namespace detail {

#if SEMOE_X86
/// State that the system saves for a process, by XGETBV.
inline std::uint64_t enabled_state() {
    std::uint32_t low = 0, high = 0;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return std::uint64_t(high) << 32 | low;
}
/// Tile registers are large, so Linux wants to be asked before a process uses them.
inline bool request_amx_state() {
#if defined(__linux__)
    long const arch_req_xcomp_perm = 0x1023, tile_data = 18;
    return syscall(SYS_arch_prctl, arch_req_xcomp_perm, tile_data) == 0;
#else
    return false;
#endif
}
inline Isa detect_isa() {
    std::uint32_t a = 0, b = 0, c = 0, d = 0;
    auto const has = [](std::uint32_t word, int bit) { return (word >> bit & 1u) != 0; };
    if (!__get_cpuid(1, &a, &b, &c, &d)) return Isa::portable;
    bool const avx =
        has(c, 27) && has(c, 28) && has(c, 12) && has(c, 29); // OSXSAVE, AVX, FMA, F16C
    if (!avx) return Isa::portable;
    std::uint64_t const state = enabled_state();
    auto const saves = [&](std::uint64_t mask) { return (state & mask) == mask; };
    if (!saves(0x6) || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return Isa::portable;
    std::uint32_t const leaves = a, features = b, more = d;
    if (!has(features, 5)) return Isa::portable; // AVX2
    // AVX512 F, DQ, BW, VL
    bool const avx512 = saves(0xe6) && has(features, 16) && has(features, 17) &&
                        has(features, 30) && has(features, 31);
    if (!avx512) return Isa::avx2;
    if (!has(c, 11)) return Isa::avx512; // AVX512_VNNI
    bool const bf16_dot = leaves >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d) && has(a, 5);
    if (!bf16_dot) return Isa::avx512_vnni;
    // AMX-BF16, AMX-TILE, AMX-INT8
    bool const tiles = saves(0x60000) && has(more, 22) && has(more, 24) && has(more, 25);
    return tiles && request_amx_state() ? Isa::amx : Isa::avx512_bf16;
}
#elif SEMOE_ARM
inline Isa detect_isa() {
#if defined(__ARM_FEATURE_DOTPROD)
    return Isa::neon_dot;
#elif defined(__linux__)
    unsigned long const dot_products = 1ul << 20; // HWCAP_ASIMDDP
    return getauxval(AT_HWCAP) & dot_products ? Isa::neon_dot : Isa::neon;
#else
    return Isa::neon;
#endif
}
#else
inline Isa detect_isa() { return Isa::portable; }
#endif

} // namespace detail

/// The best instruction set of this processor that the system lets us use.
inline Isa best_isa() {
    static Isa const isa = detail::detect_isa();
    return isa;
}

/// Whether this machine runs code for `isa`.
inline bool is_available(Isa isa) {
    if (isa == Isa::portable) return true;
    return is_arm(isa) == is_arm(best_isa()) && isa <= best_isa();
}

/// The instruction set of that name; null or empty means the best there is.
/// @throws precondition_error naming what was asked for and what this machine has
SEMOE_COLD inline Isa isa_by_name(char const* name) {
    if (!name || !*name) return best_isa();
    std::string available;
    bool known = false;
    for (Isa const isa : all_isas) {
        if (is_available(isa)) {
            if (std::string_view(name) == to_string(isa)) return isa;
            available += std::string(" ") + to_string(isa);
        }
        known |= std::string_view(name) == to_string(isa);
    }
    throw precondition_error(message("SEMOE_ISA: {} instruction set '{}'; it has{}",
                                     known ? "this machine lacks" : "no", name, available));
}

/// What tuned bodies run on, fixed at the first call: the best there is, or what the environment
/// variable SEMOE_ISA names. Results keep their bits within one instruction set.
/// @throws precondition_error as isa_by_name
inline Isa selected_isa() {
    static Isa const isa = isa_by_name(std::getenv("SEMOE_ISA"));
    return isa;
}

} // namespace semoe
