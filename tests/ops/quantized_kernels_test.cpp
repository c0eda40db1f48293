#include "semoe/ops/cpu/quantized/tasks.hpp"

#include "semoe/backend/cpu/cpu.hpp"
#include "semoe/ops/quantize.hpp"
#include "semoe/ops/quantized_feed_forward.hpp"
#include "support/matrix.hpp"

#include <cmath>
#include <cstring>
#include <doctest/doctest.h>
#include <limits>
#include <memory>
#include <random>
#include <vector>

using namespace semoe;
using namespace semoe::test;

using namespace semoe::ops::cpu;

namespace {

bool lacks(Isa isa) {
    if (is_available(isa)) return false;
    MESSAGE("skipped: this machine lacks ", std::string(to_string(isa)));
    return true;
}
/// To move bytes, those with dot products of them take plain AVX-512.
bool lacks_moves(Isa isa) { return lacks(isa == Isa::avx512_vnni ? Isa::avx512 : isa); }
/// Memory aligned to lines.
struct Lines {
    std::vector<char> memory;
    explicit Lines(index_t bytes)
      : memory(std::size_t(bytes) + 64) {}
    char* data() {
        auto const at = reinterpret_cast<std::uintptr_t>(memory.data());
        return memory.data() + (64 - at % 64) % 64;
    }
};

/// Two blocks of 16 rows of bytes by two of 16 columns.
struct ByteBlock {
    static constexpr index_t steps = 5, row_length = steps * line_bytes;
    std::vector<std::uint8_t> rows;
    std::vector<std::int8_t> columns;

    ByteBlock(int low, int high) {
        auto const numbers = random_values<float>(3, 2 * 32 * row_length, 60);
        for (std::size_t i = 0; i < numbers.size() / 2; ++i) {
            rows.push_back(std::uint8_t(std::max(0, std::min(255, 128 + int(numbers[i])))));
            columns.push_back(
                std::int8_t(std::max(low, std::min(high, int(numbers[numbers.size() / 2 + i])))));
        }
    }
    template <class Kernel>
    std::vector<std::int32_t> run(index_t columns_wanted, bool add) {
        Lines words(2 * steps * tile_bytes), results(4 * tile_bytes);
        for (index_t c = 0; c < 32; ++c)
            for (index_t k = 0; k < row_length; ++k)
                words.data()[(c / 16 * steps + k / 64) * tile_bytes + k % 64 / 4 * 64 + c % 16 * 4 +
                             k % 4] = char(columns[std::size_t(c * row_length + k)]);
        std::vector<std::int32_t> sums(4 * std::size_t(tile_floats), 1000);
        std::memcpy(results.data(), sums.data(), sums.size() * 4);
        auto const* left = reinterpret_cast<char const*>(rows.data());
        BlockSteps const s{{left, left + 16 * row_length},
                           row_length,
                           line_bytes,
                           words.data(),
                           steps * tile_bytes,
                           steps,
                           columns_wanted};
        Kernel kernel;
        Fetch nothing;
        static_cast<BlockKernel&>(kernel).multiply(s, nothing, 0, add,
                                                   reinterpret_cast<float*>(results.data()));
        std::memcpy(sums.data(), results.data(), sums.size() * 4);
        return sums;
    }
    template <class Kernel>
    void check() {
        for (bool const add : {false, true})
            for (index_t const wanted : {1, 2, 4, 5, 8, 9, 16, 17, 20, 21, 24, 25, 32}) {
                auto const got = run<Kernel>(wanted, add);
                bool same = true;
                for (index_t i = 0; i < 4 * tile_floats; ++i) {
                    index_t const tile = i / tile_floats, r = tile % 2 * 16 + i % tile_floats / 16,
                                  c = tile / 2 * 16 + i % 16;
                    if (c >= wanted) continue;
                    std::int32_t sum = add ? 1000 : 0;
                    for (index_t k = 0; k < row_length; ++k)
                        sum += int(rows[std::size_t(r * row_length + k)]) *
                               int(columns[std::size_t(c * row_length + k)]);
                    same &= sum == got[std::size_t(i)];
                }
                CAPTURE(wanted);
                CAPTURE(add);
                CHECK(same);
            }
    }
};

/// A matrix in some format.
template <class Format>
struct Encoded {
    index_t rows, cols;
    std::vector<std::uint8_t> codes, scales;

