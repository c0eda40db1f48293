// A trained layer with its weights in 4 bits: a quarter of the memory, and of the
// time to read it, which is what decoding waits for. Prints sizes and how alike the outputs are.

#include <semoe/layer/quantize.hpp>
#include <semoe/semoe.hpp>

#include <cmath>
#include <cstdio>
#include <vector>

using namespace semoe;

namespace {

constexpr index_t hidden = 256, intermediate = 512, num_tokens = 32;

template <class Layer>
std::vector<bf16> outputs_of(Layer& layer) {
    std::vector<bf16> tokens(num_tokens * hidden), outputs(tokens.size());
    for (std::size_t i = 0; i < tokens.size(); ++i) tokens[i] = bf16(float(i * 37 % 101) / 50 - 1);
    auto context = layer.make_context(num_tokens);
    layer.forward(MatrixView<bf16 const, HostSpace>(tokens.data(), num_tokens, hidden),
                  MatrixView<bf16, HostSpace>(outputs.data(), num_tokens, hidden), context);
    return outputs;
}
double cosine(std::vector<bf16> const& a, std::vector<bf16> const& b) {
    double ab = 0, aa = 0, bb = 0;
    for (std::size_t i = 0; i < a.size(); ++i) {
        double const x = double(float(a[i])), y = double(float(b[i]));
        ab += x * y, aa += x * x, bb += y * y;
    }
    return ab / std::sqrt(aa * bb);
}

/// Quantises the trained layer and compares.
template <class Format, class Layer>
bool serve(char const* name, Format format, Layer& trained, double least) {
    CpuBackend const backend;
    expert::Quantized const expert{format, trained.expert()};
    MoeLayer served{backend, trained.gate(), expert};
    quantize(trained, served);

    double const before = 2 * double(trained.expert().layout(backend).elements());
    double const now = double(expert.layout(backend).elements());
    double const alike = cosine(outputs_of(trained), outputs_of(served));
    std::printf("%-5s %.2f of the bytes, cosine of the outputs %.4f\n", name, now / before, alike);
    return alike >= least;
}

} // namespace

int main() {
    MoeLayer trained{CpuBackend{}, gate::TopK<gate::Softmax>{.num_experts = 8, .top_k = 2},
                     expert::SwiGlu<bf16>{.hidden = hidden, .intermediate = intermediate}};
    trained.initialize(/*seed=*/42); // in place of training
    bool const good = serve("int8", quant::Int8{}, trained, 0.999) &&
                      serve("int4", quant::Int4{}, trained, 0.98) &&
                      serve("mxfp4", quant::Mxfp4{}, trained, 0.95);
    return good ? 0 : 1;
}
