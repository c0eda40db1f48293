#include "semoe/backend/cpu/isa.hpp"

#include <cstdlib>
#include <doctest/doctest.h>
#include <string>

using namespace semoe;

TEST_CASE("backend/cpu/isa: every instruction set has the name that selects it") {
    for (Isa isa : all_isas) {
        CHECK(std::string(to_string(isa)) != "unknown");
        if (is_available(isa)) CHECK(isa_by_name(to_string(isa)) == isa);
    }
}

TEST_CASE("backend/cpu/isa: the portable one and the best one are always there") {
    CHECK(is_available(Isa::portable));
    CHECK(is_available(best_isa()));
    CHECK(isa_by_name(nullptr) == best_isa());
    CHECK(isa_by_name("") == best_isa());
    CHECK((is_available(Isa::neon) ? !is_available(Isa::avx2) : true));
}

#if SEMOE_X86
TEST_CASE("backend/cpu/isa: detection agrees with the compiler's own") {
    __builtin_cpu_init();
    bool const avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    bool const avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    CHECK(is_available(Isa::avx2) == avx2);
    CHECK(is_available(Isa::avx512) == (avx2 && avx512));
}
#elif SEMOE_ARM
TEST_CASE("backend/cpu/isa: every 64-bit ARM has NEON") { CHECK(is_available(Isa::neon)); }
#endif

TEST_CASE("backend/cpu/isa: an unknown name is refused with what this machine has") {
    try {
        isa_by_name("altivec");
        FAIL("no error");
    } catch (precondition_error const& error) {
        std::string const text = error.what();
        CHECK(text.find("no instruction set 'altivec'") != std::string::npos);
        CHECK(text.find("it has portable") != std::string::npos);
        CHECK(text.find(to_string(best_isa())) != std::string::npos);
    }
}

TEST_CASE("backend/cpu/isa: a set that the machine lacks is refused by name") {
    for (Isa isa : all_isas) {
        if (is_available(isa)) continue;
        std::string const expected =
            std::string("SEMOE_ISA: this machine lacks instruction set '") + to_string(isa) + "'";
        try {
            isa_by_name(to_string(isa));
            FAIL("no error");
        } catch (precondition_error const& error) {
            CHECK(std::string(error.what()).find(expected) == 0);
        }
    }
}

TEST_CASE("backend/cpu/isa: one is selected for the whole process") {
    Isa const selected = isa_by_name(std::getenv("SEMOE_ISA"));
    CHECK(selected_isa() == selected);
    setenv("SEMOE_ISA", "altivec", 1);
    CHECK(selected_isa() == selected);
    unsetenv("SEMOE_ISA");
}
