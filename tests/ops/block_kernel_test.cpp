#include "semoe/ops/cpu/amx/block_kernel.hpp"

#include "semoe/backend/cpu/isa.hpp"
#include "semoe/ops/cpu/avx2/block_kernel.hpp"
#include "semoe/ops/cpu/avx512/block_kernel.hpp"
#include "semoe/ops/cpu/neon/vectors.hpp"
#include "semoe/ops/cpu/portable/block_kernel.hpp"
#include "semoe/ops/tolerance.hpp"
#include "support/matrix.hpp"

#include <cmath>
#include <doctest/doctest.h>
#include <vector>

using namespace semoe;
using namespace semoe::test;

namespace block_kernel_test {

using namespace semoe::ops::cpu;

namespace {

/// Two blocks of 16 rows by two of 16 columns, over some steps.
template <class T>
struct Block {
    index_t steps, row_length;
    std::vector<T> rows, columns;
    std::vector<float> results; // 64-byte aligned part of it
    std::vector<char> words;

    explicit Block(std::uint64_t seed, double scale = 1, index_t steps_ = 3)
      : steps(steps_)
      , row_length(steps * step_depth<T>)
      , rows(random_values<T>(seed, 32 * row_length, scale))
      , columns(random_values<T>(seed + 1, 32 * row_length))
      , words(std::size_t(2 * steps * tile_bytes) + 64) {}

