// serve_layers under limits of memory: what a stack of layers decodes and reads ahead of it when
// half, most or all of its weights fit. Each run is a process of its own in a control group, which
// counts the system's cache as well.
//
//     bench_tier_serve_bench SERVE_LAYERS FILE [OTHERS] [PICTURE.svg]
//
// OTHERS: lines "NAME SHARE DECODED", tokens/s that another program reached under the limit.

#include "support/svg.hpp"

#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include <unistd.h>

namespace {

namespace fs = std::filesystem;

/// A control group that bounds the memory of what is started in it, cache included.
class MemoryLimit {
public:
    explicit MemoryLimit(double bytes) {
        bool const v1 = fs::exists("/sys/fs/cgroup/memory/memory.limit_in_bytes");
        group_ = (v1 ? "/sys/fs/cgroup/memory/semoe_bench_" : "/sys/fs/cgroup/semoe_bench_") +
                 std::to_string(::getpid());
        fs::create_directory(group_);
        std::ofstream limit(group_ + (v1 ? "/memory.limit_in_bytes" : "/memory.max"));
        if (!(limit << static_cast<long long>(bytes) << std::flush))
            throw std::runtime_error("serve_bench: cannot limit memory in " + group_ +
                                     "; it takes root and control groups");
    }
    MemoryLimit(MemoryLimit const&) = delete;
    MemoryLimit& operator=(MemoryLimit const&) = delete;
    ~MemoryLimit() { ::rmdir(group_.c_str()); }
    /// As a shell's words before a command.
    std::string enter() const { return "echo $$ > " + group_ + "/cgroup.procs && exec "; }

private:
    std::string group_;
};

/// As one word of a shell.
std::string quoted(std::string const& word) {
    std::string out = "'";
    for (char const c : word)
        if (c == '\'')
            out += "'\\''";
        else
            out += c;
    return out + "'";
}

/// What one phase of serve_layers printed.
struct Phase {
    double tokens_per_second = 0, gigabytes = 0, hits = 0, waiting = 0, user = 0, kernel = 0,
           of_disk = 0;
};
/// The last of each phase, by name.
std::map<std::string, Phase> run(std::string const& command) {
    std::printf("    %s\n", command.c_str());
    std::fflush(stdout);
    std::FILE* const pipe = ::popen(command.c_str(), "r");
    if (!pipe) throw std::runtime_error("serve_bench: cannot run " + command);
    std::map<std::string, Phase> phases;
    std::array<char, 512> line;
    while (std::fgets(line.data(), int(line.size()), pipe)) {
        char name[32];
        Phase p;
        long long tokens = 0;
        double rate = 0;
        if (std::sscanf(line.data(),
                        "%31[^:]: %lld tokens, %lf tokens/s; read %lf GB, %lf GB/s; %lf %% hits, "
                        "%lf %% of the time waiting; processors: %lf %% user, %lf %% kernel; "
                        "%lf %% of the disk",
                        name, &tokens, &p.tokens_per_second, &p.gigabytes, &rate, &p.hits,
                        &p.waiting, &p.user, &p.kernel, &p.of_disk) >= 9) {
            p.gigabytes /= double(tokens);
            phases[name] = p;
        } else {
            std::printf("    %s", line.data());
        }
    }
    if (::pclose(pipe) != 0) throw std::runtime_error("serve_bench: it failed: " + command);
    return phases;
}

struct Series {
    std::string name, color;
    std::vector<std::array<double, 2>> points; // share of the weights, tokens/s
};

void draw(std::string const& file, std::string const& title, std::vector<Series> const& all) {
    constexpr double width = 560, height = 380, left = 60, right = 400, top = 40, bottom = 330;
    double most = 1, least = 1e9;
    for (Series const& s : all)
        for (auto const& p : s.points) most = std::max(most, p[1]), least = std::min(least, p[1]);
    double const low = std::floor(std::log10(least)), high = std::ceil(std::log10(most));
    auto const at = [&](double share, double rate) {
        return bench::Svg::Point{left + (share - 0.45) / 0.6 * (right - left),
                                 bottom - (std::log10(rate) - low) / (high - low) * (bottom - top)};
    };
    bench::Svg svg(width, height);
    svg.text({left, 22}, title, "black");
    for (double e = low; e <= high; ++e) {
        svg.line(at(0.45, std::pow(10, e)), at(1.05, std::pow(10, e)), "#ddd");
        char label[16];
        std::snprintf(label, sizeof label, "%g", std::pow(10, e));
        svg.text({left - 8, at(0.5, std::pow(10, e)).y + 4}, label, "black", "end");
    }
    for (double const share : {0.5, 0.7, 0.9, 1.0})
        svg.text({at(share, 1).x, bottom + 20},
                 share == 1 ? "no limit" : std::to_string(int(100 * share + 0.5)) + " %", "black",
                 "middle");
    double y = top + 10;
    for (Series const& s : all) {
        std::vector<bench::Svg::Point> points;
        for (auto const& p : s.points) points.push_back(at(p[0], p[1]));
        svg.path(points, s.color.c_str(), 2);
        for (auto const& p : points) svg.mark(p, 0, s.color.c_str(), true);
        svg.mark({right + 20, y - 4}, 0, s.color.c_str(), true);
        svg.text({right + 30, y}, s.name, "black");
        y += 20;
    }
    svg.write(file);
}

} // namespace

