#pragma once

#include "semoe/comm/concept.hpp"
#include "semoe/core/error.hpp"

#include <algorithm>
#include <span>
#include <utility>
#include <vector>

namespace semoe {

/// How many rows every rank routes to every expert in every chunk of one forward, with each rank's
/// number of tokens and a status word, brought to all ranks by a single message. All of it is host
/// memory, sized once. A forward calls begin(), fills mine(), set_tokens() and the status word,
/// and calls run().
template <class C>
class CountExchange {
    static_assert(HasRanks<C>,
                  "CountExchange: the communicator needs rank(), size() and topology() "
                  "(comm/concept.hpp)");
    static_assert(HasExchangeCounts<C>,
                  "CountExchange: the communicator needs exchange_counts(span<index_t const> send, "
                  "span<index_t> recv) (comm/concept.hpp)");

public:
    /// @cost allocates 2 P (2 + chunks E) numbers; nothing later allocates
    CountExchange(C comm, index_t max_chunks, index_t num_experts)
      : comm_(std::move(comm))
      , max_chunks_(max_chunks)
      , experts_(num_experts) {
        expects(max_chunks >= 1 && num_experts >= 1,
                "CountExchange: {} chunks of {} experts, at least one of each needed", max_chunks,
                num_experts);
        std::size_t const whole = std::size_t(header + max_chunks * num_experts) * ranks();
        send_.resize(whole);
        received_.resize(whole);
        before_.resize(std::size_t(max_chunks * num_experts));
        total_.resize(std::size_t(num_experts));
    }

    index_t num_experts() const { return experts_; }
    index_t num_chunks() const { return chunks_; }

    /// Starts a forward of so many chunks, the same number on every rank.
    /// @pre queued work that reads or writes memory of this object has been synchronised
    void begin(index_t chunks) {
        expects(chunks >= 1 && chunks <= max_chunks_,
                "CountExchange: {} chunks, made for at most {}", chunks, max_chunks_);
        chunks_ = chunks;
        std::fill_n(send_.begin(), part(), index_t(0));
    }
    /// [E], rows of each expert in one of this rank's chunks: to be filled, by queued copies say,
    /// before run(). Zero until then.
    std::span<index_t> mine(index_t chunk) {
        return std::span(send_).subspan(std::size_t(header + chunk * experts_),
                                        std::size_t(experts_));
    }
    /// What this rank has to tell; 0 says that all is well.
    index_t* status_word() { return &send_[0]; }
    void set_tokens(index_t num_tokens) { send_[1] = num_tokens; }

    /// Sends this rank's part to every rank and takes theirs.
    /// @pre queued copies into mine() and status_word() have been synchronised
    /// @sync communicates; the host waits
    /// @cost P-1 messages of 2 + chunks E numbers
    void run() {
        for (std::size_t p = 1; p < ranks(); ++p)
            std::copy_n(send_.begin(), part(), send_.begin() + std::ptrdiff_t(p * part()));
        comm_.exchange_counts(std::span<index_t const>(send_).first(part() * ranks()),
                              std::span<index_t>(received_).first(part() * ranks()));
        std::fill(total_.begin(), total_.end(), index_t(0));
        for (int p = 0; p < comm_.size(); ++p)
            for (index_t c = 0; c < chunks_; ++c) {
                if (p == comm_.rank())
                    std::copy(total_.begin(), total_.end(), before_.begin() + c * experts_);
                for (std::size_t e = 0; e < total_.size(); ++e) total_[e] += rows(p, c)[e];
            }
    }

    // The following describe the last run().

    /// [E], rows of each expert in one chunk of one rank.
    std::span<index_t const> rows(int rank, index_t chunk) const {
        return std::span(received_).subspan(begin_of(rank) + std::size_t(header + chunk * experts_),
                                            std::size_t(experts_));
    }
    index_t status(int rank) const { return received_[begin_of(rank)]; }
    /// The lowest rank whose status is not 0; -1 when all is well.
    int first_failed_rank() const {
        for (int p = 0; p < comm_.size(); ++p)
            if (status(p) != 0) return p;
        return -1;
    }
    index_t tokens(int rank) const { return received_[begin_of(rank) + 1]; }
    /// Tokens of lower ranks: the global number of this rank's first token.
    index_t first_token() const {
        index_t n = 0;
        for (int p = 0; p < comm_.rank(); ++p) n += tokens(p);
        return n;
    }
    index_t total_tokens() const {
        index_t n = 0;
        for (int p = 0; p < comm_.size(); ++p) n += tokens(p);
        return n;
    }
    /// [E], rows of each expert that come before this rank's chunk in the global batch: those of
    /// lower ranks and of this rank's earlier chunks.
    std::span<index_t const> before(index_t chunk) const {
        return std::span(before_).subspan(std::size_t(chunk * experts_), std::size_t(experts_));
    }
    /// [E], over all ranks and chunks.
    std::span<index_t const> total() const { return total_; }

private:
    static constexpr index_t header = 2; // status, tokens

    std::size_t ranks() const { return std::size_t(comm_.size()); }
    std::size_t part() const { return std::size_t(header + chunks_ * experts_); }
    std::size_t begin_of(int rank) const { return std::size_t(rank) * part(); }

    C comm_;
    index_t max_chunks_, experts_, chunks_ = 1;
    std::vector<index_t> send_, received_; // [P, 2 + chunks E]
    std::vector<index_t> before_, total_;  // [chunks, E], [E]
};

} // namespace semoe
