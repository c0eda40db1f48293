#pragma once

#include "semoe/backend/workspace.hpp"
#include "semoe/comm/concept.hpp"
#include "semoe/core/error.hpp"
#include "semoe/dispatch/count_exchange.hpp"
#include "semoe/ops/detail/product.hpp"
#include "semoe/ops/detail/segment.hpp"
#include "semoe/routing/placement.hpp"

#include <algorithm>
#include <utility>
#include <vector>

namespace semoe {

namespace detail {

/// Takes rows from rank order to expert order or back. Both orders consist of the same segments;
/// segment s begins at row first[s] in rank order and at row place[s] in expert order.
template <class T, class Space>
struct ReorderRows {
    MatrixView<T const, Space> in;
    MatrixView<T, Space> out;
    VectorView<index_t const, Space> first; // [n+1], rising
    VectorView<index_t const, Space> place; // [n]
    bool to_rank_order;

    SEMOE_HD void operator()(index_t i) const {
        index_t const pieces = ops::detail::segments_of(in.cols), row = i / pieces;
        index_t const begin = i % pieces * ops::detail::segment_length;
        index_t const end = ops::detail::segment_end(begin, in.cols);
        index_t const s = segment_of(row), other = place[s] + (row - first[s]);
        T const* from = in.row(to_rank_order ? other : row);
        T* to = out.row(to_rank_order ? row : other);
        for (index_t c = begin; c < end; ++c) to[c] = from[c];
    }

private:
    /// The last segment that begins at or before `row`; empty ones before it begin there, too.
    SEMOE_HD index_t segment_of(index_t row) const {
        index_t low = 0, high = place.size;
        while (high - low > 1) {
            index_t const middle = (low + high) / 2;
            (first[middle] <= row ? low : high) = middle;
        }
        return low;
    }
};

/// Which reorderings a rank needs, and how large their tables are.
struct ExchangeShape {
    bool local = false;   // one rank: slots are rows
    bool departs = false; // slots are not in rank order
    bool arrives = false; // rows come from several ranks for several experts
    index_t segments_in = 0, segments_out = 0;

    ExchangeShape(Placement const& placement, int rank)
      : local(placement.num_ranks() == 1)
      , departs(!placement.in_rank_order())
      , arrives(!local && placement.num_local_experts(rank) > 1)
      , segments_in(arrives ? placement.num_ranks() * placement.num_local_experts(rank) : 0)
      , segments_out(departs ? placement.num_experts() : 0) {}

    index_t table_elements() const {
        return (arrives ? 2 * segments_in + 1 : 0) + (departs ? 2 * segments_out + 1 : 0);
    }
};

inline void expect_memory(char const* what, index_t bytes, index_t needed) {
    expects(bytes >= needed, "Exchange: {} has {} bytes, {} needed", what, bytes, needed);
}

} // namespace detail

/// Backend memory for the tables of one Exchange.
inline index_t exchange_table_bytes(Placement const& placement, int rank) {
    return detail::ExchangeShape(placement, rank).table_elements() * index_t(sizeof(index_t));
}
/// Backend memory that a movement passes through, for at most so many slots and rows. Movements on
/// one queue may share it.
inline index_t exchange_staging_bytes(Placement const& placement, int rank, index_t max_slots,
                                      index_t max_rows, index_t row_bytes) {
    detail::ExchangeShape const shape(placement, rank);
    Arena<HostSpace> arena;
    if (shape.departs) arena.take<std::byte>(max_slots * row_bytes);
    if (shape.arrives) arena.take<std::byte>(max_rows * row_bytes);
    return arena.used();
}

/// The row movements of one chunk: between slots, the S rows that this rank's tokens send in order
/// of expert, and rows, the R rows that this rank's experts receive, in order of local expert, then
/// source rank, then slot. One object serves all four movements of a step, since the backward of
/// to_experts is to_tokens and the other way round.
///
/// Made once; assign() gives it the counts of a forward, and nothing allocates from then on. The
/// tables that assign() uploads lie in host memory of this object, so it is destroyed only after
/// the queue has been synchronised.
template <Backend B, class C>
class Exchange {
    static_assert(HasRanks<C>, "Exchange: the communicator needs rank(), size() and topology() "
                               "(comm/concept.hpp)");
    static_assert(HasAllToAll<C, B>,
                  "Exchange: the communicator needs all_to_all_rows(b, send, counts, recv, counts, "
                  "row_bytes) with a ticket (comm/concept.hpp)");

public:
    using space = space_of<B>;

    /// @throws precondition_error when the placement is for another number of ranks
    /// @cost allocates O(P L) numbers on the host, O(P L + E) where experts are not in rank order
    Exchange(C comm, Placement placement)
      : comm_(std::move(comm))
      , placement_((check_ranks(comm_, placement), std::move(placement)))
      , shape_(placement_, comm_.rank())
      , send_counts_(std::size_t(comm_.size()))
      , recv_counts_(std::size_t(comm_.size()))
      , local_offsets_(placement_.experts_of(comm_.rank()).size() + 1)
      , table_(std::size_t(shape_.table_elements())) {}

