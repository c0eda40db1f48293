#include "semoe/expert/ffn.hpp"
#include "semoe/expert/gated.hpp"
#include "semoe/gate/topk.hpp"
#include "semoe/optim/adamw.hpp"
#include "support/layer.hpp"

#include <doctest/doctest.h>

#include <map>
#include <sys/mman.h>

// 16-bit layers, layers over other memory, and sizes past 2^31.

using namespace semoe;
using test::random_values;

namespace moe_layer_types_test {
namespace {
constexpr index_t H = 16, I = 24, E = 4, K = 2, T = 29;

template <class T_>
auto make_layer(CpuBackend b) {
    MoeLayer layer{b, gate::TopK<gate::TopKSoftmax>{.num_experts = E, .top_k = K},
                   expert::SwiGlu<T_>{.hidden = H, .intermediate = I}};
    layer.initialize(3);
    return layer;
}
/// Values that every type holds exactly.
std::vector<float> coarse(std::uint64_t seed, index_t n) {
    auto v = random_values<float>(seed, n);
    for (float& x : v) x = std::round(x * 8) / 8;
    return v;
}
template <class T_>
std::vector<T_> narrow(std::vector<float> const& v) {
    return {v.begin(), v.end()};
}
} // namespace

TEST_CASE_TEMPLATE("layer/moe_layer: a layer in 16 bits is near the same layer in double", T_, f16,
                   bf16) {
    CpuBackend b{.threads = 2};
    auto narrow_layer = make_layer<T_>(b);
    auto wide_layer = make_layer<double>(b);
    // The wide layer takes the narrow one's weights.
    auto const weights = test::parameters_of(narrow_layer);
    wide_layer.for_each_parameter(
        [&](std::string const& name, auto view, Shape) {
            auto const& from = weights.at(name);
            std::copy(from.begin(), from.end(), view.data);
        },
        BlockKind::weight, Access::write);
    auto const x = coarse(1, T * H), dy = coarse(2, T * H);
    auto const run = [&](auto& layer, auto type) {
        using V = decltype(type);
        std::vector<V> in(x.begin(), x.end()), d(dy.begin(), dy.end());
        if constexpr (sizeof(V) == 2) in = narrow<V>(x), d = narrow<V>(dy);
        std::vector<V> y(in.size()), dx(in.size());
        auto context = layer.make_context(T, Mode::training);
        MatrixView<V, HostSpace> const in_view{in.data(), T, H}, y_view{y.data(), T, H};
        layer.forward(in_view, y_view, context);
        layer.backward(MatrixView<V, HostSpace>{d.data(), T, H},
                       MatrixView<V, HostSpace>{dx.data(), T, H}, context);
        return std::pair{std::vector<double>(y.begin(), y.end()),
                         std::vector<double>(dx.begin(), dx.end())};
    };
    auto const [y, dx] = run(narrow_layer, T_{});
    auto const [y_wide, dx_wide] = run(wide_layer, double{});
    double const tolerance = std::is_same_v<T_, f16> ? 4e-3 : 3e-2;
    CHECK(test::relative_error(y, y_wide) < tolerance);
    CHECK(test::relative_error(dx, dx_wide) < tolerance);
    CHECK(test::worst_error(test::parameters_of(narrow_layer, BlockKind::gradient),
                            test::parameters_of(wide_layer, BlockKind::gradient)) < tolerance);
}

TEST_CASE("layer/moe_layer: 16-bit weights are trained through float masters") {
    CpuBackend b{.threads = 1};
    auto layer = make_layer<bf16>(b);
    optim::AdamW const optimizer{.lr = 1e-4}; // far below a bf16 step of most weights
    layer.prepare(optimizer);
    auto const before = test::parameters_of(layer);
    auto x = narrow<bf16>(coarse(1, T * H)), dy = narrow<bf16>(coarse(2, T * H)), y = x, dx = x;
    auto context = layer.make_context(T, Mode::training);
    auto const view = [](auto& v) { return MatrixView<bf16, HostSpace>{v.data(), T, H}; };
    for (index_t n = 0; n < 40; ++n) {
        layer.zero_grad();
        layer.forward(view(x), view(y), context);
        layer.backward(view(dy), view(dx), context);
        train_step(layer, optimizer, UpdateStep{.step = n});
    }
    auto const after = test::parameters_of(layer);
    auto const masters = test::parameters_of(layer, BlockKind::master);
    index_t moved = 0, total = 0;
    for (auto const& [name, values] : masters)
        for (std::size_t i = 0; i < values.size(); ++i) {
            CHECK(after.at(name)[i] == double(float(bf16(float(values[i])))));
            moved += after.at(name)[i] != before.at(name)[i];
            ++total;
        }
    CHECK(moved > total / 2); // forty small steps add up, though one would round away
}

TEST_CASE("layer/moe_layer: weights may be the user's own memory, used where they lie") {
    CpuBackend b{.threads = 1};
    auto expected = make_layer<float>(b);
    tier::Resident<CpuBackend> tier{b};
    std::map<expert_id, std::vector<float>> mine;
    auto const weights = test::parameters_of(expected);
    expert::SwiGlu<float> const expert{.hidden = H, .intermediate = I};
    for (expert_id e = 0; e < E; ++e) {
        auto& block = mine[e];
        for (char const* slice : {"gate_proj", "up_proj", "down_proj"}) {
            auto const& v = weights.at("experts." + std::to_string(e) + "." + slice);
            block.insert(block.end(), v.begin(), v.end());
        }
        auto const bytes = index_t(block.size() * sizeof(float));
        tier.adopt(BlockKey{0, e, BlockKind::weight},
                   Bytes<HostSpace>{reinterpret_cast<std::byte*>(block.data()), bytes},
                   BlockInfo{bytes, LayoutId::row_major});
    }
    MoeLayer layer{b, gate::TopK<gate::TopKSoftmax>{.num_experts = E, .top_k = K}, expert,
                   comm::Self{}, tier};
    layer.for_each_parameter(
        [&](std::string const& name, auto view, Shape) {
            auto const& v = weights.at(name);
            if (name == "router.weight") std::copy(v.begin(), v.end(), view.data);
        },
        BlockKind::weight, Access::write);
    auto const x = coarse(1, T * H);
    auto const run = [&](auto& l) {
        auto in = x, y = x;
        auto context = l.make_context(T);
        l.forward(MatrixView<float, HostSpace>{in.data(), T, H},
                  MatrixView<float, HostSpace>{y.data(), T, H}, context);
        return y;
    };
    CHECK(run(layer) == run(expected));
    mine[2][7] += 1; // no copy was made
    CHECK(run(layer) != run(expected));
}

namespace {
/// Address space without memory behind it until it is touched, and a count of what was asked for.
struct Sparse {
    std::size_t largest = 0;

