#pragma once

#include <cstdio>
#include <doctest/doctest.h>
#include <filesystem>
#include <string>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

namespace semoe::test {

struct Cost {
    int status = 0;
    double seconds = 0;   ///< of processor time
    double megabytes = 0; ///< of the largest process
};

/// Runs a shell command and says what it cost, its children included.
inline Cost run(std::string const& command) {
    std::fflush(nullptr);
    pid_t const child = fork();
    if (child == 0) {
        execl("/bin/sh", "sh", "-c", command.c_str(), static_cast<char*>(nullptr));
        _exit(127);
    }
    Cost cost;
    rusage usage{};
    wait4(child, &cost.status, 0, &usage);
    auto const seconds = [](timeval t) { return double(t.tv_sec) + 1e-6 * double(t.tv_usec); };
    cost.seconds = seconds(usage.ru_utime) + seconds(usage.ru_stime);
    cost.megabytes = double(usage.ru_maxrss) / 1024;
    return cost;
}
/// What a shell command that must succeed prints.
inline std::string output_of(std::string const& command) {
    FILE* pipe = popen(command.c_str(), "r");
    REQUIRE(pipe != nullptr);
    std::string text;
    char part[4096];
    while (std::size_t const n = std::fread(part, 1, sizeof part, pipe)) text.append(part, n);
    REQUIRE(pclose(pipe) == 0);
    return text;
}

/// A file of tests/rails, compiled as a user does who gives no flags but -O2, and `define` if any.
struct Compiled {
    std::string object;
    Cost cost;

    explicit Compiled(std::string const& name, std::string const& define = "")
      : object((std::filesystem::temp_directory_path() /
                (name + "_" + std::to_string(getpid()) + ".o"))
                   .string())
      , cost(run("CCACHE_DISABLE=1 " SEMOE_CXX_COMPILER " -std=c++20 -O2 " + define +
                 " -c -I" SEMOE_SOURCE_DIR "/include " SEMOE_SOURCE_DIR "/tests/rails/" + name +
                 ".cpp -o " + object)) {}
    Compiled(Compiled const&) = delete;
    Compiled& operator=(Compiled const&) = delete;
    ~Compiled() { std::filesystem::remove(object); }
};

} // namespace semoe::test
