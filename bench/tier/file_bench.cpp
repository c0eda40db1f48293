#include "semoe/backend/buffer.hpp"
#include "semoe/tier/store/file.hpp"
#include "semoe/tier/store/file_writer.hpp"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fcntl.h>
#include <functional>
#include <latch>
#include <numeric>
#include <random>
#include <string>
#include <sys/resource.h>
#include <thread>
#include <unistd.h>
#include <vector>

/// Whole blocks out of a file, in order and at random, by every engine and depth, beside what plain
/// threads of O_DIRECT pread get out of the same file in the same run. Medians.
///
///     tier_file_bench DIRECTORY [GIGABYTES] [MIB_A_BLOCK] [ROUNDS]

using namespace semoe;

namespace {

constexpr index_t mib = index_t(1) << 20;
constexpr int slots = 3;

double now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch())
        .count();
}
/// Seconds of processor time that this process has taken, the kernel's on its behalf included.
double cpu_time() {
    rusage usage{};
    ::getrusage(RUSAGE_SELF, &usage);
    auto const seconds = [](timeval t) { return double(t.tv_sec) + 1e-6 * double(t.tv_usec); };
    return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

struct Speed {
    double gb_per_s = 0, cpu = 0; ///< cpu: processors kept busy
};
template <class F>
Speed measure(index_t bytes, F const& f) {
    double const start = now(), cpu = cpu_time();
    f();
    double const seconds = now() - start;
    return {double(bytes) / seconds / 1e9, (cpu_time() - cpu) / seconds};
}

struct File {
    std::string path;
    index_t block_bytes;
    int blocks;
    index_t bytes() const { return block_bytes * blocks; }
    BlockKey key(int i) const { return {0, i, BlockKind::weight}; }
};

void write(File const& file) {
    std::vector<std::byte> block(std::size_t(file.block_bytes));
    for (std::size_t i = 0; i < block.size(); ++i) block[i] = std::byte(i * 2654435761u >> 13);
    tier::FileWriter writer{file.path};
    for (int i = 0; i < file.blocks; ++i)
        writer.write(file.key(i), {file.block_bytes, LayoutId::row_major}, block);
    writer.commit();
}

/// What the disk gives: each of `threads` reads its share of the file, piece after piece.
Speed probe(File const& file, int threads, index_t piece, index_t span) {
    int const descriptor = ::open(file.path.c_str(), O_RDONLY | O_DIRECT);
    if (descriptor < 0) return {};
    CpuBackend b{.threads = 1};
    index_t const share = file.bytes() / threads / piece * piece;
    // In large pages, as blocks are: a request of few parts.
    std::vector<Buffer<std::byte, CpuBackend>> memory;
    for (int t = 0; t < threads; ++t) {
        memory.emplace_back(b, span);
        std::fill_n(memory.back().data(), span, std::byte{});
    }
    std::latch ready(threads), begin(1);
    std::vector<std::thread> all;
    for (int t = 0; t < threads; ++t)
        all.emplace_back([&, t, to = memory[std::size_t(t)].data()] {
            ready.count_down();
            begin.wait();
            for (index_t at = 0; at < share; at += piece)
                if (::pread(descriptor, to + at % span, std::size_t(piece), t * share + at) < 0)
                    std::perror("pread");
        });
    ready.wait();
    auto const speed = measure(share * threads, [&] {
        begin.count_down();
        for (std::thread& thread : all) thread.join();
    });
    ::close(descriptor);
    return speed;
}

/// Every block once, three under way, as a tier of few slots asks for them.
Speed load_all(File const& file, tier::FileOptions const& options, bool random) {
    CpuBackend b{.threads = 1};
    CpuBackend copies = b.fork();
    tier::FileStore store{file.path, options};
    std::vector<int> order(std::size_t(file.blocks));
    std::iota(order.begin(), order.end(), 0);
    if (random) std::shuffle(order.begin(), order.end(), std::mt19937(5));
    std::vector<Buffer<std::byte, CpuBackend>> memory;
    for (int i = 0; i < slots; ++i) {
        memory.emplace_back(b, file.block_bytes);
        std::fill_n(memory.back().data(), file.block_bytes, std::byte{}); // pages are there
    }
    CpuBackend::event_type under_way[slots];
    return measure(file.bytes(), [&] {
        for (std::size_t i = 0; i < order.size(); ++i) {
            b.wait(under_way[i % slots]);
            under_way[i % slots] = store.load(copies, file.key(order[i]), memory[i % slots].view());
        }
        for (auto const& event : under_way) b.wait(event);
    });
}

/// The writer left the file in the system's cache.
void forget_cache(File const& file) {
    int const descriptor = ::open(file.path.c_str(), O_RDONLY);
    ::posix_fadvise(descriptor, 0, 0, POSIX_FADV_DONTNEED);
    ::close(descriptor);
}

Speed median(std::vector<Speed> seen) {
    std::sort(seen.begin(), seen.end(),
              [](Speed const& a, Speed const& b) { return a.gb_per_s < b.gb_per_s; });
    return seen[seen.size() / 2];
}
std::string describe(char const* name, char const* order, int depth, index_t piece) {
    return std::string(name) + " | " + order + " | " + std::to_string(depth) + " x " +
           std::to_string(piece / 1024) + " KiB";
}

} // namespace