    static void* allocate(std::size_t n, void* user) {
        auto& self = *static_cast<Sparse*>(user);
        void* const p = mmap(nullptr, n, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p == MAP_FAILED) return nullptr;
        self.largest = std::max(self.largest, n);
        return p;
    }
    static void deallocate(void* p, std::size_t n, void*) noexcept { munmap(p, n); }
};
} // namespace

TEST_CASE("layer/moe_layer: rows and sizes past 2^31 elements are ordinary") {
    Sparse sparse;
    CpuBackend b{.threads = 1, .allocator = {Sparse::allocate, Sparse::deallocate, &sparse}};
    auto layer = make_layer<float>(b);
    index_t const tokens = index_t(1) << 28;
    index_t const bytes = layer.workspace_bytes(tokens);
    CHECK(bytes > 2 * tokens * K * H * index_t(sizeof(float)));
    if (void* const all = Sparse::allocate(std::size_t(bytes), &sparse)) {
        Sparse::deallocate(all, std::size_t(bytes), &sparse);
    } else {
        MESSAGE("not tested: the system gives no " << bytes << " bytes of addresses");
        return;
    }
    sparse.largest = 0;
    auto const x = coarse(1, 3 * H);
    // Three tokens, 2^31 elements apart.
    index_t const ld = index_t(1) << 31;
    Buffer<float, CpuBackend> const far_x(b, 2 * ld + H), far_y(b, 2 * ld + H);
    MatrixView<float, HostSpace> const in{far_x.data(), 3, H, ld}, out{far_y.data(), 3, H, ld};
    for (index_t t = 0; t < 3; ++t) std::copy_n(x.data() + t * H, H, in.row(t));
    auto context = layer.make_context(3);
    layer.forward(in, out, context);
    auto near_x = x, near_y = x;
    layer.forward(MatrixView<float, HostSpace>{near_x.data(), 3, H},
                  MatrixView<float, HostSpace>{near_y.data(), 3, H}, context);
    for (index_t t = 0; t < 3; ++t)
        CHECK(std::equal(out.row(t), out.row(t) + H, near_y.begin() + t * H));
    // A context of 2^33 elements a matrix: its size is asked for as it is.
    auto const large = layer.make_context(tokens);
    CHECK(large.workspace_bytes() == bytes);
    CHECK(index_t(sparse.largest) == bytes);
}

} // namespace moe_layer_types_test