    /// Takes the counts of one chunk and uploads the tables that the movements read.
    /// @param counts  after run(); read during the call only
    /// @param table   exchange_table_bytes() of backend memory, busy as long as this object
    /// @pre the queue has been synchronised since the last assign()
    /// @sync enqueues
    void assign(B& b, CountExchange<C> const& counts, index_t chunk, Bytes<space> table) {
        expects(counts.num_experts() == placement_.num_experts(),
                "Exchange: counts of {} experts for a placement of {}", counts.num_experts(),
                placement_.num_experts());
        count_slots(counts.rows(comm_.rank(), chunk));
        count_rows(counts, chunk);
        if (table_.empty()) return;
        detail::expect_memory("its table", table.size, index_t(table_.size() * sizeof(index_t)));
        device_table_ = view_as<index_t>(table).part(0, index_t(table_.size()));
        b.copy(device_table_.data, table_.data(), table_.size() * sizeof(index_t));
    }

    /// Whether there is one rank only: slots and rows are then the same, and a caller who uses one
    /// buffer for both saves the copy.
    bool is_local() const { return shape_.local; }
    /// S, rows that this rank sends.
    index_t num_slots() const { return num_slots_; }
    /// R, rows that this rank receives.
    index_t num_rows() const { return local_offsets_.back(); }
    /// [L+1], where the rows of each local expert begin. Host memory.
    std::span<index_t const> local_offsets() const { return local_offsets_; }
    Placement const& placement() const { return placement_; }

    /// Forward of dispatch, backward of combine.
    /// @param slots    [S,H], dense, backend memory
    /// @param rows     [R,H], dense, overwritten; not overlapping slots unless is_local(), when it
    ///                 may be the same
    /// @param staging  exchange_staging_bytes() of backend memory
    /// @throws precondition_error naming the shapes that do not fit; comm_error
    /// @sync communicates and enqueues on b: the rows are there for b's later work
    /// @cost one all-to-all; every row is read and written once more on each side that reorders
    template <class T>
    void to_experts(B& b, MatrixView<T, space> slots,
                    MatrixView<std::remove_const_t<T>, space> rows, Bytes<space> staging) {
        using Value = std::remove_const_t<T>;
        MatrixView<Value const, space> out = slots;
        check("to_experts", out, rows);
        if (is_local()) return copy(b, out, rows);
        Arena<space> arena = staging_arena(staging, row_bytes(out));
        if (shape_.departs) {
            auto const staged = arena.template take<Value>(num_slots_, out.cols);
            reorder(b, out, staged, departure(), true);
            out = staged;
        }
        auto const in = shape_.arrives ? arena.template take<Value>(num_rows(), rows.cols) : rows;
        comm_
            .all_to_all_rows(b, bytes(out), send_counts_, writable_bytes(in), recv_counts_,
                             row_bytes(out))
            .wait(b);
        if (shape_.arrives) reorder(b, MatrixView<Value const, space>(in), rows, arrival(), false);
    }

    /// Forward of combine, backward of dispatch: the inverse of to_experts.
    /// @param rows   [R,H], dense, backend memory
    /// @param slots  [S,H], dense, overwritten; as for to_experts
    template <class T>
    void to_tokens(B& b, MatrixView<T, space> rows, MatrixView<std::remove_const_t<T>, space> slots,
                   Bytes<space> staging) {
        using Value = std::remove_const_t<T>;
        MatrixView<Value const, space> out = rows;
        check("to_tokens", MatrixView<Value const, space>(slots), out);
        if (is_local()) return copy(b, out, slots);
        Arena<space> arena = staging_arena(staging, row_bytes(out));
        auto const in = shape_.departs ? arena.template take<Value>(num_slots_, slots.cols) : slots;
        if (shape_.arrives) {
            auto const staged = arena.template take<Value>(num_rows(), out.cols);
            reorder(b, out, staged, arrival(), true);
            out = staged;
        }
        comm_
            .all_to_all_rows(b, bytes(out), recv_counts_, writable_bytes(in), send_counts_,
                             row_bytes(out))
            .wait(b);
        if (shape_.departs)
            reorder(b, MatrixView<Value const, space>(in), slots, departure(), false);
    }

private:
    struct Segments {
        VectorView<index_t const, space> first, place;
    };

    static void check_ranks(C const& comm, Placement const& placement) {
        expects(placement.num_ranks() == comm.size(),
                "Exchange: a placement on {} ranks, the communicator has {}", placement.num_ranks(),
                comm.size());
    }
    template <class A, class Z>
    void check(char const* name, MatrixView<A, space> slots, MatrixView<Z, space> rows) const {
        expects(slots.rows == num_slots_ && rows.rows == num_rows() && slots.cols == rows.cols &&
                    slots.ld == slots.cols && rows.ld == rows.cols,
                "Exchange: {}: slots are {} and rows {}, dense matrices of {} and {} rows needed",
                name, slots, rows, num_slots_, num_rows());
    }

