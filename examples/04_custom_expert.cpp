// An activation of one's own, for the experts that there are; and an expert of one's own: out =
// scale * in, with one weight a column. Two functors and the members that the Expert concept asks
// for; it trains, and runs on every backend.

#include <semoe/semoe.hpp>

#include <cstdio>

namespace acme {
using semoe::index_t;

struct SquaredRelu { // expert::Ffn<float, SquaredRelu>, expert::Gated<bf16, SquaredRelu>
    SEMOE_HD float operator()(float x) const { return x > 0 ? x * x : 0; }
    SEMOE_HD float derivative(float x) const { return x > 0 ? 2 * x : 0; } // to train
};
static_assert(semoe::DifferentiableActivation<SquaredRelu>);

template <class Space>
struct Multiply { // one row of the group an index
    semoe::ops::Group<std::byte const> weights;
    semoe::MatrixView<float const, Space> in;
    semoe::MatrixView<float, Space> out;
    SEMOE_HD void operator()(index_t n) const {
        auto const [expert, row] = weights.place(n);
        auto const* const scale = reinterpret_cast<float const*>(weights.block[expert]);
        for (index_t c = 0; c < in.cols; ++c) out(row, c) = scale[c] * in(row, c);
    }
};
template <class Space>
struct ScaleGradient { // one column of one expert an index, its rows in order
    semoe::ops::Group<std::byte> gradients;
    semoe::ops::GroupMask accumulate;
    semoe::MatrixView<float const, Space> in, d_out;
    SEMOE_HD void operator()(index_t i) const {
        index_t const e = i / in.cols, c = i % in.cols;
        if (gradients.rows[e] == 0) return;
        auto* const out = reinterpret_cast<float*>(gradients.block[e]) + c;
        float sum = accumulate >> e & 1u ? *out : 0;
        for (index_t r = 0; r < gradients.rows[e]; ++r)
            sum += in(gradients.first_row[e] + r, c) * d_out(gradients.first_row[e] + r, c);
        *out = sum;
    }
};

struct Scale {
    using value_type = float;
    index_t hidden = 1;

    template <class B>
    semoe::BlockLayout layout(B const&) const {
        return semoe::BlockLayout{}.add("scale", 1, hidden);
    }
    index_t saved_columns() const { return 0; }
    index_t scratch_columns() const { return 0; }
    index_t backward_scratch_columns() const { return 0; }

    template <class B>
    void forward_grouped(B& b, semoe::ops::Group<std::byte const> const& weights,
                         semoe::ExpertRows<float, semoe::space_of<B>> rows) const {
        b.parallel_for(weights.total_rows(),
                       Multiply<semoe::space_of<B>>{weights, rows.in, rows.out});
    }
    template <class B>
    void backward_grouped(B& b, semoe::ops::Group<std::byte const> const& weights,
                          semoe::ops::Group<std::byte> const& gradients,
                          semoe::ops::GroupMask accumulate,
                          semoe::ExpertGradientRows<float, semoe::space_of<B>> rows) const {
        using Space = semoe::space_of<B>;
        b.parallel_for(weights.total_rows(), Multiply<Space>{weights, rows.d_out, rows.d_in});
        b.parallel_for(gradients.size * hidden,
                       ScaleGradient<Space>{gradients, accumulate, rows.in, rows.d_out});
    }
};

} // namespace acme

int main() {
    constexpr acme::index_t tokens = 12, hidden = 8;
    semoe::MoeLayer layer{semoe::CpuBackend{},
                          semoe::gate::TopK<semoe::gate::TopKSoftmax>{.num_experts = 4, .top_k = 2},
                          acme::Scale{.hidden = hidden}};
    layer.initialize(1);
    std::vector<float> x(tokens * hidden, 0.5f), y(x.size()), dx(x.size());
    for (std::size_t i = 0; i < x.size(); ++i) x[i] = float(i % 11) / 11;
    auto const view = [](auto& v) {
        return semoe::MatrixView<float, semoe::HostSpace>{v.data(), tokens, hidden};
    };
    auto context = layer.make_context(tokens, semoe::Mode::training);
    layer.forward(view(x), view(y), context);
    layer.backward(view(y), view(dx), context);
    std::printf("gradient norm %.4f\n", layer.grad_norm_squared());
    return layer.grad_norm_squared() > 0 ? 0 : 1;
}
