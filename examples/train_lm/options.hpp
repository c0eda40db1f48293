#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

namespace train_lm {

struct Options {
    std::vector<std::string> text;
    std::int64_t steps = 0; // 0: as long as --seconds says
    double seconds = 120;
    std::uint64_t seed = 1;
    bool seed_given = false;
    int threads = 0;
    std::string out;
    std::int64_t every = 200;
    std::string resume;
    std::int64_t memory = 0; // bytes; 0: as much as the model takes
    std::string storage;
    std::int64_t flush = 0; // 0: when a checkpoint is saved
    bool packed_moments = false;
    // Not a flag: what was found in --storage.
    bool from_storage = false;
    std::int64_t storage_step = 0;
    bool quiet = false, help = false;
};

inline constexpr char const* usage =
    "train_lm: trains a Mixture-of-Experts language model on bytes\n"
    "  --text FILE...  what to learn from (default: this repository's sources and documents)\n"
    "  --steps N       train up to step N, counted from the run's beginning\n"
    "  --seconds S     or for S seconds (default 120)\n"
    "  --seed N        of weights and batches (default 1)\n"
    "  --threads N     default: every processor\n"
    "  --out DIR       where checkpoints go; must not hold a run (default: runs/N)\n"
    "  --every N       a checkpoint every N steps (default 200)\n"
    "  --resume DIR    continue the run in DIR, bit for bit\n"
    "  --memory SIZE   of the MoE layers' blocks in memory at once: 300MiB, 2GiB; the rest of\n"
    "                  weights, gradients, masters and moments lies in a file\n"
    "  --storage DIR   where that file is; with --resume it continues at its last flush\n"
    "  --flush N       bring the file up to date every N steps (default: at checkpoints)\n"
    "  --states 8bit   Adam's moments of experts take a byte each (default: 32bit)\n"
    "  --quiet         no progress line\n";

/// Bytes, of "512MiB" and the like. @throws std::invalid_argument
inline std::int64_t parse_size(std::string const& flag, std::string const& text) {
    static constexpr struct {
        char const* name;
        double bytes;
    } units[] = {{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"", 1}};
    std::size_t used = 0;
    double n = -1;
    try {
        n = std::stod(text, &used);
    } catch (std::exception const&) {
    }
    for (auto const& unit : units)
        if (n > 0 && text.substr(used) == unit.name) return std::int64_t(n * unit.bytes);
    throw std::invalid_argument(flag + ": '" + text + "' is no size such as 512MiB or 2GiB");
}

inline Options parse_options(int argc, char** argv) {
    Options o;
    bool timed = false;
    for (int i = 1; i < argc; ++i) {
        std::string const flag = argv[i];
        auto const value = [&] {
            if (i + 1 >= argc) throw std::invalid_argument(flag + " needs a value");
            return std::string(argv[++i]);
        };
        auto const number = [&](double least) {
            std::string const text = value();
            std::size_t used = 0;
            double n = 0;
            try {
                n = std::stod(text, &used);
            } catch (std::exception const&) {
                used = 0;
            }
            if (used != text.size() || used == 0 || n < least)
                throw std::invalid_argument(flag + ": '" + text + "' is no number of at least " +
                                            std::to_string(int(least)));
            return n;
        };
        if (flag == "--text") {
            o.text.push_back(value());
            while (i + 1 < argc && std::string(argv[i + 1]).rfind("--", 0) != 0)
                o.text.push_back(argv[++i]);
        } else if (flag == "--steps")
            o.steps = std::int64_t(number(1));
        else if (flag == "--seconds")
            o.seconds = number(0), timed = true;
        else if (flag == "--seed")
            o.seed = std::uint64_t(number(0)), o.seed_given = true;
        else if (flag == "--threads")
            o.threads = int(number(1));
        else if (flag == "--out")
            o.out = value();
        else if (flag == "--every")
            o.every = std::int64_t(number(1));
        else if (flag == "--resume")
            o.resume = value();
        else if (flag == "--memory")
            o.memory = parse_size(flag, value());
        else if (flag == "--storage")
            o.storage = value();
        else if (flag == "--flush")
            o.flush = std::int64_t(number(1));
        else if (flag == "--states") {
            std::string const states = value();
            if (states != "8bit" && states != "32bit")
                throw std::invalid_argument("--states: '" + states + "' is neither 8bit nor 32bit");
            o.packed_moments = states == "8bit";
        } else if (flag == "--quiet")
            o.quiet = true;
        else if (flag == "--help" || flag == "-h")
            o.help = true;
        else
            throw std::invalid_argument("unknown flag " + flag);
    }
    if (o.steps > 0 && !timed) o.seconds = 0; // 0: no limit
    if ((o.memory > 0) == o.storage.empty())
        throw std::invalid_argument("--memory and --storage go together");
    if (o.flush > 0 && o.storage.empty())
        throw std::invalid_argument("--flush needs --memory and --storage");
    if (!o.resume.empty() && !o.out.empty())
        throw std::invalid_argument("--resume continues in its own directory; drop --out");
    return o;
}

} // namespace train_lm
