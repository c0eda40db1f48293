// Forward, backward and a step: the layer learns to return a rotated copy of its input.
// Prints the squared error; ends with an error unless it fell to a tenth.

#include <semoe/semoe.hpp>

#include <cstdio>
#include <vector>

using semoe::index_t;
using Matrix = semoe::MatrixView<float, semoe::HostSpace>;

int main() {
    constexpr index_t tokens = 64, hidden = 16;
    semoe::MoeLayer layer{semoe::CpuBackend{},
                          semoe::gate::TopK<semoe::gate::TopKSoftmax>{.num_experts = 4, .top_k = 2},
                          semoe::expert::SwiGlu<float>{.hidden = hidden, .intermediate = 32},
                          semoe::MoeConfig{.aux_loss_weight = 0.01, .z_loss_weight = 1e-4}};
    layer.initialize(1);

    std::vector<float> x(tokens * hidden), y(x.size()), dy(x.size()), dx(x.size());
    for (std::size_t i = 0; i < x.size(); ++i)
        x[i] = semoe::random_uniform({.seed = 7}, index_t(i), 0) * 2 - 1;
    auto const view = [&](std::vector<float>& v) { return Matrix{v.data(), tokens, hidden}; };

    auto context = layer.make_context(tokens, semoe::Mode::training);
    semoe::optim::AdamW const optimizer{.lr = 3e-3};
    semoe::optim::learning_rate::Cosine const rate{.warmup = 10, .total = 300, .minimum = 0.1};
    double first = 0, error = 0;
    for (index_t step = 0; step < 300; ++step) {
        layer.zero_grad();
        layer.forward(view(x), view(y), context, {.step = std::uint64_t(step)});
        error = 0;
        for (index_t t = 0; t < tokens; ++t)
            for (index_t h = 0; h < hidden; ++h) {
                float const miss = view(y)(t, h) - view(x)(t, (h + 1) % hidden);
                view(dy)(t, h) = 2 * miss / float(tokens * hidden);
                error += double(miss * miss) / double(tokens * hidden);
            }
        layer.backward(view(dy), view(dx), context);
        double const clip = semoe::optim::clip_scale(layer.grad_norm_squared(), 1.0);
        semoe::train_step(layer, optimizer,
                          {.step = step, .lr_factor = rate(step + 1), .gradient_scale = clip});
        if (step == 0) first = error;
        if (step % 50 == 0)
            std::printf("step %3lld  error %.5f  balance %.3f\n", static_cast<long long>(step),
                        error, context.losses.aux_loss);
    }
    std::printf("error %.5f, at first %.5f\n", error, first);
    return error < first / 10 ? 0 : 1;
}