    char* aligned_words() {
        auto const at = reinterpret_cast<std::uintptr_t>(words.data());
        return words.data() + (64 - at % 64) % 64;
    }
    template <class Kernel>
    std::vector<float> run(index_t columns_wanted, bool add) {
        for (index_t c = 0; c < 32; ++c)
            for (index_t k = 0; k < row_length; ++k) {
                index_t const per_word = 4 / index_t(sizeof(T));
                index_t const word = k / per_word;
                char* const to =
                    aligned_words() +
                    ((c / 16 * steps + word / 16) * tile_bytes + word % 16 * 64 + c % 16 * 4) +
                    k % per_word * index_t(sizeof(T));
                std::memcpy(to, &columns[std::size_t(c * row_length + k)], sizeof(T));
            }
        std::vector<float> memory(4 * std::size_t(tile_floats) + 16, 0.25f);
        float* out = memory.data();
        while (reinterpret_cast<std::uintptr_t>(out) % 64 != 0) ++out;
        auto const* left = reinterpret_cast<char const*>(rows.data());
        index_t const row_bytes = row_length * index_t(sizeof(T));
        BlockSteps const s{{left, left + 16 * row_bytes},
                           row_bytes,
                           line_bytes,
                           aligned_words(),
                           steps * tile_bytes,
                           steps,
                           columns_wanted};
        Kernel kernel;
        Fetch nothing;
        static_cast<BlockKernel&>(kernel).multiply(s, nothing, 0, add, out);
        return {out, out + (columns_wanted > 16 ? 4 : 2) * tile_floats};
    }
    void check(std::vector<float> const& got, bool add) const {
        double worst = 0;
        for (std::size_t i = 0; i < got.size(); ++i) {
            auto const tile = index_t(i) / tile_floats, in_tile = index_t(i) % tile_floats;
            index_t const r = tile % 2 * 16 + in_tile / 16, c = tile / 2 * 16 + in_tile % 16;
            double sum = add ? 0.25 : 0, size = 1e-30;
            for (index_t k = 0; k < row_length; ++k) {
                double const term = double(float(rows[std::size_t(r * row_length + k)])) *
                                    double(float(columns[std::size_t(c * row_length + k)]));
                sum += term, size += std::fabs(term);
            }
            worst = std::max(worst, std::fabs(double(got[i]) - sum) / size);
        }
        CHECK(worst <= 2 * ops::tolerance<float>(row_length));
    }
};

template <class Kernel, class T>
void check_kernel() {
    for (bool const add : {false, true}) {
        Block<T> block(5);
        auto const two = block.template run<Kernel>(32, add);
        block.check(two, add);
        for (index_t const columns : {1, 2, 4, 5, 16}) {
            auto const some = block.template run<Kernel>(columns, add);
            bool same = true;
            for (index_t i = 0; i < 2 * tile_floats; ++i)
                if (i % 16 < columns) same &= some[std::size_t(i)] == two[std::size_t(i)];
            CHECK(same);
        }
    }
}
/// A kernel of a few columns of bf16 beside one of their floats.
template <class FewKernel, class FloatKernel>
void check_widened() {
    for (index_t columns = 1; columns <= FewKernel::most_columns; ++columns)
        for (bool const add : {false, true}) {
            Block<bf16> block(9);
            Block<float> wide(9, 1, 6);
            wide.rows.assign(block.rows.begin(), block.rows.end());
            wide.columns.assign(block.columns.begin(), block.columns.end());
            auto const few = block.run<FewKernel>(columns, add);
            auto const many = wide.run<FloatKernel>(32, add);
            bool same = true;
            for (index_t i = 0; i < 2 * tile_floats; ++i)
                if (i % 16 < columns) same &= few[std::size_t(i)] == many[std::size_t(i)];
            CAPTURE(columns);
            CHECK(same);
        }
}
#if SEMOE_X86
bool lacks(Isa isa) {
    if (is_available(isa)) return false;
    MESSAGE("skipped: this machine lacks ", std::string(to_string(isa)));
    return true;
}
#endif

} // namespace

TEST_CASE("ops/block_kernel: every kernel agrees with doubles, whatever the number of columns") {
    check_kernel<portable::FloatKernel<portable::Vectors>, float>();
#if SEMOE_X86
    check_kernel<amx::TileKernel<amx::EmulatedTiles>, bf16>();
    if (!lacks(Isa::avx2)) check_kernel<avx2::VectorKernel<avx2::FloatWords>, float>();
    if (lacks(Isa::avx512)) return;
    check_kernel<avx512::VectorKernel<avx512::FloatWords>, float>();
    check_kernel<avx512::VectorKernel<avx512::WidenedWords>, bf16>();
    if (!lacks(Isa::avx512_bf16)) check_kernel<avx512::VectorKernel<avx512::DotWords>, bf16>();
    if (!lacks(Isa::amx)) check_kernel<amx::TileKernel<amx::HardwareTiles>, bf16>();
#elif SEMOE_ARM
    check_kernel<portable::FloatKernel<neon::Vectors>, float>();
#endif
}

TEST_CASE("ops/block_kernel: few columns of bf16 have the bits of many in floats") {
    check_widened<portable::FewKernel<portable::WidenedWords<portable::Vectors>>,
                  portable::FloatKernel<portable::Vectors>>();
#if SEMOE_X86
    if (!lacks(Isa::avx2))
        check_widened<avx2::FewKernel<avx2::WidenedWords>, avx2::VectorKernel<avx2::FloatWords>>();
#elif SEMOE_ARM
    check_widened<portable::FewKernel<portable::WidenedWords<neon::Vectors>>,
                  portable::FloatKernel<neon::Vectors>>();
#endif
}

#if SEMOE_X86
TEST_CASE("ops/block_kernel: vectors of 8 and of 16 have the same bits") {
    if (lacks(Isa::avx512)) return;
    for (bool const add : {false, true})
        CHECK(same_bits(Block<float>(9).run<avx2::VectorKernel<avx2::FloatWords>>(32, add),
                        Block<float>(9).run<avx512::VectorKernel<avx512::FloatWords>>(32, add)));
}

TEST_CASE(
    "ops/block_kernel: emulated tiles have the bits of the processor's, subnormals included") {
    if (lacks(Isa::amx)) return;
    for (double const scale : {1.0, 1e-20, 1e-38, 1e38})
        for (bool const add : {false, true}) {
            CAPTURE(scale);
            Block<bf16> block(7, scale);
            auto const hardware = block.run<amx::TileKernel<amx::HardwareTiles>>(32, add);
            auto const emulated = block.run<amx::TileKernel<amx::EmulatedTiles>>(32, add);
            CHECK(same_bits(hardware, emulated));
        }
}
#endif

} // namespace block_kernel_test