int main(int argc, char** argv) {
    if (argc < 3) {
        std::fprintf(stderr, "%s SERVE_LAYERS FILE [OTHERS] [PICTURE.svg]\n", argv[0]);
        return 2;
    }
    try {
        std::string const serve = argv[1], file = argv[2];
        double const weights = double(fs::file_size(file));
        constexpr double program = 25e6; // bytes that it takes beside weights and activations
        std::vector<Series> decode;
        std::string table =
            "| memory | routing, tier | decode, tokens/s | read, GB a token | hits | "
            "of the disk | kernel, of a processor | prompt of 512, tokens/s |\n"
            "|---|---|---|---|---|---|---|---|\n";
        struct Row {
            char const *name, *arguments, *color;
        };
        for (Row const& row : {Row{"uniform", "--routing uniform", "#1f77b4"},
                               Row{"zipf(1), LRU", "--routing zipf", "#2ca02c"},
                               Row{"zipf(1), LFU", "--routing zipf --tier lfu", "#9467bd"}}) {
            decode.push_back({row.name, row.color, {}});
            for (double const share : {0.5, 0.7, 0.9, 1.0}) {
                double const limit = share < 1 ? share * weights : 1.2 * weights;
                MemoryLimit const group(limit);
                std::string const command = group.enter() + quoted(serve) + " --file " +
                                            quoted(file) + " --quiet --probe " + row.arguments +
                                            " --memory " +
                                            std::to_string((long long)(limit - program));
                auto const decoded = run(command + " --prompt 64 --warm 24 --tokens 48")["decode"];
                auto const read = run(command + " --prompt 512 --prompts 3 --tokens 0")["prompt"];
                char line[256];
                std::snprintf(line, sizeof line,
                              "| %s | %s | %.1f | %.2f | %.0f %% | %.0f %% | %.1f %% | %.0f |\n",
                              share < 1 ? (std::to_string(int(100 * share + 0.5)) + " %").c_str()
                                        : "no limit",
                              row.name, decoded.tokens_per_second, decoded.gigabytes, decoded.hits,
                              decoded.of_disk, decoded.kernel, read.tokens_per_second);
                table += line;
                decode.back().points.push_back({share, decoded.tokens_per_second});
            }
        }
        if (argc > 3) {
            std::ifstream others(argv[3]);
            std::string name;
            double share = 0, decoded = 0;
            while (others >> name >> share >> decoded) {
                if (decode.back().name != name) decode.push_back({name, "#d62728", {}});
                decode.back().points.push_back({share, decoded});
            }
        }
        std::printf("\n%s", table.c_str());
        if (argc > 4)
            draw(argv[4], "decode, tokens/s, by memory as a share of the weights", decode);
    } catch (std::exception const& error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
    return 0;
}
