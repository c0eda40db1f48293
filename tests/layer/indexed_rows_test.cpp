#include "semoe/expert/gated.hpp"
#include "semoe/gate/topk.hpp"
#include "semoe/schedule/chunked.hpp"
#include "support/layer.hpp"

#include <doctest/doctest.h>

// One rank whose expert reads the tokens themselves, beside the same with copied rows.

using namespace semoe;

namespace indexed_rows_test {
namespace {

constexpr index_t H = 40, max_tokens = 70, K = 2, ld = 43;

template <class T>
struct Expert : expert::SwiGlu<T> {
    bool indexed = false;

    template <Backend B>
    bool reads_indexed_rows(B const& b) const {
        return indexed && expert::SwiGlu<T>::reads_indexed_rows(b);
    }
};
/// What a forward and a backward leave.
template <class T>
struct Result {
    std::vector<T> y, dx;
    test::Named gradients;
    index_t workspace;

    bool operator==(Result const& other) const {
        return y == other.y && dx == other.dx && gradients == other.gradients;
    }
};

template <class T>
Result<T> run(bool indexed, index_t chunks, MoeConfig config, index_t tokens) {
    CpuBackend b{.threads = 2};
    MoeLayer layer{b,
                   gate::TopK<gate::Softmax>{.num_experts = 5, .top_k = K},
                   Expert<T>{{.hidden = H, .intermediate = 24}, indexed},
                   comm::Self{},
                   tier::Resident<CpuBackend>{b},
                   schedule::Chunked{.chunks = chunks},
                   config};
    layer.initialize(3);
    auto context = layer.make_context(max_tokens, Mode::training);
    auto const x = test::random_values<T>(1, tokens * ld),
               dy = test::random_values<T>(2, tokens * ld);
    Result<T> r{std::vector<T>(x.size(), T(0)),
                std::vector<T>(x.size(), T(0)),
                {},
                context.workspace_bytes()};
    using View = MatrixView<T const, HostSpace>;
    using Out = MatrixView<T, HostSpace>;
    layer.forward(View{x.data(), tokens, H, ld}, Out{r.y.data(), tokens, H, ld}, context);
    layer.backward(View{dy.data(), tokens, H, ld}, Out{r.dx.data(), tokens, H, ld}, context);
    r.gradients = test::parameters_of(layer, BlockKind::gradient);
    return r;
}
} // namespace

TEST_CASE_TEMPLATE("layer/indexed_rows: rows read through the routing's index give the bits of "
                   "copied rows, and take their memory",
                   T, float, bf16) {
    REQUIRE(expert::SwiGlu<T>{.hidden = H, .intermediate = 24}.reads_indexed_rows(
        CpuBackend{.threads = 1}));
    for (bool const recompute : {false, true})
        for (double const factor : {0.0, 0.6})
            for (index_t const chunks : {1, 3})
                for (index_t const tokens : {0, 1, 37, 70}) {
                    MoeConfig config{.aux_loss_weight = 0.1, .recompute = recompute};
                    if (factor > 0) config.capacity.factor = factor;
                    CAPTURE(recompute);
                    CAPTURE(factor);
                    CAPTURE(chunks);
                    CAPTURE(tokens);
                    auto const copied = run<T>(false, chunks, config, tokens);
                    auto const indexed = run<T>(true, chunks, config, tokens);
                    CHECK(indexed == copied);
                    if (factor == 0.0)
                        CHECK(copied.workspace - indexed.workspace >=
                              max_tokens * K * H * index_t(sizeof(T)));
                }
}

} // namespace indexed_rows_test
