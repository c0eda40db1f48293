#pragma once

#include "semoe/backend/cpu/isa.hpp"

#include <algorithm>
#include <fstream>
#include <string>

namespace bench {

/// The value of the first line "key : value" of a file of the system; empty where there is none.
inline std::string system_value(char const* file, std::string const& key) {
    std::ifstream in(file);
    for (std::string line; std::getline(in, line);)
        if (line.starts_with(key)) {
            auto const colon = line.find(':');
            auto const begin = line.find_first_not_of(" \t", colon + 1);
            if (colon != std::string::npos && begin != std::string::npos) return line.substr(begin);
        }
    return {};
}

inline std::string processor_name() {
    std::string const name = system_value("/proc/cpuinfo", "model name");
    return name.empty() ? "unknown processor" : name;
}

/// Bytes of memory that can be had without pushing anything out.
inline double available_memory_bytes() {
    std::string const kib = system_value("/proc/meminfo", "MemAvailable");
    return kib.empty() ? 8e9 : std::stod(kib) * 1024;
}

/// Bytes of the largest cache, which may be shared with others.
inline double last_level_cache_bytes() {
    double bytes = 32e6;
    for (int index = 0; index < 8; ++index) {
        std::ifstream in("/sys/devices/system/cpu/cpu0/cache/index" + std::to_string(index) +
                         "/size");
        double size = 0;
        char unit = 0;
        if (in >> size >> unit) bytes = std::max(bytes, size * (unit == 'M' ? 1048576.0 : 1024.0));
    }
    return bytes;
}

/// The column of bench/README.md that this machine belongs to.
inline std::string machine_kind() {
    using semoe::Isa;
    Isa const isa = semoe::selected_isa();
    struct {
        char const *vendor, *family; // of /proc/cpuinfo; no family: any
        Isa best;
        char const* column;
    } const kinds[] = {
        {"GenuineIntel", "", Isa::amx, "Intel, AMX"},
        {"GenuineIntel", "", Isa::avx512_bf16, "Intel, AVX512_BF16"},
        {"GenuineIntel", "", Isa::avx512_vnni, "Intel, AVX-512 VNNI"},
        {"GenuineIntel", "", Isa::avx512, "Intel, AVX-512"},
        {"AuthenticAMD", "26", Isa::avx512_bf16, "AMD Zen 5, AVX512_BF16"},
        {"AuthenticAMD", "25", Isa::avx512_bf16, "AMD Zen 4, AVX512_BF16"},
        {"AuthenticAMD", "25", Isa::avx2, "AMD Zen 3, AVX2"},
    };
    std::string const vendor = system_value("/proc/cpuinfo", "vendor_id");
    std::string const family = system_value("/proc/cpuinfo", "cpu family");
    for (auto const& kind : kinds)
        if (isa == semoe::best_isa() && isa == kind.best && vendor == kind.vendor &&
            (!*kind.family || family == kind.family))
            return kind.column;
    return processor_name() + ", " + semoe::to_string(isa);
}

} // namespace bench
