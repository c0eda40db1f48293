// Save a layer in training and load it into another: weights, masters, moments and the step. A run
// that goes on from the file takes the same steps, bit for bit.

#include <semoe/checkpoint/checkpoint.hpp>
#include <semoe/semoe.hpp>

#include <cstdio>
#include <filesystem>
#include <vector>

using semoe::index_t;
using Matrix = semoe::MatrixView<float, semoe::HostSpace>;

namespace {
constexpr index_t tokens = 32, hidden = 16;
semoe::optim::AdamW const optimizer{.lr = 1e-3};

auto make_layer() {
    return semoe::MoeLayer{semoe::CpuBackend{},
                           semoe::gate::TopK<semoe::gate::Softmax>{.num_experts = 4, .top_k = 2},
                           semoe::expert::SwiGlu<float>{.hidden = hidden, .intermediate = 24}};
}
/// Steps [first, last); returns the outputs of the last.
template <class Layer>
std::vector<float> train(Layer& layer, index_t first, index_t last) {
    std::vector<float> x(tokens * hidden), y(x.size()), dx(x.size());
    auto const view = [](std::vector<float>& v) { return Matrix{v.data(), tokens, hidden}; };
    auto context = layer.make_context(tokens, semoe::Mode::training);
    for (index_t step = first; step < last; ++step) {
        for (std::size_t i = 0; i < x.size(); ++i)
            x[i] = semoe::random_uniform({.seed = 2, .step = std::uint64_t(step)}, index_t(i), 0);
        layer.zero_grad();
        layer.forward(view(x), view(y), context);
        layer.backward(view(y), view(dx), context); // the gradient of half the squared output
        semoe::train_step(layer, optimizer, {.step = step});
    }
    return y;
}
} // namespace

int main() {
    auto const file = std::filesystem::temp_directory_path() / "semoe_example_08.safetensors";
    auto layer = make_layer();
    layer.initialize(4);
    train(layer, 0, 5);
    semoe::checkpoint::save(file.string(), {.step = 5, .seed = 4}, layer);
    auto const straight_on = train(layer, 5, 10);

    auto other = make_layer();
    other.prepare(optimizer);
    auto const resumed = semoe::checkpoint::load(file.string(), other);
    bool const same = train(other, resumed.state.step, 10) == straight_on;
    std::filesystem::remove(file);
    std::printf("resumed at step %lld: %s\n", static_cast<long long>(resumed.state.step),
                same ? "the same bits" : "different!");
    return same ? 0 : 1;
}
