#include <doctest/doctest.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <sstream>
#include <string>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

namespace {

struct Cost {
    int status = 0;
    double seconds = 0;   ///< of processor time
    double megabytes = 0; ///< of the largest process
};

/// Runs a shell command and says what it cost, its children included.
Cost run(std::string const& command) {
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

/// Bytes of code and constants in an object file, as `size` counts them.
long text_bytes(std::string const& object) {
    std::string const command = "size " + object;
    FILE* pipe = popen(command.c_str(), "r");
    REQUIRE(pipe != nullptr);
    char line[512];
    long text = -1;
    while (std::fgets(line, sizeof line, pipe)) std::sscanf(line, "%ld", &text);
    pclose(pipe);
    return text;
}

TEST_CASE("rails/compile_budget: one layer, forward and backward, costs 1 GB and 2 MB of text") {
    std::string const source = SEMOE_SOURCE_DIR "/tests/rails/one_layer.cpp";
    std::string const object =
        (std::filesystem::temp_directory_path() / ("one_layer_" + std::to_string(getpid()) + ".o"))
            .string();
    Cost const cost = run("CCACHE_DISABLE=1 " SEMOE_CXX_COMPILER
                          " -std=c++20 -O2 -c -I" SEMOE_SOURCE_DIR "/include " +
                          source + " -o " + object);
    REQUIRE(cost.status == 0);
    long const text = text_bytes(object);
    std::filesystem::remove(object);

    MESSAGE("compiling one layer took ", cost.seconds, " s, ", cost.megabytes, " MB, ", text,
            " bytes of text"); // time is reported, not asserted: it is the machine's
    CHECK(cost.megabytes < 1024);
    CHECK(text > 0);
    CHECK(text < 2 * 1024 * 1024);
}

} // namespace
