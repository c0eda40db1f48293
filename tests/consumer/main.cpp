#include <semoe/semoe.hpp>

#include <vector>

int main() {
    semoe::MoeLayer layer{semoe::CpuBackend{},
                          semoe::gate::TopK<semoe::gate::Softmax>{.num_experts = 4, .top_k = 2},
                          semoe::expert::SwiGlu<float>{.hidden = 8, .intermediate = 16}};
    layer.initialize(1);
    std::vector<float> x(3 * 8, 1.0f), y(3 * 8);
    auto context = layer.make_context(3);
    layer.forward({x.data(), 3, 8}, {y.data(), 3, 8}, context);
    return context.counters.num_tokens == 3 ? 0 : 1;
}