    Encoded(index_t n, index_t k)
      : rows(n)
      , cols(k)
      , codes(std::size_t(Format::code_bytes(n, k)))
      , scales(std::size_t(Format::scale_bytes(n, k))) {
        CpuBackend b{.threads = 1};
        auto numbers = random_values<float>(7, n * k);
        ops::quantize<Format>(b, MatrixView<float, HostSpace>(numbers.data(), n, k),
                              {codes.data(), scales.data(), n, k});
    }
    quant::ConstCodes view() const { return {codes.data(), scales.data(), rows, cols}; }
};

/// What a code means in units of its row's scale.
template <class Format>
int weight_in_units(quant::ConstCodes const& m, index_t n, index_t k) {
    index_t const tile = n / 16, line = n % 16 * line_bytes, chunk = k / Format::chunk;
    auto const* const codes =
        m.codes + tile * Format::code_tile_bytes(m.cols) + chunk * tile_bytes + line;
    if constexpr (Decode<Format>::lines == 1) {
        return int(codes[k % Format::chunk]) - 128;
    } else {
        auto const* const scales = m.scales + tile * Format::scale_tile_bytes(m.cols) +
                                   (1 + chunk) * line_bytes + n % 16 * 4;
        auto const* const table = Decode<Format>::table(scales[k % Format::chunk / 32]);
        return int(table[Format::half(k).of(codes)]) - 128;
    }
}

/// Element k of a decoded row, in what its products count in.
template <class Format>
double decoded(char const* line, index_t k, std::uint8_t const* row_scales) {
    return double(float(int(static_cast<unsigned char>(line[k])) - 128) *
                  quant::detail::load_float(row_scales));
}

} // namespace

TEST_CASE("ops/quantized_kernels: sums of bytes are exact on every instruction set") {
    ByteBlock block(-127, 127);
    block.check<portable::ByteKernel>();
#if SEMOE_X86
    block.check<amx::TileKernel<amx::EmulatedByteTiles>>();
    if (!lacks(Isa::avx512_vnni)) block.check<avx512::VectorKernel<avx512::ByteDotWords>>();
    if (!lacks(Isa::amx)) block.check<amx::TileKernel<amx::HardwareByteTiles>>();
#elif SEMOE_ARM
    block.check<neon::ByteKernel<neon::LongSums>>();
    if (!lacks(Isa::neon_dot)) block.check<neon::ByteKernel<neon::DotSums>>();
#endif
}

TEST_CASE_TEMPLATE("ops/quantized_kernels: decoded panels are what the format says", Format,
                   quant::Int4, quant::Mxfp4) {
    constexpr index_t step = line_bytes, lines = Decode<Format>::lines;
    auto const check = [](Isa isa, index_t depth, index_t rows) {
        Encoded<Format> const m(rows, depth);
        auto const w = QuantizedRows<Format>::of(m.view());
        Lines tiles(2 * lines * tile_bytes);
        Fetch nothing;
        bool same = true;
        for (index_t p = 0; p < w.panels(); ++p)
            for (index_t k = 0; k < depth; ++k) {
                index_t const first = k / step / lines * lines;
                if (k % (lines * step) == 0)
                    decode_panel(isa, w, p, first, lines, tiles.data(), nothing);
                for (index_t n = 32 * p; n < min(rows, 32 * p + 32); ++n) {
                    index_t const s = n % 32 / 16, tile = s * lines + k / step - first;
                    same &= decoded<Format>(tiles.data() + tile * tile_bytes + n % 16 * 64,
                                            k % step, w.panel_scales(int(s), p) + n % 16 * 4) ==
                            double(Format::weight(m.view(), n, k));
                }
            }
        CAPTURE(depth);
        CAPTURE(rows);
        CHECK(same);
    };
    for (Isa const isa : {Isa::portable, Isa::avx512_vnni, Isa::neon}) {
        if (lacks_moves(isa)) continue;
        for (index_t const depth : {1, 31, 32, 33, 64, 97, 300})
            for (index_t const rows : {1, 16, 17, 33}) check(isa, depth, rows);
    }
}

TEST_CASE_TEMPLATE("ops/quantized_kernels: tokens have a scale each, however they lie", T, float,
                   bf16) {
    auto const check = [](Isa isa, index_t depth, index_t rows) {
        auto x = random_values<T>(11, rows * depth);
        bool const odd_row = rows == 19;
        index_t const few = few_tokens<quant::Int4>(isa, rows);
        if (odd_row) {
            for (index_t k = 0; k < depth; ++k) x[std::size_t(depth + k)] = T(0.0f);
            x[std::size_t(2 * depth)] = T(std::numeric_limits<float>::infinity());
            x[std::size_t(3 * depth)] = T(std::numeric_limits<float>::quiet_NaN());
        }
        index_t const steps = byte_steps(depth), bytes = TokenTiles::bytes(rows, steps);
        Lines by_rows(bytes), by_lanes(bytes), lane_memory(TokenLanes<T>::bytes(rows, depth));
        auto const a = TokenTiles::in(by_rows.data(), rows, steps, few),
                   b = TokenTiles::in(by_lanes.data(), rows, steps, few);
        pack_tokens(isa, HostRows<T>{x.data(), depth, rows, depth}, a);
        auto const lanes = TokenLanes<T>::in(lane_memory.data(), rows, depth);
        for (index_t m = 0; m < rows; ++m)
            for (index_t k = 0; k < depth; ++k) {
                float const value = float(x[std::size_t(m * depth + k)]);
                lanes.at(m / 16, k)[m % 16] = T(value);
                auto& largest = lanes.largest[m];
                largest =
                    std::max(largest, semoe::detail::bits_of<std::uint32_t>(value) & 0x7fffffffu);
            }
        pack_tokens(isa, lanes, rows, b);
        CHECK(std::memcmp(by_rows.data(), by_lanes.data(), std::size_t(bytes)) == 0);
        for (index_t m = 0; m < rows; ++m) {
            if (odd_row && (m == 2 || m == 3)) {
                CHECK(std::isnan(a.scales[m]));
                continue;
            }
            std::int32_t sum = 0;
            double worst = 0;
            for (index_t k = 0; k < depth; ++k) {
                auto const q =
                    static_cast<signed char>(a.words[(m / 16 * steps + k / 64) * tile_bytes +
                                                     k % 64 / 4 * 64 + m % 16 * 4 + k % 4]);
                sum += q;
                worst = std::max(worst, std::fabs(double(q) * double(a.scales[m]) -
                                                  double(float(x[std::size_t(m * depth + k)]))));
            }
            CHECK(a.offsets[m] == 128 * sum);
            CHECK(worst <= 0.5001 * double(a.scales[m]));
        }
    };
    for (Isa const isa : {Isa::portable, Isa::avx2, Isa::avx512, Isa::avx512_vnni, Isa::neon}) {
        if (lacks_moves(isa)) continue;
        for (index_t const depth : {1, 63, 64, 130})
            for (index_t const rows : {1, 3, 6, 16, 19, 24, 40}) check(isa, depth, rows);
    }
}

