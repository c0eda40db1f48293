#include "semoe/ops/cpu/amx/block_kernel.hpp"

#include "semoe/backend/cpu/isa.hpp"
#include "semoe/ops/cpu/avx2/block_kernel.hpp"
#include "semoe/ops/cpu/avx512/block_kernel.hpp"
#include "semoe/ops/cpu/neon/vectors.hpp"
#include "semoe/ops/cpu/portable/block_kernel.hpp"
#include "semoe/ops/tolerance.hpp"
#include "support/matrix.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <doctest/doctest.h>
#include <vector>

using namespace semoe;
using namespace semoe::test;

namespace block_kernel_test {

using namespace semoe::ops::cpu;

namespace {

/// Two blocks of 16 rows by up to four of 16 columns, over some steps.
/// @tparam S  of which words of columns are made
template <class T, class S = T>
struct Block {
    static constexpr index_t widths = step_depth<T> / step_depth<S>;
    index_t steps, row_length, word_line = line_bytes, rows_wanted = 32;
    std::vector<T> rows, columns;
    std::vector<float> results; // 64-byte aligned part of it
    std::vector<char> words;

    explicit Block(std::uint64_t seed, double scale = 1, index_t steps_ = 3)
      : steps(steps_)
      , row_length(steps * step_depth<T>)
      , rows(random_values<T>(seed, 32 * row_length, scale))
      , columns(random_values<T>(seed + 1, 64 * row_length))
      , words(std::size_t(4 * steps * widths * tile_bytes) + 64) {}

