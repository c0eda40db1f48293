#pragma once

#include "semoe/backend/cpu/isa.hpp"
#include "semoe/core/config.hpp"
#include "semoe/core/dtype.hpp"
#include "semoe/core/math.hpp"
#include "semoe/core/types.hpp"

#include <array>

namespace semoe::ops::cpu {

// Operands come in tiles of 16 lines of 64 bytes. A tile of rows holds one step of the depth of 16
// rows: 16 floats or 32 bf16 of each. A tile of words holds one step of 16 columns: word i of 4
// bytes of every column stands in line i, that is one float, or two bf16 that follow one another.
// A transpose of words turns one into the other.

inline constexpr index_t tile_rows = 16, line_bytes = 64, tile_bytes = 1024;
/// Floats of a tile of results, 16 x 16.
inline constexpr index_t tile_floats = 256;

/// Elements of the depth that a line of a row holds: what one step takes.
template <class T>
inline constexpr index_t step_depth = line_bytes / index_t(sizeof(T));
constexpr index_t blocks_of_16(index_t n) { return (n + 15) / 16; }

/// Up to so many columns of a product meet rows of 16 bits as those lie; more of them share the
/// work of widening rows to floats. Where nothing is widened they are those of narrow lines.
constexpr index_t few_columns(Isa isa) {
    return isa == Isa::avx512 || isa == Isa::avx512_vnni ? 6 : isa == Isa::avx2 ? 24 : 4;
}

/// Columns that a line of words has room for where they are few: a whole block's lines would take
/// more of the caches than the weights that they meet.
inline constexpr index_t narrow_columns = 4;

/// The most columns of each form that a product of up to `all` of them may take.
constexpr std::array<index_t, 3> columns_of_forms(Isa isa, index_t all) {
    return {few_columns(isa), tile_rows, all};
}

/// How operands lie in tiles on an instruction set: as they are or, where products are of floats,
/// widened. Few columns meet rows as those are; with AVX512_BF16 all do.
struct TileForm {
    Isa isa;            ///< whose code makes the tiles
    index_t step;       ///< elements of the depth that a line of rows holds: what one step takes
    index_t widths = 1; ///< tiles of words that a step takes: two where rows of 16 bits meet floats
    bool lanes = false; ///< whether rows become tiles of words, too: either operand's may be lanes
    index_t columns = tile_rows; ///< that a line of words has room for

    template <class T>
    static constexpr TileForm of(Isa isa) {
        bool const as_floats = isa < Isa::avx512_bf16 || is_arm(isa);
        bool const avx512 = isa >= Isa::avx512 && !is_arm(isa);
        index_t const step = as_floats ? step_depth<float> : step_depth<T>;
        return {isa, step, 1, avx512 && !takes_whole_tiles<T>(isa)};
    }
    /// For a product of a weight's rows and that many columns. Few or many, the bits are the same.
    template <class T>
    static constexpr TileForm of(Isa isa, index_t columns) {
        auto const many = of<T>(isa);
        if (columns <= few_columns(isa)) {
            bool const narrow = columns <= narrow_columns && !takes_whole_tiles<T>(isa);
            return {isa, step_depth<T>, step_depth<T> / many.step, false,
                    narrow ? narrow_columns : tile_rows};
        }
        // What is widened is turned with it. With AVX512_BF16 that takes Zen 4 the time of
        // products, and gains Zen 5 nothing.
        bool const turned = isa != Isa::avx512_bf16 && sizeof(T) == 2;
        return {isa, many.step, 1, turned && many.lanes};
    }
    template <class T>
    constexpr bool widens_rows() const {
        return step != step_depth<T>;
    }
    /// Whether rows are not met as they lie.
    template <class T>
    constexpr bool prepares_rows() const {
        return lanes || widens_rows<T>();
    }
    template <class T>
    constexpr bool widens_words() const {
        return step / widths != step_depth<T>;
    }
    constexpr index_t steps(index_t depth) const { return (depth + step - 1) / step; }
    /// Of the last step: those that hold any of the depth.
    constexpr index_t last_words(index_t depth) const {
        index_t const each = step / 16, left = depth - (steps(depth) - 1) * step;
        return (left + each - 1) / each;
    }
    bool is_narrow() const { return columns == narrow_columns; }
    /// Whether the products are the processor's own, of tiles.
    template <class T>
    static constexpr bool takes_whole_tiles(Isa isa) {
        return isa == Isa::amx && sizeof(T) == 2;
    }
    constexpr index_t word_line_bytes() const { return columns * 4; }
    /// Columns that a kernel takes at a time.
    constexpr index_t kernel_columns() const {
        bool const avx512 = isa >= Isa::avx512 && !is_arm(isa);
        return avx512 && (isa == Isa::avx512_bf16 || step == step_depth<float>) ? 64 : 32;
    }
    /// Of what one step takes: tiles of words, or as many lines of fewer columns.
    constexpr index_t step_bytes() const { return widths * tile_rows * word_line_bytes(); }
    /// Of the words of 16 columns of that depth.
    constexpr index_t block_bytes(index_t depth) const { return steps(depth) * step_bytes(); }
    /// The same for more of them; or of rows, where a step takes one tile of words.
    constexpr index_t bytes(index_t rows, index_t depth) const {
        return blocks_of_16(rows) * block_bytes(depth);
    }
    /// Lines of words that 16 elements of the depth take.
    constexpr index_t lines_of_16() const { return tile_floats * widths / step; }
};

/// A matrix of rows in host memory; those past its end are read as zeros.
template <class T>
struct HostRows {
    T const* data;
    index_t ld, rows, cols;
    index_t const* index = nullptr; ///< where row r lies; null: it is row r of data

    T const* row(index_t r) const { return data + (index ? index[r] : r) * ld; }
    HostRows part(index_t first, index_t col, index_t n, index_t m) const {
        return {data + (index ? 0 : first * ld) + col, ld, n, m, index ? index + first : nullptr};
    }
};

} // namespace semoe::ops::cpu
