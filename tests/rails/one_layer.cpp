// What a user's translation unit costs: one layer, forward, backward and a step, at -O2. The test
// compile_budget_test.cpp compiles it and measures; nothing runs it.
#include <semoe/semoe.hpp>

#include <vector>

void one_step() {
    semoe::MoeLayer layer{semoe::CpuBackend{},
                          semoe::gate::TopK<semoe::gate::Softmax>{.num_experts = 8, .top_k = 2},
                          semoe::expert::SwiGlu<semoe::bf16>{.hidden = 64, .intermediate = 128}};
    layer.initialize(1);
    auto context = layer.make_context(16, semoe::Mode::training);

    std::vector<semoe::bf16> x(1024), y(1024), dx(1024);
    using View = semoe::MatrixView<semoe::bf16, semoe::HostSpace>;
    View const in{x.data(), 16, 64}, out{y.data(), 16, 64}, d_in{dx.data(), 16, 64};
    layer.forward(in, out, context);
    layer.backward(out, d_in, context);
    semoe::train_step(layer, semoe::optim::AdamW{}, {});
}
