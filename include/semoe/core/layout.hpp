#pragma once

#include "semoe/core/dtype.hpp"
#include "semoe/core/error.hpp"
#include "semoe/core/message.hpp"
#include "semoe/core/types.hpp"

#include <concepts>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>

namespace semoe {

/// The physical order of a block's elements. Compared wherever a block changes hands.
enum class LayoutId : std::uint32_t {
    row_major = 0, ///< every slice as its logical matrix, row after row
    panels_16 = 1, ///< row_major slices, then derived [rows/16][cols][16] panels
    int8 = 2,      ///< bytes, in tiles of core/quant.hpp: codes of all matrices, then their scales
    int4 = 3,
    mxfp4 = 4,
};
inline constexpr std::uint32_t num_layout_ids = 5;

inline char const* to_string(LayoutId id) {
    switch (id) {
    case LayoutId::row_major:
        return "row_major";
    case LayoutId::panels_16:
        return "panels_16";
    case LayoutId::int8:
        return "int8";
    case LayoutId::int4:
        return "int4";
    case LayoutId::mxfp4:
        return "mxfp4";
    }
    return "unknown";
}

/// The name of an element type; of others than the library's own its size.
template <class T>
std::string element_name() {
    if constexpr (std::same_as<T, bf16>)
        return "bf16";
    else if constexpr (std::same_as<T, f16>)
        return "f16";
    else
        return message("{}{}", std::floating_point<T> ? "f" : "bytes ", sizeof(T));
}

/// One named matrix inside a block.
struct Slice {
    char const* name = ""; ///< logical name, as checkpoints spell it: "gate_proj"
    index_t rows = 0, cols = 0;
    index_t offset = 0;   ///< elements from the block's start
    index_t elements = 0; ///< elements it occupies, padding included
    /// A second packing of other slices: rebuilt after an update, no gradient, never saved.
    bool derived = false;
};

/// Where the slices of a block lie. Weight, gradient, master and moments of one parameter share
/// this order; gradients and states hold the primary part only.
class BlockLayout {
public:
    static constexpr int max_slices = 12;

    explicit BlockLayout(LayoutId id = LayoutId::row_major)
      : id_(id) {}

    /// Appends a [rows, cols] matrix. Derived slices come after all primary ones and state the
    /// elements that their packing occupies.
    BlockLayout& add(char const* name, index_t rows, index_t cols) {
        expects(primary_ == elements_, "BlockLayout: primary slices go before derived ones");
        // Moments of the block, in bytes, must have a size, too.
        constexpr index_t most = std::numeric_limits<index_t>::max() / 64;
        expects(rows >= 0 && cols >= 0 && (cols == 0 || rows <= (most - elements_) / cols),
                "BlockLayout: {} of [{},{}] is negative or too large", name, rows, cols);
        append({name, rows, cols, elements_, rows * cols, false});
        primary_ = elements_;
        return *this;
    }
    BlockLayout& add_derived(char const* name, index_t rows, index_t cols, index_t elements) {
        append({name, rows, cols, align_up(elements_), elements, true});
        return *this;
    }

    LayoutId id() const { return id_; }
    int size() const { return size_; }
    Slice const& operator[](int i) const { return slices_[i]; }
    Slice const* begin() const { return slices_; }
    Slice const* end() const { return slices_ + size_; }

    /// Elements of a weight block, derived slices included.
    index_t elements() const { return elements_; }
    /// Elements of a gradient, master or moment: primary slices only.
    index_t primary_elements() const { return primary_; }

    /// @throws precondition_error naming the slice when there is none
    Slice const& slice(std::string_view name) const {
        for (Slice const& s : *this)
            if (s.name == name) return s;
        throw precondition_error(message("BlockLayout: no slice named {}", name));
    }
    /// A number that tells blocks of as many bytes apart: by the names and shapes of their slices
    /// and by what those are made of. Never 0.
    std::uint64_t contents(std::string const& elements) const {
        std::uint64_t hash = 0xcbf29ce484222325; // FNV-1a
        auto const add = [&](std::string const& text) {
            for (char const c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
        };
        add(elements);
        for (Slice const& s : *this) add(message(";{} {} {}", s.name, s.rows, s.cols));
        return hash != 0 ? hash : 1;
    }
    bool contains(std::string_view name) const {
        for (Slice const& s : *this)
            if (s.name == name) return true;
        return false;
    }

private:
    static index_t align_up(index_t n) { return (n + 63) / 64 * 64; }
    void append(Slice s) {
        expects(size_ < max_slices, "BlockLayout: too many slices");
        slices_[size_++] = s;
        elements_ = s.offset + s.elements;
    }

    LayoutId id_;
    Slice slices_[max_slices] = {};
    int size_ = 0;
    index_t elements_ = 0, primary_ = 0;
};

} // namespace semoe
