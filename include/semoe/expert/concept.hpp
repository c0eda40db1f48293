#pragma once

#include "semoe/backend/concept.hpp"
#include "semoe/core/dtype.hpp"
#include "semoe/core/layout.hpp"
#include "semoe/core/rng.hpp"
#include "semoe/ops/gradient_taker.hpp"
#include "semoe/ops/group.hpp"

#include <concepts>

namespace semoe {

/// Views that an expert's calls take. Every matrix has the same rows; a group says which of them
/// belong to which expert. Element type T is Expert::value_type.
template <class T, class Space>
struct ExpertRows {
    MatrixView<T const, Space> in; ///< [R,H]
    MatrixView<T, Space> out;      ///< [R,H], overwritten
    MatrixView<T, Space> saved;    ///< [R,saved_columns()], written by forward
    MatrixView<T, Space> scratch;  ///< [R,scratch_columns()], free to use within the call
    bool keep_saved = true;        ///< false: nobody reads `saved`, it may be left unwritten
    /// [R], or none. Given only to experts with HasIndexedRows: row r is then in.row(index[r]).
    VectorView<index_t const, Space> index = {};

    SEMOE_HD IndexedRows<T const, Space> indexed() const { return {in, index}; }
};
template <class T, class Space>
struct ExpertGradientRows {
    MatrixView<T const, Space> in;               ///< [R,H], as in forward
    MatrixView<T const, Space> saved;            ///< [R,saved_columns()], as forward left it
    MatrixView<T const, Space> d_out;            ///< [R,H]
    MatrixView<T, Space> d_in;                   ///< [R,H], overwritten
    MatrixView<T, Space> scratch;                ///< [R,backward_scratch_columns()]
    VectorView<index_t const, Space> index = {}; ///< as in forward

    SEMOE_HD IndexedRows<T const, Space> indexed() const { return {in, index}; }
};

namespace detail {
template <class X>
struct WeightType {
    using type = typename X::value_type;
};
template <class X>
    requires requires { typename X::weight_type; }
struct WeightType<X> {
    using type = typename X::weight_type;
};
/// What an expert's tensors are codes of; empty where they are the weights themselves.
template <class X>
std::string codes_of(X const& expert) {
    if constexpr (requires { expert.codes(); })
        return expert.codes();
    else
        return {};
}
/// The name of an expert's activation, of a quantised one that of the float expert; empty where it
/// has none.
template <class X>
std::string activation_of(X const& expert) {
    if constexpr (requires { std::string(expert.activation.name); })
        return expert.activation.name;
    else if constexpr (requires { expert.base; })
        return activation_of(expert.base);
    else
        return {};
}
} // namespace detail
/// What an expert's weight block is made of: its value_type, or a weight_type of its own. Those
/// with their own draw their weights themselves, by initialize(backend, seed, key, block).
template <class X>
using weight_t = typename detail::WeightType<X>::type;
template <class X>
inline constexpr bool has_own_weights = !std::same_as<weight_t<X>, typename X::value_type>;

template <class X>
concept HasExpertShape = requires(X const& x) {
    typename X::value_type;
    requires Element<typename X::value_type>;
    { x.hidden } -> std::convertible_to<index_t>;
};
template <class X, class B>
concept HasExpertLayout = requires(X const& x, B const& b) {
    /// The slices of one expert's block, as this backend wants them.
    { x.layout(b) } -> std::same_as<BlockLayout>;
    { x.saved_columns() } -> std::convertible_to<index_t>;
    { x.scratch_columns() } -> std::convertible_to<index_t>;
};
template <class X, class B>
concept HasForwardGrouped = requires(X const& x, B& b, ops::Group<std::byte const> const& weights,
                                     ExpertRows<typename X::value_type, space_of<B>> rows) {
    x.forward_grouped(b, weights, rows);
};
/// A pure function of (parameter block, row): a row's result never depends on the other rows.
template <class X, class B>
concept Expert = HasExpertShape<X> && HasExpertLayout<X, B> && HasForwardGrouped<X, B>;

/// An expert that trains. Gradients are blocks of accumulate_t<value_type> in the order of the
/// layout's primary part; an expert whose bit in `accumulate` is clear has its whole gradient
/// block written, else added to. Experts without rows are left alone.
template <class X, class B>
concept DifferentiableExpert = Expert<X, B> &&
    requires(X const& x, B& b, ops::Group<std::byte const> const& weights,
             ops::Group<std::byte> const& gradients, ops::GroupMask accumulate,
             ExpertGradientRows<typename X::value_type, space_of<B>> rows) {
    { x.backward_scratch_columns() } -> std::convertible_to<index_t>;
    x.backward_grouped(b, weights, gradients, accumulate, rows);
};
/// An expert whose saved activations can be computed again from its input rows; needed for
/// MoeConfig::recompute.
template <class X, class B>
concept RecomputableExpert = DifferentiableExpert<X, B> &&
    requires(X const& x, B& b, ops::Group<std::byte const> const& weights,
             MatrixView<typename X::value_type const, space_of<B>> in,
             MatrixView<typename X::value_type, space_of<B>> saved,
             MatrixView<typename X::value_type, space_of<B>> scratch) {
    x.recompute_grouped(b, weights, in, saved, scratch);
};
/// An expert that may read its input rows where the tokens lie, through an index: while it says so
/// for a backend, nobody copies them where there is one rank. It then looks at `index` in all its
/// calls, and takes IndexedRows as the input of recompute_grouped, where it has that.
template <class X, class B>
concept HasIndexedRows = requires(X const& x, B const& b) {
    { x.reads_indexed_rows(b) } -> std::convertible_to<bool>;
};
template <class X, class B>
bool reads_indexed_rows(X const& expert, B const& b) {
    if constexpr (HasIndexedRows<X, B>)
        return expert.reads_indexed_rows(b);
    else
        return false;
}
/// An expert that may hand its gradients to a taker (ops/gradient_taker.hpp) instead of writing
/// them to blocks: while it says so for experts of so many rows, whoever updates at once need not
/// store them. When a taker gets an expert's first ones, nobody reads that expert's weights any
/// more.
template <class X, class B>
concept HandsOverGradients = requires(X const& x, B const& b, index_t rows) {
    { x.hands_over_gradients(b, rows) } -> std::convertible_to<bool>;
};
/// An expert whose block has derived slices; refreshes them from the primary ones.
template <class X, class B>
concept HasDerivedSlices = requires(X const& x, B& b, Bytes<space_of<B>> block) {
    x.rebuild_derived(b, block);
};

/// An expert whose operations want more scratch a worker than ops::worker_scratch_bytes().
template <class X, class B>
concept HasWorkerScratch = requires(X const& x, B const& b) {
    { x.worker_scratch_bytes(b) } -> std::convertible_to<std::size_t>;
};

/// A routed expert beside one that every token passes through; the layer owns the second as the
/// block `shared_block`. See expert/with_shared.hpp.
template <class X>
concept HasSharedExpert = requires(X const& x) {
    x.routed;
    x.shared;
    { x.sigmoid_gate } -> std::convertible_to<bool>;
};

} // namespace semoe
