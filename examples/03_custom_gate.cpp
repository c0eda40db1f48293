// A gate of one's own. A row-wise rule is a struct of scalar functions; any other is one functor
// and one struct. Both run on every backend.

#include <semoe/semoe.hpp>

#include <cstdio>
#include <vector>

namespace acme {

// Rank by the logit, weigh by how far it stands above zero.
struct Relu {
    static constexpr auto normalize = semoe::Normalize::sum_topk;
    SEMOE_HD float key(float z, semoe::expert_id) const { return z; }
    SEMOE_HD float weight(float z, semoe::expert_id) const { return z > 0 ? z : 0; }
    SEMOE_HD float d_weight(float z, semoe::expert_id) const { return z > 0 ? 1.f : 0.f; }
};

// Deal the tokens round, whatever the router says; padding goes to nobody.
template <class B>
struct Deal {
    semoe::RouteInput<B> in;
    semoe::Assignment<B> out;
    semoe::index_t experts;
    SEMOE_HD void operator()(semoe::index_t t) const {
        for (semoe::index_t k = 0; k < out.topk_ids.cols; ++k) {
            bool const masked = in.masked(t);
            out.topk_ids(t, k) = masked ? -1 : semoe::expert_id((t + k) % experts);
            out.topk_weights(t, k) = masked ? 0.f : 1.f / float(out.topk_ids.cols);
        }
    }
};
struct RoundRobin {
    semoe::index_t num_experts, top_k;
    template <class B>
    void forward(B& b, semoe::RouteInput<B> const& in, semoe::Assignment<B> out) const {
        b.parallel_for(in.logits.rows, Deal<B>{in, out, num_experts});
    }
};

} // namespace acme

template <class Gate>
std::vector<semoe::index_t> load_of(Gate gate) {
    semoe::MoeLayer layer{semoe::CpuBackend{}, gate,
                          semoe::expert::SwiGlu<float>{.hidden = 8, .intermediate = 8}};
    layer.initialize(1);
    std::vector<float> tokens(12 * 8), out(12 * 8);
    for (std::size_t i = 0; i < tokens.size(); ++i)
        tokens[i] = semoe::random_uniform({.seed = 3}, semoe::index_t(i), 0) - 0.5f;
    auto context = layer.make_context(12);
    layer.forward(semoe::MatrixView<float, semoe::HostSpace>{tokens.data(), 12, 8},
                  semoe::MatrixView<float, semoe::HostSpace>{out.data(), 12, 8}, context);
    return context.counters.tokens_per_expert;
}

int main() {
    auto const relu = load_of(semoe::gate::TopK<acme::Relu>{.num_experts = 6, .top_k = 2});
    auto const dealt = load_of(acme::RoundRobin{.num_experts = 6, .top_k = 2});
    semoe::index_t total = 0;
    for (std::size_t e = 0; e < relu.size(); ++e) {
        std::printf("expert %zu: %lld rows by score, %lld dealt\n", e,
                    static_cast<long long>(relu[e]), static_cast<long long>(dealt[e]));
        total += relu[e];
        if (dealt[e] != 4) return 1;
    }
    return total == 24 ? 0 : 1;
}
