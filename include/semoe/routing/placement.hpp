#pragma once

#include "semoe/core/error.hpp"
#include "semoe/core/message.hpp"
#include "semoe/core/types.hpp"

#include <span>
#include <vector>

namespace semoe {

/// Which rank owns which expert. Every expert has one owner; a rank may own none. Lives on the
/// host, built once.
class Placement {
public:
    /// Runs of neighbouring experts in rank order; the first num_experts % num_ranks ranks own one
    /// more than the others.
    /// @throws precondition_error naming the number that is out of range
    static Placement contiguous(index_t num_experts, int num_ranks) {
        check_sizes(num_experts, num_ranks);
        index_t const share = num_experts / num_ranks, larger = num_experts % num_ranks;
        std::vector<int> owners;
        owners.reserve(std::size_t(num_experts));
        for (int r = 0; r < num_ranks; ++r)
            owners.insert(owners.end(), std::size_t(share + (r < larger ? 1 : 0)), r);
        return Placement(std::move(owners), num_ranks);
    }
    /// Any map.
    /// @param owner_of_expert  [E], ranks
    /// @throws precondition_error naming the expert whose owner is out of range
    static Placement table(std::span<int const> owner_of_expert, int num_ranks) {
        check_sizes(index_t(owner_of_expert.size()), num_ranks);
        for (std::size_t e = 0; e < owner_of_expert.size(); ++e)
            expects(owner_of_expert[e] >= 0 && owner_of_expert[e] < num_ranks, [&] {
                return message("Placement: expert {} is given to rank {} of {}", e,
                               owner_of_expert[e], num_ranks);
            });
        return Placement({owner_of_expert.begin(), owner_of_expert.end()}, num_ranks);
    }

    index_t num_experts() const { return index_t(owners_.size()); }
    int num_ranks() const { return int(first_.size()) - 1; }
    int owner(expert_id e) const { return owners_[std::size_t(e)]; }
    /// The experts of one rank, rising; their places here are their local numbers.
    std::span<expert_id const> experts_of(int rank) const {
        return by_rank().subspan(first_[std::size_t(rank)],
                                 first_[std::size_t(rank) + 1] - first_[std::size_t(rank)]);
    }
    index_t num_local_experts(int rank) const { return index_t(experts_of(rank).size()); }
    /// An expert's number among those of its owner.
    index_t local_index(expert_id e) const { return local_index_[std::size_t(e)]; }
    /// All experts, rank after rank.
    std::span<expert_id const> by_rank() const { return by_rank_; }
    /// Whether by_rank() is 0, 1, 2, ...: rows in order of expert are then in order of rank, too.
    bool in_rank_order() const { return in_rank_order_; }

private:
    Placement(std::vector<int> owners, int num_ranks)
      : owners_(std::move(owners))
      , local_index_(owners_.size())
      , first_(std::size_t(num_ranks) + 1) {
        for (int owner : owners_) ++first_[std::size_t(owner) + 1];
        for (std::size_t r = 1; r < first_.size(); ++r) first_[r] += first_[r - 1];
        by_rank_.resize(owners_.size());
        std::vector<std::size_t> taken(std::size_t(num_ranks), 0);
        for (std::size_t e = 0; e < owners_.size(); ++e) {
            auto const owner = std::size_t(owners_[e]);
            local_index_[e] = index_t(taken[owner]);
            by_rank_[first_[owner] + taken[owner]++] = expert_id(e);
        }
        for (std::size_t i = 0; i < by_rank_.size(); ++i)
            in_rank_order_ = in_rank_order_ && by_rank_[i] == expert_id(i);
    }
    static void check_sizes(index_t num_experts, int num_ranks) {
        expects(num_experts >= 1 && num_ranks >= 1,
                "Placement: {} experts on {} ranks, at least one of each needed", num_experts,
                num_ranks);
    }

    std::vector<int> owners_;          // [E]
    std::vector<index_t> local_index_; // [E]
    std::vector<std::size_t> first_;   // [P+1], where a rank's experts begin in by_rank_
    std::vector<expert_id> by_rank_;   // [E]
    bool in_rank_order_ = true;
};

} // namespace semoe