    char* aligned_words() {
        auto const at = reinterpret_cast<std::uintptr_t>(words.data());
        return words.data() + (64 - at % 64) % 64;
    }
    template <class Kernel>
    std::vector<float> run(index_t columns_wanted, bool add) {
        set_words();
        std::vector<float> memory(8 * std::size_t(tile_floats) + 16, 0.25f);
        float* out = memory.data();
        while (reinterpret_cast<std::uintptr_t>(out) % 64 != 0) ++out;
        auto const* left = reinterpret_cast<char const*>(rows.data());
        index_t const row_bytes = row_length * index_t(sizeof(T));
        multiply<Kernel>({{left, left + 16 * row_bytes},
                          row_bytes,
                          line_bytes,
                          aligned_words(),
                          steps * widths * tile_bytes,
                          steps,
                          columns_wanted,
                          true,
                          true,
                          rows_wanted,
                          16,
                          word_line},
                         add, out);
        return {out, out + blocks_of_16(columns_wanted) * 2 * tile_floats};
    }
    /// Of the first rows, which are words, in calls of that many steps.
    template <class Kernel>
    std::vector<float> run_of_words(index_t columns_wanted, bool add, index_t each) {
        set_words();
        std::vector<float> memory(std::size_t(2 * steps + 8) * std::size_t(tile_floats) + 16,
                                  0.25f);
        float* tiles = memory.data();
        while (reinterpret_cast<std::uintptr_t>(tiles) % 64 != 0) ++tiles;
        std::memcpy(tiles, rows.data(), rows.size() * sizeof(T));
        float* const out = tiles + 2 * steps * tile_floats;
        auto const* const left = reinterpret_cast<char const*>(tiles);
        for (index_t first = 0; first < steps; first += each) {
            char const* const at = left + first * tile_bytes;
            multiply<Kernel>({{at, at + steps * tile_bytes},
                              line_bytes,
                              tile_bytes,
                              aligned_words() + first * tile_bytes,
                              steps * tile_bytes,
                              std::min(each, steps - first),
                              columns_wanted,
                              first == 0,
                              first + each >= steps,
                              rows_wanted},
                             add || first > 0, out);
        }
        return {out, out + blocks_of_16(columns_wanted) * 2 * tile_floats};
    }
    template <class Kernel>
    void multiply(BlockSteps const& s, bool add, float* out) {
        Kernel kernel;
        Fetch nothing;
        static_cast<BlockKernel&>(kernel).multiply(s, nothing, 0, add, out);
    }
    void set_words() {
        for (index_t c = 0; c < (word_line == line_bytes ? 64 : narrow_columns); ++c)
            for (index_t k = 0; k < row_length; ++k) {
                index_t const per_word = 4 / index_t(sizeof(S)), word = k / per_word;
                char* const to = aligned_words() +
                                 ((c / 16 * steps * widths * 16 + word) * word_line + c % 16 * 4) +
                                 k % per_word * index_t(sizeof(S));
                S const element{float(columns[std::size_t(c * row_length + k)])};
                std::memcpy(to, &element, sizeof(S));
            }
    }
    void check(std::vector<float> const& got, bool add) const {
        double const allowed = 2 * ops::tolerance<float>(row_length);
        int wrong = 0;
        for (std::size_t i = 0; i < got.size(); ++i) {
            auto const tile = index_t(i) / tile_floats, in_tile = index_t(i) % tile_floats;
            index_t const r = tile % 2 * 16 + in_tile / 16, c = tile / 2 * 16 + in_tile % 16;
            double sum = add ? 0.25 : 0, size = 1e-30;
            for (index_t k = 0; k < row_length; ++k) {
                double const term = double(float(rows[std::size_t(r * row_length + k)])) *
                                    double(float(columns[std::size_t(c * row_length + k)]));
                sum += term, size += std::fabs(term);
            }
            bool const close = std::fabs(double(got[i]) - sum) <= allowed * size; // no NaN is
            wrong += !close;
        }
        CHECK(wrong == 0);
    }
};

/// Whether the first columns, and rows, have the same bits.
bool same_columns(std::vector<float> const& a, std::vector<float> const& b, index_t columns,
                  index_t rows = 32) {
    bool same = true;
    for (index_t i = 0; i < index_t(a.size()); ++i)
        if (i / (2 * tile_floats) * 16 + i % 16 < columns &&
            i / tile_floats % 2 * 16 + i % tile_floats / 16 < rows)
            same &= same_bits(std::vector{a[std::size_t(i)]}, std::vector{b[std::size_t(i)]});
    return same;
}
template <class Kernel, class T>
void check_kernel(index_t most = 32) {
    for (bool const add : {false, true}) {
        Block<T> block(5);
        auto const all = block.template run<Kernel>(most, add);
        block.check(all, add);
        for (index_t columns = 1; columns < most; ++columns) {
            CAPTURE(columns);
            CHECK(same_columns(block.template run<Kernel>(columns, add), all, columns));
        }
    }
}
/// Lines of words with room for few columns only beside whole ones.
template <class Kernel, class T>
void check_narrow() {
    for (index_t columns = 1; columns <= narrow_columns; ++columns)
        for (bool const add : {false, true}) {
            Block<T> whole(5), narrow(5);
            narrow.word_line = narrow_columns * 4;
            CAPTURE(columns);
            CHECK(same_columns(narrow.template run<Kernel>(columns, add),
                               whole.template run<Kernel>(columns, add), columns));
        }
}
/// A kernel of a few columns that meet rows of bf16 beside one of their floats.
template <class FewKernel, class FloatKernel>
void check_widened() {
    check_narrow<FloatKernel, float>();
    for (index_t columns = 1; columns <= FewKernel::most_columns; ++columns)
        for (bool const add : {false, true}) {
            Block<bf16, float> block(9);
            Block<float> wide(9, 1, 6);
            if (columns <= narrow_columns) block.word_line = narrow_columns * 4;
            wide.rows.assign(block.rows.begin(), block.rows.end());
            wide.columns.assign(block.columns.begin(), block.columns.end());
            CAPTURE(columns);
            CHECK(same_columns(block.run<FewKernel>(columns, add), wide.run<FloatKernel>(32, add),
                               columns));
        }
}
#if SEMOE_X86
/// Rows that are words, in one call and in several, beside rows as they are.
template <class Words, class T>
void check_lanes() {
    using Lanes = avx512::LanesKernel<Words>;
    Block<T> block(9, 1, 6), turned(9, 1, 6);
    index_t const row_words = 6 * tile_rows, word = 4 / index_t(sizeof(T));
    for (index_t place = 0; place < 2; ++place)
        for (index_t k = 0; k < row_words; ++k)
            for (index_t r = 0; r < 16; ++r)
                std::memcpy(turned.rows.data() + ((place * row_words + k) * 16 + r) * word,
                            block.rows.data() + ((place * 16 + r) * row_words + k) * word, 4);
    for (bool const add : {false, true}) {
        auto const expected = block.template run<avx512::VectorKernel<Words>>(Words::columns, add);
        for (index_t const rows : {1, 4, 5, 16, 17, 28, 32}) {
            turned.rows_wanted = rows;
            for (index_t columns = 1; columns <= Words::columns; ++columns)
                for (index_t const each : {2, 6}) {
                    CAPTURE(rows);
                    CAPTURE(columns);
                    CAPTURE(each);
                    CHECK(same_columns(turned.template run_of_words<Lanes>(columns, add, each),
                                       expected, columns, rows));
                }
        }
    }
}
struct CountedTiles : amx::EmulatedTiles {
    static inline int products = 0;
    template <int C, int A, int B>
    void dot() {
        ++products;
        amx::EmulatedTiles::dot<C, A, B>();
    }
};
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
    if (!lacks(Isa::avx2)) check_kernel<avx2::FloatKernel, float>();
    if (lacks(Isa::avx512)) return;
    check_kernel<avx512::VectorKernel<avx512::FloatWords>, float>(avx512::FloatWords::columns);
    if (!lacks(Isa::avx512_bf16))
        check_kernel<avx512::VectorKernel<avx512::DotWords>, bf16>(avx512::DotWords::columns);
    if (!lacks(Isa::amx)) check_kernel<amx::TileKernel<amx::HardwareTiles>, bf16>();
#elif SEMOE_ARM
    check_kernel<portable::FloatKernel<neon::Vectors>, float>();
#endif
}

TEST_CASE("ops/block_kernel: few columns of bf16 have the bits of many in floats, and lines of "
          "words that hold few have those of whole ones") {
    check_widened<portable::FewKernel<portable::WidenedWords<portable::Vectors>>,
                  portable::FloatKernel<portable::Vectors>>();
#if SEMOE_X86
    if (!lacks(Isa::avx2)) check_widened<avx2::FewKernel<avx2::WidenedWords>, avx2::FloatKernel>();
    if (!lacks(Isa::avx512))
        check_widened<avx512::FewKernel<avx512::WidenedWords>,
                      avx512::VectorKernel<avx512::FloatWords>>();
    if (!lacks(Isa::avx512_bf16)) check_narrow<avx512::VectorKernel<avx512::DotWords>, bf16>();
#elif SEMOE_ARM
    check_widened<portable::FewKernel<portable::WidenedWords<neon::Vectors>>,
                  portable::FloatKernel<neon::Vectors>>();
#endif
}

#if SEMOE_X86
TEST_CASE("ops/block_kernel: rows that are words have the bits of others, whichever are lanes") {
    if (!lacks(Isa::avx512)) check_lanes<avx512::FloatWords, float>();
    if (!lacks(Isa::avx512_bf16)) check_lanes<avx512::DotWords, bf16>();
}

TEST_CASE("ops/block_kernel: where nobody wants the second sixteen rows, tiles take half the "
          "products") {
    Block<bf16> all(5), half(5);
    half.rows_wanted = 16;
    for (index_t const columns : {16, 32})
        for (bool const add : {false, true}) {
            auto const count = [&](Block<bf16>& block, std::vector<float>& results) {
                CountedTiles::products = 0;
                results = block.run<amx::TileKernel<CountedTiles>>(columns, add);
                return CountedTiles::products;
            };
            std::vector<float> expected, got;
            CHECK(count(all, expected) == 2 * count(half, got));
            CHECK(same_columns(got, expected, columns, 16));
        }
}

TEST_CASE("ops/block_kernel: vectors of 8 and of 16 have the same bits") {
    if (lacks(Isa::avx512)) return;
    for (bool const add : {false, true})
        CHECK(same_bits(Block<float>(9).run<avx2::FloatKernel>(32, add),
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
