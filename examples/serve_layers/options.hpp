#pragma once

#include "../support/arguments.hpp"

#include <cstdint>
#include <stdexcept>
#include <string>

namespace serve_layers {

struct Options {
    std::string file = "serve_layers.semoe";
    std::int64_t layers = 5, hidden = 2048, intermediate = 1024, experts = 64, top_k = 8;
    std::int64_t memory = std::int64_t(1) << 30; // bytes
    std::string tier = "cached", routing = "gate";
    double skew = 1.0;
    std::int64_t prompt = 0, prompts = 1, warm = 0, tokens = 16, threads = 0, slots = 2;
    std::string trace;
    bool predict = true, probe = false, check = false, quiet = false, help = false;
};

inline constexpr char const* usage =
    "serve_layers: decodes through a stack of MoE layers whose weights stay in a file\n"
    "  --file FILE       of blocks; written first, with random weights, where it is missing\n"
    "  --layers N --hidden N --intermediate N --experts N --top-k N    the model's shape\n"
    "  --memory SIZE     for weights and activations, as 1GiB or 500MB (default 1GiB)\n"
    "  --tier NAME       cached: what the routing names (default); lfu: the same, what is used\n"
    "                    most stays; ring: whole layers in turns, as many as --slots\n"
    "  --slots N         layers in memory, of ring (default 2), whatever --memory says\n"
    "  --routing NAME    gate: the layers' own (default); uniform or zipf: drawn instead\n"
    "  --skew S          of zipf: the r-th expert is chosen as r^-S (default 1, at most 4)\n"
    "  --prompt N        tokens of one batch before decoding (default 0)\n"
    "  --prompts N       such batches, one after the other (default 1)\n"
    "  --warm N          tokens decoded before those that count (default 0)\n"
    "  --tokens N        to decode, one after the other (default 16)\n"
    "  --no-predict      do not ask the next layer's gate ahead\n"
    "  --threads N       default: every processor\n"
    "  --probe           measure the disk first, and say which share of it was used\n"
    "  --trace FILE      a timeline for Chrome's trace viewer\n"
    "  --check           compare with all weights in memory; 1 when a bit differs\n"
    "  --quiet           no progress line\n";

inline Options parse_options(int argc, char** argv) {
    Options o;
    examples::Arguments given(argc, argv);
    while (given.next()) {
        std::string const& flag = given.flag();
        if (flag == "--file")
            o.file = given.text();
        else if (flag == "--layers")
            o.layers = given.count(1);
        else if (flag == "--hidden")
            o.hidden = given.count(1);
        else if (flag == "--intermediate")
            o.intermediate = given.count(1);
        else if (flag == "--experts")
            o.experts = given.count(1);
        else if (flag == "--top-k")
            o.top_k = given.count(1);
        else if (flag == "--memory")
            o.memory = given.size();
        else if (flag == "--tier")
            o.tier = given.one_of("cached lfu ring");
        else if (flag == "--slots")
            o.slots = given.count(1);
        else if (flag == "--routing")
            o.routing = given.one_of("gate uniform zipf");
        else if (flag == "--skew")
            o.skew = given.number(0, 4);
        else if (flag == "--prompt")
            o.prompt = given.count(0);
        else if (flag == "--prompts")
            o.prompts = given.count(1);
        else if (flag == "--warm")
            o.warm = given.count(0);
        else if (flag == "--tokens")
            o.tokens = given.count(0);
        else if (flag == "--threads")
            o.threads = given.count(1, 65536);
        else if (flag == "--trace")
            o.trace = given.text();
        else if (flag == "--no-predict")
            o.predict = false;
        else if (flag == "--probe")
            o.probe = true;
        else if (flag == "--check")
            o.check = true;
        else if (flag == "--quiet")
            o.quiet = true;
        else if (flag == "--help" || flag == "-h")
            o.help = true;
        else
            throw std::invalid_argument("unknown flag " + flag);
    }
    return o;
}

} // namespace serve_layers
