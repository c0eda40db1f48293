// A padding mask: padded tokens get zeros and change no loss, no metric and no other token.

#include <semoe/semoe.hpp>

#include <cstdio>
#include <vector>

using Matrix = semoe::MatrixView<float, semoe::HostSpace>;

int main() {
    constexpr semoe::index_t tokens = 10, hidden = 8;
    semoe::MoeLayer layer{semoe::CpuBackend{},
                          semoe::gate::TopK<semoe::gate::Softmax>{.num_experts = 4, .top_k = 2},
                          semoe::expert::SwiGlu<float>{.hidden = hidden, .intermediate = 16}};
    layer.initialize(3);
    std::vector<float> x(tokens * hidden), y(x.size()), short_y(x.size());
    for (std::size_t i = 0; i < x.size(); ++i)
        x[i] = semoe::random_uniform({.seed = 9}, semoe::index_t(i), 0) - 0.5f;

    // The last four tokens are padding.
    std::vector<std::uint8_t> const mask{1, 1, 1, 1, 1, 1, 0, 0, 0, 0};
    auto context = layer.make_context(tokens);
    layer.forward(Matrix{x.data(), tokens, hidden}, Matrix{y.data(), tokens, hidden}, context,
                  {.mask = {mask.data(), tokens}});
    double const padded_loss = context.losses.aux_loss;

    layer.forward(Matrix{x.data(), 6, hidden}, Matrix{short_y.data(), 6, hidden}, context);
    bool same = context.losses.aux_loss == padded_loss && context.counters.num_tokens == 6;
    for (semoe::index_t i = 0; i < tokens * hidden; ++i)
        same = same && y[std::size_t(i)] == (i < 6 * hidden ? short_y[std::size_t(i)] : 0);
    std::printf("6 tokens and 4 of padding: %s\n", same ? "as 6 tokens alone" : "different!");
    return same ? 0 : 1;
}
