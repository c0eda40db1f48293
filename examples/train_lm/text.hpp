#pragma once

// Bytes to train on, bytes to validate on, and what counting alone would predict.

#include <semoe/core/rng.hpp>
#include <semoe/core/types.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

namespace train_lm {

using semoe::index_t;
using Text = std::vector<std::uint8_t>;

inline Text read_text(std::vector<std::string> const& paths) {
    Text text;
    for (std::string const& path : paths) {
        std::ifstream in(path, std::ios::binary);
        if (!in || std::filesystem::is_directory(path))
            throw std::runtime_error("train_lm: cannot read " + path);
        text.insert(text.end(), std::istreambuf_iterator<char>(in), {});
    }
    return text;
}
/// FNV-1a: a run resumes on the text that it was started on.
inline std::string fingerprint(Text const& text) {
    std::uint64_t h = 0xcbf29ce484222325u;
    for (std::uint8_t byte : text) h = (h ^ byte) * 0x100000001b3u;
    return std::to_string(h);
}

/// The text in blocks, of which every tenth is held out. Windows never cross a block's border, so
/// no byte is both learnt and validated.
class Corpus {
public:
    static constexpr index_t block = 2048;

    /// @param width  bytes of a window; it takes one more for the last target
    Corpus(Text text, index_t width)
      : text_(std::move(text))
      , window_(width) {
        for (index_t i = 0; (i + 1) * block <= index_t(text_.size()); ++i)
            (i % 10 == 9 ? held_out_ : training_).push_back(i * block);
        if (training_.empty() || held_out_.empty())
            throw std::runtime_error("train_lm: the text has " + std::to_string(text_.size()) +
                                     " bytes, at least " + std::to_string(10 * block) + " needed");
    }

    Text const& text() const { return text_; }
    index_t size() const { return index_t(text_.size()); }
    std::vector<index_t> const& training() const { return training_; }
    std::vector<index_t> const& held_out() const { return held_out_; }
    std::uint8_t const* at(index_t position) const { return text_.data() + position; }

    /// Where the n-th window of a step begins: a function of seed, step and n alone.
    index_t sample(std::uint64_t seed, index_t step, index_t n) const {
        semoe::RngKey const key{seed, std::uint64_t(step), 0x7e47u};
        auto const pick = [&](index_t draw, index_t count) {
            return index_t(semoe::random_bits(key, n, draw) % std::uint64_t(count));
        };
        return training_[std::size_t(pick(0, index_t(training_.size())))] +
               pick(1, block - window_);
    }
    /// Windows that cover the held-out blocks.
    std::vector<index_t> validation_windows() const {
        std::vector<index_t> starts;
        for (index_t first : held_out_)
            for (index_t i = 0; i + window_ < block; i += window_) starts.push_back(first + i);
        return starts;
    }

private:
    Text text_;
    index_t window_;
    std::vector<index_t> training_, held_out_; // where blocks begin
};

/// Nats a byte of a byte model of order 1 or 2 with interpolated counts, fitted on the training
/// blocks and scored on the very bytes that the network is scored on.
inline double counted_loss(Corpus const& corpus, index_t width, int order) {
    std::array<double, 256> zero{};
    std::vector<double> one(256 * 256), two(order == 2 ? std::size_t(256) * 256 * 256 : 0);
    auto const index1 = [](std::uint8_t const* p) { return std::size_t(p[-1]) * 256 + p[0]; };
    auto const index2 = [](std::uint8_t const* p) {
        return (std::size_t(p[-2]) * 256 + p[-1]) * 256 + p[0];
    };
    for (index_t first : corpus.training())
        for (index_t i = 2; i < Corpus::block; ++i) {
            std::uint8_t const* const p = corpus.at(first + i);
            ++zero[*p];
            ++one[index1(p)];
            if (order == 2) ++two[index2(p)];
        }
    auto const total = [](double const* row) {
        double sum = 0;
        for (int i = 0; i < 256; ++i) sum += row[i];
        return sum;
    };
    std::vector<double> sum1(256), sum2(two.size() / 256);
    for (std::size_t i = 0; i < 256; ++i) sum1[i] = total(&one[i * 256]);
    for (std::size_t i = 0; i < sum2.size(); ++i) sum2[i] = total(&two[i * 256]);
    double const sum0 = total(zero.data());

    double loss = 0, count = 0;
    // Each order leans on the one below it with the weight of a few counts.
    double const lean = 4;
    for (index_t start : corpus.validation_windows())
        for (index_t i = 1; i <= width; ++i) {
            std::uint8_t const* const p = corpus.at(start + i);
            double q = (zero[*p] + 1) / (sum0 + 256);
            q = (one[index1(p)] + lean * q) / (sum1[p[-1]] + lean);
            if (order == 2 && i >= 2)
                q = (two[index2(p)] + lean * q) / (sum2[index2(p) / 256] + lean);
            loss -= std::log(q);
            ++count;
        }
    return loss / count;
}

} // namespace train_lm
