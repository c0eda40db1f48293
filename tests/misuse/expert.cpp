#include "semoe/backend/cpu/cpu.hpp"
#include "semoe/expert/ffn.hpp"
#include "semoe/expert/gated.hpp"
#include "semoe/expert/quantized.hpp"
#include "semoe/expert/with_shared.hpp"
#include "semoe/testing/check_expert.hpp"

#include <string>

struct Square {
    float operator()(float x) const { return x * x; }
    float derivative(float x) const { return 2 * x; }
};

#if defined(CASE_ffn_activation_without_call)
// must print: expert::Ffn: the activation needs a const operator()(float) that returns float
struct Nothing {};
semoe::expert::Ffn<float, Nothing> const expert{4, 4};
#elif defined(CASE_gated_activation_that_owns_memory)
// must print: expert::Gated: the activation needs a const operator()(float) that returns float
struct Named : Square {
    std::string name;
};
semoe::expert::Gated<float, Named> const expert{4, 4};
#elif defined(CASE_shared_of_another_type)
// must print: expert::WithShared: the routed and the shared expert must be of one value_type
semoe::expert::WithShared<semoe::expert::SwiGlu<float>, semoe::expert::SwiGlu<semoe::bf16>> const
    expert{{4, 4}, {4, 4}};
#elif defined(CASE_routed_without_hidden)
// must print: expert::WithShared: the routed expert lacks value_type or hidden
semoe::expert::WithShared<Square, semoe::expert::SwiGlu<float>> const expert{{}, {4, 4}};
#elif defined(CASE_quantized_format_without_codes)
// must print: expert::Quantized: the format lacks layout, code_tile_bytes, scale_tile_bytes
semoe::expert::Quantized<Square, semoe::expert::SwiGlu<float>> const expert{{}, {4, 4}};
#elif defined(CASE_quantized_expert_without_unit)
// must print: expert::Quantized: the float expert must be two products with a unit() between them
struct Lone {
    using value_type = float;
    semoe::index_t hidden = 4;
};
semoe::expert::Quantized<semoe::quant::Int8, Lone> const expert{{}, {}};
#else
inline semoe::index_t columns() { return semoe::expert::Ffn<float, Square>{4, 4}.saved_columns(); }
#endif

#if defined(CASE_checked_without_layout)
// must print: check_expert: the expert lacks layout(backend), saved_columns() or scratch_columns()
struct Flat {
    using value_type = float;
    semoe::index_t hidden = 4;
};
inline void check(semoe::CpuBackend b) { semoe::testing::check_expert(b, Flat{}); }
#endif
