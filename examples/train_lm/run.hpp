#pragma once

#include "model.hpp"
#include "session.hpp"
#include "storage.hpp"
#include "transformer.hpp"

#include <semoe/checkpoint/checkpoint.hpp>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <type_traits>

namespace train_lm {

/// Place is where the blocks of MoE layers lie: InMemory or OnDisk.
template <class Place>
class Run final : public Session {
    static constexpr bool on_disk = std::is_same_v<Place, OnDisk>;

public:
    Run(Options options, Corpus corpus)
      : options_(std::move(options))
      , corpus_(std::move(corpus))
      , backend_{.threads = options_.threads}
      , place_(backend_, options_)
      , model_(backend_, place_.tier(),
               {options_.seed, options_.packed_moments, options_.from_storage}, batch * window)
      , inputs_(std::size_t(batch * window))
      , targets_(inputs_.size())
      , load_(std::size_t(num_experts)) {
        if constexpr (on_disk)
            if (options_.from_storage) {
                place_.load_dense(backend_, dense_tensors());
                step_ = options_.storage_step;
            }
    }

    auto dense_tensors() {
        return [this](auto& visit) {
            model_.for_each_parameter([&](auto& p) { p.visit(model_.backend(), visit); });
        };
    }
    /// Everything that a checkpoint holds.
    auto tensors() {
        return [this](auto& visit) {
            dense_tensors()(visit);
            for (auto& block : model_.blocks()) semoe::checkpoint::visit_layer(block->moe(), visit);
        };
    }
    void resume(std::string const& path) override {
        auto const resumed = semoe::checkpoint::load(path, tensors());
        if (!resumed.warning.empty()) std::printf("%s\n", resumed.warning.c_str());
        step_ = resumed.state.step;
    }
    std::string train() override {
        begin_ = std::chrono::steady_clock::now();
        first_step_ = step_;
        std::string saved;
        while (!finished()) {
            double const start = elapsed();
            train_step();
            bool const flushes = options_.flush > 0 && step_ % options_.flush == 0;
            bool const saves = step_ % options_.every == 0;
            // What follows such a step does part of its work.
            if (!flushes && !saves) step_seconds_.push_back(elapsed() - start);
            progress();
            if (flushes) flush();
            if (saves) saved = save();
        }
        if (!options_.quiet) std::printf("\n");
        double const seconds = elapsed();
        if constexpr (on_disk)
            std::printf("storage: %s\n", place_.traffic(seconds, step_ - first_step_).c_str());
        std::printf("%lld steps, %.0f tokens/s", static_cast<long long>(step_),
                    double((step_ - first_step_) * batch * window) / std::max(seconds, 1e-9));
        if (!step_seconds_.empty())
            std::printf(", %.0f in the median step", double(batch * window) / median_step());
        std::printf("\n");
        return step_ % options_.every == 0 && !saved.empty() ? saved : save();
    }
    double validate() override {
        auto const starts = corpus_.validation_windows();
        double sum = 0;
        index_t count = 0;
        for (std::size_t i = 0; i < starts.size() && !interrupted; i += std::size_t(batch)) {
            auto const n = std::min<index_t>(batch, index_t(starts.size() - i));
            gather(n, [&](index_t j) { return starts[i + std::size_t(j)]; });
            model_.forward(inputs_, std::uint64_t(step_));
            sum += model_.loss(targets_, false) * double(n);
            count += n;
        }
        return sum / double(std::max<index_t>(count, 1));
    }
    void report_load() override {
        double total = 0;
        for (double n : load_) total += n;
        if (total == 0) return; // no step was left to do
        std::printf("expert load, share of choices since the start:");
        index_t dead = 0;
        for (double n : load_) {
            std::printf(" %.2f", n / total);
            dead += n == 0;
        }
        std::printf(" (%lld dead)\n", static_cast<long long>(dead));
    }
    std::string sample(std::string text, index_t bytes) override {
        for (index_t n = 0; n < bytes && !interrupted; ++n) {
            std::vector<std::uint8_t> context(std::size_t(window), ' ');
            auto const used = std::min(text.size(), context.size());
            std::copy(text.end() - std::ptrdiff_t(used), text.end(), context.begin());
            auto const logits = model_.forward(context, 0);
            float const* const z = logits.row(index_t(used) - 1);
            double p[vocabulary], sum = 0;
            for (index_t v = 0; v < vocabulary; ++v)
                sum += p[v] = std::exp(double(z[v] - *std::max_element(z, z + vocabulary)) / 0.7);
            double left = sum * double(semoe::random_uniform<double>({options_.seed, 1, 7}, n, 0));
            index_t v = 0;
            while (v + 1 < vocabulary && (left -= p[v]) > 0) ++v;
            text.push_back(char(v));
        }
        return text;
    }

private:
    double elapsed() const {
        return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count();
    }
    bool finished() const {
        return interrupted || (options_.steps > 0 && step_ >= options_.steps) ||
               (options_.seconds > 0 && elapsed() >= options_.seconds);
    }
    template <class Start>
    void gather(index_t windows, Start start) {
        inputs_.resize(std::size_t(windows * window));
        targets_.resize(inputs_.size());
        for (index_t j = 0; j < windows; ++j) {
            std::uint8_t const* const p = corpus_.at(start(j));
            std::copy_n(p, window, inputs_.begin() + j * window);
            std::copy_n(p + 1, window, targets_.begin() + j * window);
        }
    }
    void train_step() {
        gather(batch, [&](index_t j) { return corpus_.sample(options_.seed, step_, j); });
        model_.zero_grad();
        model_.forward(inputs_, std::uint64_t(step_));
        double const loss = model_.loss(targets_, true);
        smooth_ = step_ == first_step_ ? loss : 0.95 * smooth_ + 0.05 * loss;
        model_.backward(inputs_);
        model_.update(step_);
        for (auto& block : model_.blocks()) {
            auto const& tokens = block->context().counters.tokens_per_expert;
            for (std::size_t e = 0; e < load_.size(); ++e) load_[e] += double(tokens[e]);
        }
        ++step_;
    }
    /// Seconds; unlike the mean of a short run without the first steps, which touch fresh memory.
    double median_step() {
        auto const middle = step_seconds_.begin() + std::ptrdiff_t(step_seconds_.size() / 2);
        std::nth_element(step_seconds_.begin(), middle, step_seconds_.end());
        return *middle;
    }
    /// loss, speed, time left and a bar an expert: its load relative to the busiest.
    void progress() {
        double const now = elapsed();
        if (options_.quiet || (now - shown_ < 0.5 && !finished())) return;
        shown_ = now;
        double const rate = double(step_ - first_step_) / std::max(now, 1e-9);
        double left = options_.seconds > 0 ? options_.seconds - now : 1e9;
        if (options_.steps > 0) left = std::min(left, double(options_.steps - step_) / rate);
        std::printf("\rstep %5lld  loss %.3f  %6.0f tokens/s  %4.0f s left  experts ",
                    static_cast<long long>(step_), smooth_, rate * double(batch * window),
                    std::max(left, 0.0));
        static char const* const bars[] = {"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
        std::vector<double> now_load(load_.size());
        for (auto& block : model_.blocks())
            for (std::size_t e = 0; e < load_.size(); ++e)
                now_load[e] += double(block->context().counters.tokens_per_expert[e]);
        double const most = *std::max_element(now_load.begin(), now_load.end());
        for (double n : now_load) std::printf("%s", n > 0 ? bars[int(n / most * 7.99)] : " ");
        if constexpr (on_disk)
            std::printf("  %s", place_.traffic(now, step_ - first_step_).c_str());
        std::fflush(stdout);
    }
    semoe::checkpoint::RunState state() const {
        return {.step = step_, .seed = options_.seed, .fields = run_fields(options_, corpus_)};
    }
    std::string save() {
        std::string const name = "step-" + std::to_string(step_) + ".safetensors";
        std::string const path = (std::filesystem::path(options_.out) / name).string();
        flush();
        semoe::checkpoint::save(path, state(), tensors());
        return path;
    }
    /// Every parameter is that of the last step; on disk, too, if that is where they are.
    void flush() {
        model_.finish_update();
        if constexpr (on_disk) place_.flush(backend_, state(), dense_tensors());
    }

    Options options_;
    Corpus corpus_;
    Backend backend_;
    Place place_;
    Transformer<typename Place::Tier> model_;
    std::vector<std::uint8_t> inputs_, targets_;
    std::vector<double> load_, step_seconds_;
    index_t step_ = 0, first_step_ = 0;
    double smooth_ = 0, shown_ = -1;
    std::chrono::steady_clock::time_point begin_;
};

} // namespace train_lm