    Arena<space> staging_arena(Bytes<space> staging, std::size_t bytes_a_row) const {
        detail::expect_memory("staging", staging.size,
                              exchange_staging_bytes(placement_, comm_.rank(), num_slots_,
                                                     num_rows(), index_t(bytes_a_row)));
        return Arena<space>(staging);
    }

    void count_slots(std::span<index_t const> tokens_per_expert) {
        std::fill(send_counts_.begin(), send_counts_.end(), index_t(0));
        num_slots_ = 0;
        // Without departures there is no table.
        index_t* const first = departure_begin();
        index_t* const place = shape_.departs ? first + shape_.segments_out + 1 : nullptr;
        for (std::size_t e = 0; e < tokens_per_expert.size(); ++e) {
            index_t const n = tokens_per_expert[e];
            send_counts_[std::size_t(placement_.owner(expert_id(e)))] += n;
            if (shape_.departs) place[rank_position(expert_id(e))] = num_slots_;
            num_slots_ += n;
        }
        if (!shape_.departs) return;
        first[0] = 0;
        for (std::size_t i = 0; i < tokens_per_expert.size(); ++i)
            first[i + 1] = first[i] + tokens_per_expert[std::size_t(placement_.by_rank()[i])];
    }
    void count_rows(CountExchange<C> const& counts, index_t chunk) {
        auto const experts = placement_.experts_of(comm_.rank());
        std::fill(recv_counts_.begin(), recv_counts_.end(), index_t(0));
        local_offsets_[0] = 0;
        for (std::size_t l = 0; l < experts.size(); ++l) {
            index_t end = local_offsets_[l];
            for (int p = 0; p < comm_.size(); ++p) {
                index_t const n = counts.rows(p, chunk)[std::size_t(experts[l])];
                if (shape_.arrives) arrival_place(p, l) = end;
                recv_counts_[std::size_t(p)] += n;
                end += n;
            }
            local_offsets_[l + 1] = end;
        }
        if (!shape_.arrives) return;
        index_t* first = table_.data();
        *first = 0;
        for (int p = 0; p < comm_.size(); ++p)
            for (expert_id e : experts) {
                first[1] = first[0] + counts.rows(p, chunk)[std::size_t(e)];
                ++first;
            }
    }

    // The table: first [P L + 1] and place [P L] of arrival, then [E + 1] and [E] of departure.
    index_t& arrival_place(int p, std::size_t l) {
        std::size_t const experts = local_offsets_.size() - 1;
        return table_[std::size_t(shape_.segments_in) + 1 + std::size_t(p) * experts + l];
    }
    index_t arrival_elements() const { return shape_.arrives ? 2 * shape_.segments_in + 1 : 0; }
    index_t* departure_begin() { return table_.data() + arrival_elements(); }
    Segments segments(index_t begin, index_t n) const {
        return {device_table_.part(begin, n + 1), device_table_.part(begin + n + 1, n)};
    }
    Segments arrival() const { return segments(0, shape_.segments_in); }
    Segments departure() const { return segments(arrival_elements(), shape_.segments_out); }
    std::size_t rank_position(expert_id e) const {
        auto const own = placement_.experts_of(placement_.owner(e));
        return std::size_t(own.data() - placement_.by_rank().data()) +
               std::size_t(placement_.local_index(e));
    }

    template <class T>
    static void reorder(B& b, MatrixView<T const, space> in, MatrixView<T, space> out,
                        Segments const& segments, bool to_rank_order) {
        index_t const pieces = in.rows * ops::detail::segments_of(in.cols);
        if (pieces == 0) return;
        b.parallel_for(pieces, detail::ReorderRows<T, space>{in, out, segments.first,
                                                             segments.place, to_rank_order});
    }
    template <class T>
    static void copy(B& b, MatrixView<T const, space> in, MatrixView<T, space> out) {
        if (in.data != out.data && !in.empty())
            b.copy(out.data, in.data, std::size_t(in.rows) * row_bytes(in));
    }
    template <class T>
    static std::size_t row_bytes(MatrixView<T, space> m) {
        return std::size_t(m.cols) * sizeof(T);
    }
    template <class T>
    static ConstBytes<space> bytes(MatrixView<T const, space> m) {
        return as_bytes(VectorView<T const, space>(m.data, m.rows * m.cols));
    }
    template <class T>
    static Bytes<space> writable_bytes(MatrixView<T, space> m) {
        return as_writable_bytes(VectorView<T, space>(m.data, m.rows * m.cols));
    }

    C comm_;
    Placement placement_;
    detail::ExchangeShape shape_;
    std::vector<index_t> send_counts_, recv_counts_; // [P]
    std::vector<index_t> local_offsets_;             // [L+1]
    std::vector<index_t> table_;
    VectorView<index_t, space> device_table_;
    index_t num_slots_ = 0;
};

} // namespace semoe