int main(int count, char** words) {
    std::string const directory = count > 1 ? words[1] : ".";
    double const gigabytes = count > 2 ? std::atof(words[2]) : 1;
    index_t const block = (count > 3 ? std::atoi(words[3]) : 12) * mib;
    int const rounds = count > 4 ? std::atoi(words[4]) : 3;
    File const file{directory + "/file_bench.semoe", block,
                    std::max(4, int(gigabytes * 1e9 / double(block)))};
    write(file);
    std::printf("%d blocks of %lld MiB; io_uring %s\n", file.blocks, (long long)(block / mib),
                io::ring_available() ? "granted" : "refused or not built in");

    struct Case {
        std::string name;
        std::function<Speed()> run;
        std::vector<Speed> seen = {};
    };
    std::vector<Case> cases;
    // Into a buffer that stays in the processor's cache, and into as much memory as the slots have.
    for (bool const cached : {true, false})
        for (auto const& [threads, piece] : {std::pair{1, mib}, {4, mib / 4}, {4, mib}}) {
            index_t const span =
                cached ? mib : std::max(slots * block / threads / piece * piece, piece);
            cases.push_back(
                {describe(cached ? "pread, one buffer" : "pread", "in order", threads, piece),
                 [&file, threads = threads, piece = piece, span] {
                     return probe(file, threads, piece, span);
                 }});
        }
    std::size_t const probes = cases.size();
    auto const add = [&](char const* name, bool random, tier::FileOptions options) {
        options.read_only = true;
        io::TransferOptions const& t = options.transfers;
        cases.push_back({describe(name, random ? "random" : "in order", t.depth, t.piece_bytes),
                         [=, &file] { return load_all(file, options, random); }});
    };
    using io::Engine;
    for (bool const random : {false, true})
        for (Engine const engine : {Engine::ring, Engine::threads}) {
            if (engine == Engine::ring && !io::ring_available()) continue;
            for (auto const& [depth, piece] :
                 {std::pair{1, mib / 4}, {2, mib / 4}, {4, mib / 4}, {8, mib / 4}, {4, mib}})
                add(engine == Engine::ring ? "io_uring" : "threads", random,
                    {.verify = tier::Verify::never,
                     .transfers = {.depth = depth, .piece_bytes = piece, .engine = engine}});
        }
    add("checksums always", false, {.verify = tier::Verify::always});
    add("through the cache", false, {.verify = tier::Verify::never, .way = io::Way::cached});
    add("mapped", false, {.verify = tier::Verify::never, .way = io::Way::mapped});

    for (int round = 0; round < rounds; ++round) // in turn: the disk has moods
        for (Case& c : cases) {
            forget_cache(file);
            c.seen.push_back(c.run());
        }
    double disk = 0;
    for (std::size_t i = probes / 2; i < probes; ++i)
        disk = std::max(disk, median(cases[i].seen).gb_per_s);
    std::printf("| by | blocks | requests | GB/s | of the disk | of a processor |\n"
                "|---|---|---|---|---|---|\n");
    for (Case const& c : cases) {
        Speed const s = median(c.seen);
        std::printf("| %s | %.2f | %.2f | %.0f %% |\n", c.name.c_str(), s.gb_per_s,
                    s.gb_per_s / disk, 100 * s.cpu);
    }
    std::remove(file.path.c_str());
}