TEST_CASE_TEMPLATE("ops/quantized_kernels: sums with codes of any making are exact", Format,
                   quant::Int8, quant::Int4, quant::Mxfp4) {
    // Scales up to 3 and up to 18 are those of encode(), and all its codes but 0. The largest sums
    // are those of one code and of tokens that are all 127.
    struct Made {
        unsigned codes, first_code, scales;
        bool largest = false;
    };
    auto const check = [](Isa isa, index_t depth, index_t weight_rows, index_t rows, Made made) {
        Encoded<Format> m(weight_rows, depth);
        std::mt19937 random(7);
        auto const half = [&] { return made.first_code + random() % made.codes; };
        for (auto& code : m.codes) code = std::uint8_t(half() | half() << 4);
        for (auto& scale : m.scales) scale = std::uint8_t(random() % made.scales);
        auto const w = QuantizedRows<Format>::of(m.view());
        index_t const steps = byte_steps(depth);
        Lines memory(TokenTiles::bytes(rows, steps)), scratch(quantized_scratch_bytes(rows));
        auto const x = TokenTiles::in(memory.data(), rows, steps, few_tokens<Format>(isa, rows));
        auto numbers = random_values<float>(5, rows * depth);
        for (float& number : numbers)
            if (made.largest) number = 1;
        pack_tokens(isa, HostRows<float>{numbers.data(), depth, rows, depth}, x);

        bool same = true;
        auto const finish = [&](index_t p, index_t first, index_t blocks, float const* results) {
            for (index_t i = 0; i < blocks * 2 * tile_floats; ++i) {
                index_t const tile = i / tile_floats, token = (first + tile / 2) * 16 + i % 16,
                              n = p * 32 + tile % 2 * 16 + i % tile_floats / 16;
                if (token >= rows || n >= weight_rows) continue;
                std::int32_t sum = 0;
                for (index_t k = 0; k < depth; ++k)
                    sum += weight_in_units<Format>(m.view(), n, k) *
                           static_cast<signed char>(
                               x.words[(token / 16 * steps + k / 64) * tile_bytes +
                                       k % 64 / 4 * 64 + token % 16 * 4 + k % 4]);
                std::int32_t got;
                std::memcpy(&got, results + i, sizeof(got));
                same &= got - x.offsets[token] == sum;
            }
        };
        with_byte_kernel(isa, [&](BlockKernel& kernel) {
            multiply_quantized<Format>(isa, kernel, w, 0, w.panels(), x, rows, {}, scratch.data(),
                                       finish);
        });
        CAPTURE(std::string(to_string(isa)));
        CAPTURE(depth);
        CAPTURE(weight_rows);
        CAPTURE(rows);
        CAPTURE(made.scales);
        CAPTURE(made.first_code);
        CHECK(same);
    };
    for (Isa const isa : {Isa::portable, Isa::avx2, Isa::avx512, Isa::avx512_vnni, Isa::avx512_bf16,
                          Isa::amx, Isa::neon, Isa::neon_dot}) {
        if (lacks(isa)) continue;
        for (Made const made : {Made{15, 1, 4},
                                {15, 1, 19},
                                {16, 0, 19},
                                {16, 0, 256},
                                {1, 15, 19, true},
                                {1, 1, 19, true}}) {
            for (index_t rows = 1; rows <= 50; rows += rows < 18 ? 1 : 8)
                check(isa, 200, 17, rows, made);
            for (index_t const depth : {1, 31, 64, 65, 128, 1000}) check(isa, depth, 33, 14, made);
        }
    }
}
