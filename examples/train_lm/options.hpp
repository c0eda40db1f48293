#pragma once

#include "../support/arguments.hpp"

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
    int threads = 0;
    std::string out;
    std::int64_t every = 200;
    std::int64_t sample = 300;
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
    "  --sample N      bytes to generate at the end (default 300)\n"
    "  --resume DIR    continue the run in DIR, bit for bit\n"
    "  --memory SIZE   of the MoE layers' blocks in memory at once: 300MiB, 2GiB; the rest of\n"
    "                  weights, gradients, masters and moments lies in a file\n"
    "  --storage DIR   where that file is; with --resume it continues at its last flush\n"
    "  --flush N       bring the file up to date every N steps (default: at checkpoints)\n"
    "  --states 8bit   Adam's moments of experts take a byte each (default: 32bit)\n"
    "  --quiet         no progress line\n";

inline Options parse_options(int argc, char** argv) {
    Options o;
    bool timed = false, seeded = false;
    examples::Arguments given(argc, argv);
    while (given.next()) {
        std::string const& flag = given.flag();
        if (flag == "--text") do
                o.text.push_back(given.text());
            while (given.more());
        else if (flag == "--steps")
            o.steps = given.count(1);
        else if (flag == "--seconds")
            o.seconds = given.number(0), timed = true;
        else if (flag == "--seed")
            o.seed = std::uint64_t(given.count(0)), seeded = true;
        else if (flag == "--threads")
            o.threads = int(given.count(1, 65536));
        else if (flag == "--out")
            o.out = given.text();
        else if (flag == "--every")
            o.every = given.count(1);
        else if (flag == "--sample")
            o.sample = given.count(0);
        else if (flag == "--resume")
            o.resume = given.text();
        else if (flag == "--memory")
            o.memory = given.size();
        else if (flag == "--storage")
            o.storage = given.text();
        else if (flag == "--flush")
            o.flush = given.count(1);
        else if (flag == "--states")
            o.packed_moments = given.one_of("8bit 32bit") == "8bit";
        else if (flag == "--quiet")
            o.quiet = true;
        else if (flag == "--help" || flag == "-h")
            o.help = true;
        else
            throw std::invalid_argument("unknown flag " + flag);
    }
    if (timed && o.seconds == 0) throw std::invalid_argument("--seconds: must be more than 0");
    if (o.steps > 0 && !timed) o.seconds = 0; // 0: no limit
    if ((o.memory > 0) == o.storage.empty())
        throw std::invalid_argument("--memory and --storage go together");
    if (o.flush > 0 && o.storage.empty())
        throw std::invalid_argument("--flush needs --memory and --storage");
    if (!o.resume.empty() && !o.out.empty())
        throw std::invalid_argument("--resume continues in its own directory; drop --out");
    if (!o.resume.empty() && seeded)
        throw std::invalid_argument("--resume continues with the run's own seed; drop --seed");
    return o;
}

} // namespace train_lm
