#pragma once

#include "semoe/backend/buffer.hpp"
#include "semoe/core/rng.hpp"
#include "semoe/expert/concept.hpp"
#include "semoe/testing/contract.hpp"
#include "semoe/testing/detail/transfer.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

namespace semoe::testing {

/// How an expert is to be checked.
struct ExpertCheck {
    std::uint64_t seed = 1;
    /// Elements of a tensor whose gradient is compared with a difference quotient.
    index_t max_differences = 32;
    /// Largest error of a gradient, as a share of the tensor's largest value; 0: 1e-6 for experts
    /// of double, 1e-2 for those of float. Experts of 16 bits have no usable differences.
    double gradient_tolerance = 0;
};

namespace detail {

using Doubles = std::vector<double>; // holds every element type exactly

/// One call of an expert, on the host. Row 0 and the last row belong to nobody.
struct ExpertBatch {
    std::vector<index_t> rows;      ///< of each expert of the group
    std::vector<Doubles> weights;   ///< primary elements of each expert
    Doubles in, d_out;              ///< [2 + sum of rows, H]
    std::vector<Doubles> gradients; ///< what the gradient blocks hold before backward
    ops::GroupMask accumulate = 0;
    bool indexed = false; ///< `in` is handed over in another order, with an index
    bool keep_saved = true;
    bool to_a_taker = false; ///< which writes the gradients to their blocks

    index_t num_rows() const {
        index_t n = 2;
        for (index_t const r : rows) n += r;
        return n;
    }
};
/// What an expert has of this, without rows 0 and last.
struct ExpertAnswer {
    Doubles out, saved, d_in, recomputed;
    std::vector<Doubles> gradients;
};

inline double nan() { return std::numeric_limits<double>::quiet_NaN(); }
inline bool is_nan(double x) { return x != x; }
inline bool all_nan(Doubles const& v) { return std::all_of(v.begin(), v.end(), is_nan); }
/// Equal elements, a NaN and a NaN among them, a zero and a zero of another sign not.
inline bool same_bits(Doubles const& a, Doubles const& b) {
    return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](double x, double y) {
        return x == y ? std::signbit(x) == std::signbit(y) : is_nan(x) && is_nan(y);
    });
}

/// An expert on a backend as the suite sees it.
struct ExpertRun {
    index_t hidden, saved_columns;
    BlockLayout layout;
    bool trains, recomputes, reads_indexed, hands_over = false;
    std::size_t element_bytes;

    virtual ~ExpertRun() = default;
    virtual ExpertAnswer run(ExpertBatch const& batch, bool backward) = 0;
    virtual double rounded(double x) const = 0; ///< to the expert's type

    ExpertRun(index_t h, index_t saved, BlockLayout l, bool differentiable, bool recomputable,
              bool indexed, std::size_t bytes)
      : hidden(h)
      , saved_columns(saved)
      , layout(l)
      , trains(differentiable)
      , recomputes(recomputable)
      , reads_indexed(indexed)
      , element_bytes(bytes) {}
};

template <class To>
To from_double(double x) {
    return convert<To>(accumulate_t<To>(x));
}
template <class T>
std::vector<T> from_doubles(Doubles const& values) {
    std::vector<T> to(values.size());
    std::transform(values.begin(), values.end(), to.begin(), from_double<T>);
    return to;
}
template <class T>
Doubles to_doubles(std::vector<T> const& values) {
    Doubles to(values.size());
    std::transform(values.begin(), values.end(), to.begin(), [](T x) { return double(x); });
    return to;
}

/// Rows of a [rows, cols] matrix, `padding` elements apart, and what is found in them.
struct PaddedRows {
    static constexpr index_t padding = 3;
    index_t rows, cols;

    index_t ld() const { return cols + padding; }
    Doubles padded(Doubles const& dense) const {
        Doubles wide(std::size_t(rows * ld()), nan());
        for (index_t r = 0; r < rows && !dense.empty(); ++r)
            std::copy_n(dense.begin() + r * cols, cols, wide.begin() + r * ld());
        return wide;
    }
    /// What expert rows hold, without row 0 and the last; those and the padding must be NaN still.
    Doubles taken(Doubles const& wide, std::string const& name) const {
        Doubles dense;
        for (index_t r = 0; r < rows; ++r) {
            auto const row = wide.begin() + r * ld();
            bool const foreign = r == 0 || r == rows - 1;
            require(std::all_of(row + (foreign ? 0 : cols), row + ld(), is_nan),
                    "Expert: " + name +
                        (foreign ? " is written in a row of another group"
                                 : " is written past its last column"));
            if (foreign) continue;
            require(std::none_of(row, row + cols, is_nan),
                    "Expert: " + name + ", row " + std::to_string(r - 1) +
                        ", holds a NaN though all inputs are finite: is it written, and nothing "
                        "read that was not?");
            dense.insert(dense.end(), row, row + cols);
        }
        return dense;
    }
};
/// The same in backend memory.
template <class B, class T>
struct PaddedMatrix : PaddedRows {
    Buffer<T, B> memory;

    PaddedMatrix(B& b, index_t r, index_t c, Doubles const& dense = {})
      : PaddedRows{r, c}
      , memory(upload(b, from_doubles<T>(padded(dense)))) {}
    MatrixView<T, space_of<B>> view() const { return {memory.data(), rows, cols, ld()}; }
    Doubles taken(B& b, char const* name) const {
        return PaddedRows::taken(to_doubles(download(b, memory)), name);
    }
};

template <class B, class X>
struct ExpertRunOf final : ExpertRun {
    using T = typename X::value_type;
    using Real = accumulate_t<T>;
    using Matrix = PaddedMatrix<B, T>;
    B& b;
    X const& expert;

    ExpertRunOf(B& backend, X const& x)
      : ExpertRun(index_t(x.hidden), x.saved_columns(), x.layout(backend),
                  DifferentiableExpert<X, B>, RecomputableExpert<X, B>,
                  reads_indexed_rows(x, backend), sizeof(T))
      , b(backend)
      , expert(x) {
        if constexpr (may_hand_over) hands_over = x.hands_over_gradients(backend, 5);
    }

    double rounded(double x) const override { return double(from_double<T>(x)); }

    ExpertAnswer run(ExpertBatch const& batch, bool backward) override {
        index_t const R = batch.num_rows(), H = hidden, A = saved_columns;
        std::vector<Buffer<T, B>> blocks;
        std::vector<Buffer<Real, B>> gradient_blocks;
        ops::Group<std::byte const> weights;
        ops::Group<std::byte> gradients;
        index_t first = 1;
        for (std::size_t e = 0; e < batch.rows.size(); ++e) {
            auto block = batch.weights[e];
            block.resize(std::size_t(layout.elements()), nan());
            blocks.push_back(upload(b, from_doubles<T>(block)));
            if constexpr (HasDerivedSlices<X, B>)
                expert.rebuild_derived(b, as_writable_bytes(blocks.back().view()));
            gradient_blocks.push_back(upload(b, from_doubles<Real>(batch.gradients[e])));
            weights.add(first, batch.rows[e],
                        reinterpret_cast<std::byte const*>(blocks.back().data()));
            gradients.add(first, batch.rows[e],
                          reinterpret_cast<std::byte*>(gradient_blocks.back().data()));
            first += batch.rows[e];
        }
        std::vector<index_t> order;
        for (index_t r = 0; r < R && batch.indexed; ++r) order.push_back(R - 1 - r);
        auto const places = upload(b, order);
        VectorView<index_t const, space_of<B>> const index{order.empty() ? nullptr : places.data(),
                                                           index_t(order.size())};
        Matrix const in(b, R, H, batch.indexed ? reversed(batch.in) : batch.in), out(b, R, H),
            saved(b, R, A), scratch(b, R, expert.scratch_columns());
        expert.forward_grouped(b, weights,
                               ExpertRows<T, space_of<B>>{in.view(), out.view(), saved.view(),
                                                          scratch.view(), batch.keep_saved, index});
        ExpertAnswer answer{out.taken(b, "out"), {}, {}, {}, {}};
        if (batch.keep_saved) answer.saved = saved.taken(b, "saved");
        if constexpr (DifferentiableExpert<X, B>) {
            if (backward) {
                Matrix const d_out(b, R, H, batch.d_out), d_in(b, R, H),
                    wide(b, R, expert.backward_scratch_columns());
                ExpertGradientRows<T, space_of<B>> const rows{
                    in.view(), saved.view(), d_out.view(), d_in.view(), wide.view(), index};
                if (!batch.to_a_taker)
                    expert.backward_grouped(b, weights, gradients, batch.accumulate, rows);
                else if constexpr (may_hand_over)
                    expert.backward_grouped(b, weights, WriteTaken{gradients}, rows);
                answer.d_in = d_in.taken(b, "d_in");
                for (auto const& block : gradient_blocks)
                    answer.gradients.push_back(to_doubles(download(b, block)));
            }
        }
        if constexpr (RecomputableExpert<X, B>) {
            if (!backward) return answer;
            Matrix const again(b, R, A), fresh(b, R, expert.scratch_columns());
            IndexedRows<T const, space_of<B>> const x(in.view(), index);
            if constexpr (HasIndexedRows<X, B>)
                expert.recompute_grouped(b, weights, x, again.view(), fresh.view());
            else
                expert.recompute_grouped(b, weights, x.all, again.view(), fresh.view());
            answer.recomputed = again.taken(b, "saved, as recomputed,");
        }
        return answer;
    }

private:
    static constexpr bool may_hand_over =
        DifferentiableExpert<X, B> && HandsOverGradients<X, B> && host_reachable<B>;

    struct WriteTaken {
        ops::Group<std::byte> blocks;
        void operator()(int i, index_t first, VectorView<float const, HostSpace> values) const {
            auto* const to = reinterpret_cast<float*>(blocks.block[i]) + first;
            for (index_t n = 0; n < values.size; ++n) to[n] = values[n];
        }
    };
    /// The last row first.
    Doubles reversed(Doubles const& rows) const {
        Doubles last_first;
        for (auto end = rows.end(); end != rows.begin(); end -= hidden)
            last_first.insert(last_first.end(), end - hidden, end);
        return last_first;
    }
};

class ExpertSuite {
public:
    ExpertSuite(ExpertRun& expert, ExpertCheck const& check)
      : expert_(expert)
      , check_(check)
      , batch_(random_batch({3, 0, 5, 1}))
      , whole_(expert_.run(batch_, expert_.trains)) {}

    void run() {
        repeated();
        no_rows();
        rows_alone();
        experts_alone();
        experts_reversed();
        rows_by_index();
        nothing_saved();
        gradients_handed_over();
        recomputed();
        if (!expert_.trains) return;
        gradients_overwritten_or_added_to();
        if (expert_.element_bytes > 2) gradients_by_differences();
    }

private:
    using Batch = ExpertBatch;
    using Answer = ExpertAnswer;

    bool is_double() const { return expert_.element_bytes == sizeof(double); }

    /// Uniform in [-bound, bound), of the expert's type.
    double draw(index_t stream, index_t i, double bound) const {
        double const u = random_uniform<double>(RngKey{check_.seed}, i, stream);
        return expert_.rounded((2 * u - 1) * bound);
    }
    Doubles draw_values(index_t stream, index_t n) const {
        Doubles values;
        for (index_t i = 0; i < n; ++i) values.push_back(draw(stream, i, 1.7));
        return values;
    }
    Batch random_batch(std::vector<index_t> rows) const {
        Batch batch;
        batch.rows = std::move(rows);
        index_t const n = batch.num_rows() * expert_.hidden;
        std::size_t const primary = std::size_t(expert_.layout.primary_elements());
        batch.in = draw_values(0, n);
        batch.d_out = draw_values(1, n);
        for (std::size_t e = 0; e < batch.rows.size(); ++e) {
            Doubles block(primary, nan());
            for (Slice const& s : expert_.layout)
                for (index_t i = 0; !s.derived && i < s.elements; ++i)
                    block[std::size_t(s.offset + i)] =
                        draw(2 + index_t(e), s.offset + i,
                             s.rows == 1 ? 1 : std::sqrt(3.0 / double(s.cols)));
            batch.weights.push_back(std::move(block));
            batch.gradients.emplace_back(primary, nan());
        }
        return batch;
    }
    index_t first_row(std::size_t e) const {
        index_t n = 0;
        for (std::size_t i = 0; i < e; ++i) n += batch_.rows[i];
        return n;
    }
    /// The rows [first, first + count) of expert e in a matrix whose row 0 is expert 0's first.
    Doubles rows_of(Doubles const& matrix, index_t columns, std::size_t e, index_t first,
                    index_t count) const {
        if (matrix.empty()) return {};
        auto const begin = matrix.begin() + (first_row(e) + first) * columns;
        return {begin, begin + count * columns};
    }
    /// Those rows of some experts, in that order, as a batch of their own.
    Batch part(std::vector<std::size_t> const& experts, index_t first, index_t count) const {
        index_t const H = expert_.hidden;
        Batch batch;
        Doubles const foreign(std::size_t(H), nan());
        batch.in = batch.d_out = foreign;
        for (std::size_t const e : experts) {
            index_t const n = std::min(count, batch_.rows[e] - first);
            batch.rows.push_back(n);
            batch.weights.push_back(batch_.weights[e]);
            batch.gradients.push_back(batch_.gradients[e]);
            append(batch.in, rows_of(batch_.in, H, e, first + 1, n));
            append(batch.d_out, rows_of(batch_.d_out, H, e, first + 1, n));
        }
        append(batch.in, foreign);
        append(batch.d_out, foreign);
        return batch;
    }
    static void append(Doubles& to, Doubles const& values) {
        to.insert(to.end(), values.begin(), values.end());
    }
    /// Runs a part and compares it with the whole.
    void require_same(std::vector<std::size_t> const& experts, index_t first, index_t count,
                      std::string const& promise, bool indexed = false) const {
        Batch batch = part(experts, first, count);
        batch.indexed = indexed;
        Answer const a = expert_.run(batch, expert_.trains);
        auto const require_matrix = [&](char const* name, Doubles const& found,
                                        Doubles const& whole, index_t columns) {
            Doubles expected;
            for (std::size_t i = 0; i < experts.size(); ++i)
                append(expected, rows_of(whole, columns, experts[i], first, batch.rows[i]));
            require(same_bits(found, expected), "Expert: " + promise + ": " + name);
        };
        require_matrix("out", a.out, whole_.out, expert_.hidden);
        require_matrix("saved", a.saved, whole_.saved, expert_.saved_columns);
        require_matrix("d_in", a.d_in, whole_.d_in, expert_.hidden);
        require_matrix("recomputed", a.recomputed, whole_.recomputed, expert_.saved_columns);
        for (std::size_t i = 0; i < a.gradients.size(); ++i)
            if (batch.rows[i] == batch_.rows[experts[i]])
                require(same_bits(a.gradients[i], whole_.gradients[experts[i]]),
                        "Expert: " + promise + ": gradient");
    }

    void repeated() const { require_same({0, 1, 2, 3}, 0, 99, "the same input, the same bits"); }
    void rows_alone() const {
        for (std::size_t e = 0; e < batch_.rows.size(); ++e)
            for (index_t r = 0; r < batch_.rows[e]; ++r)
                require_same({e}, r, 1,
                             "a row gives the same bits alone and among others (row " +
                                 std::to_string(first_row(e) + r) + ")");
    }
    void experts_alone() const {
        for (std::size_t e = 0; e < batch_.rows.size(); ++e)
            require_same({e}, 0, 99,
                         "an expert gives the same bits alone and in a group (expert " +
                             std::to_string(e) + ")");
    }
    void experts_reversed() const {
        require_same({3, 2, 1, 0}, 0, 99, "the order of a group's experts changes no bit");
    }
    void rows_by_index() const {
        if (expert_.reads_indexed)
            require_same({0, 1, 2, 3}, 0, 99, "an index changes no bit", true);
    }
    void nothing_saved() const {
        Batch batch = batch_;
        batch.keep_saved = false;
        require(same_bits(expert_.run(batch, false).out, whole_.out),
                "Expert: without keep_saved out has the same bits");
    }
    void gradients_handed_over() const {
        if (!expert_.hands_over) return;
        Batch batch = batch_;
        batch.to_a_taker = true;
        Answer const a = expert_.run(batch, true);
        require(same_bits(a.d_in, whole_.d_in), "Expert: a taker changes no bit of d_in");
        for (std::size_t e = 0; e < batch.rows.size(); ++e)
            require(same_bits(a.gradients[e], whole_.gradients[e]),
                    "Expert: a taker gets the bits that blocks would hold");
    }
    void no_rows() const {
        for (std::size_t const experts : {0u, 1u, 3u}) {
            Answer const a =
                expert_.run(random_batch(std::vector<index_t>(experts)), expert_.trains);
            require(a.out.empty(), "Expert: a group without rows is ordinary");
            for (Doubles const& gradient : a.gradients)
                require(all_nan(gradient),
                        "Expert: a group without rows leaves all gradients alone");
        }
    }
    void recomputed() const {
        if (expert_.recomputes)
            require(same_bits(whole_.recomputed, whole_.saved),
                    "Expert: recompute_grouped gives the bits that forward saved");
    }
    void gradients_overwritten_or_added_to() const {
        Batch batch = batch_;
        for (std::size_t e = 0; e < batch.rows.size(); ++e) {
            Doubles const& g = whole_.gradients[e];
            if (batch.rows[e] == 0)
                require(all_nan(g), "Expert: an expert without rows has its gradient left alone");
            else
                require(std::none_of(g.begin(), g.end(), is_nan),
                        "Expert: where the mask is clear, the whole gradient is written and "
                        "nothing of it read");
            if (e % 2) continue;
            batch.gradients[e] = draw_values(100, index_t(g.size()));
            batch.accumulate |= 1u << e;
        }
        Answer const a = expert_.run(batch, true);
        for (std::size_t e = 0; e < batch.rows.size(); ++e) {
            Doubles const &before = batch.gradients[e], &fresh = whole_.gradients[e];
            if (e % 2) {
                require(same_bits(a.gradients[e], fresh),
                        "Expert: the mask's bits stand for the experts of the group in order");
                continue;
            }
            double const tolerance = (is_double() ? 1e-13 : 1e-5) * largest(fresh);
            for (std::size_t i = 0; i < fresh.size(); ++i)
                require(std::abs(a.gradients[e][i] - before[i] - fresh[i]) <= tolerance,
                        "Expert: where the mask is set, the gradient is added to what is there "
                        "(element " +
                            std::to_string(i) + ")");
        }
    }
    static double largest(Doubles const& values) {
        double most = 1e-3;
        for (double const x : values) most = std::max(most, std::abs(x));
        return most;
    }

    /// Compares the gradient of sum(out * d_out) by `values`, rows of so many columns from `first`
    /// on, with central differences. Elements within a step of a kink, where the one-sided slopes
    /// differ, say nothing and are passed over; half of all must say something.
    void differences(std::string const& name, Batch& batch, Doubles& values, index_t first,
                     index_t columns, Doubles const& gradient) const {
        index_t const n = index_t(gradient.size());
        double const step = is_double() ? 1e-7 : 0x1p-7;
        double const tolerance =
            largest(gradient) * (check_.gradient_tolerance > 0 ? check_.gradient_tolerance
                                 : is_double()                 ? 1e-6
                                                               : 1e-2);
        index_t stride = std::max<index_t>(1, n / check_.max_differences);
        while (std::gcd(stride, columns) > 1) ++stride; // so that every column has its turn
        index_t tried = 0, usable = 0;
        for (index_t i = 0; i < n; i += stride, ++tried) {
            double& value = values[std::size_t(first + i)];
            double const old = value, h = expert_.rounded(old + step) - old;
            value = old + h;
            Doubles const above = expert_.run(batch, false).out;
            value = old - h;
            Doubles const below = expert_.run(batch, false).out;
            value = old;
            double rise = 0, fall = 0; // the slopes to either side
            for (std::size_t j = 0; j < above.size(); ++j) {
                double const d = batch.d_out[std::size_t(expert_.hidden) + j] / h;
                rise += d * (above[j] - whole_.out[j]);
                fall += d * (whole_.out[j] - below[j]);
            }
            if (std::abs(rise - fall) > tolerance) continue;
            ++usable;
            double const slope = (rise + fall) / 2, found = gradient[std::size_t(i)];
            require(std::abs(slope - found) <= tolerance,
                    "Expert: the gradient of " + name + " is " + std::to_string(found) +
                        " at element " + std::to_string(i) + ", central differences give " +
                        std::to_string(slope));
        }
        require(2 * usable >= tried, "Expert: too many kinks near this seed's values to check the "
                                     "gradient of " +
                                         name + "; take another seed or tolerance");
    }
    void gradients_by_differences() const {
        Batch batch = batch_;
        differences("in", batch, batch.in, expert_.hidden, expert_.hidden, whole_.d_in);
        for (std::size_t e = 0; e < batch.rows.size(); ++e)
            for (Slice const& s : expert_.layout) {
                if (s.derived || batch.rows[e] == 0) continue;
                auto const begin = whole_.gradients[e].begin() + s.offset;
                differences(s.name, batch, batch.weights[e], s.offset, s.cols,
                            {begin, begin + s.elements});
            }
    }

    ExpertRun& expert_;
    ExpertCheck check_;
    Batch batch_;
    Answer whole_;
};

} // namespace detail

/// The contract of semoe/expert/concept.hpp, checked on one backend: rows do not depend on one
/// another or on the group, bit for bit; rows and columns of others are left alone; groups and
/// experts without rows are ordinary; what is not saved changes nothing; and, as far as the expert
/// has them, recompute gives the bits that were saved, an index in place of copied rows changes no
/// bit, gradients are written or added to as the mask says and agree with central differences (an
/// expert of double within 1e-6 of the tensor's largest value).
/// @param expert  of any shape; small ones are quick: one call of the expert a difference
/// @throws contract_violation with the promise that is broken
/// @sync waits
template <class B, class X>
void check_expert(B& b, X const& expert, ExpertCheck const& check = {}) {
    static_assert(HasExpertShape<X>, "check_expert: the expert lacks value_type or hidden; see "
                                     "semoe/expert/concept.hpp");
    static_assert(HasExpertLayout<X, B>, "check_expert: the expert lacks layout(backend), "
                                         "saved_columns() or scratch_columns(); see "
                                         "semoe/expert/concept.hpp");
    static_assert(HasForwardGrouped<X, B>,
                  "check_expert: the expert lacks forward_grouped(backend, "
                  "weights, rows); see semoe/expert/concept.hpp");
    detail::ExpertRunOf<B, X> run(b, expert);
    detail::ExpertSuite(run, check).run();
}

} // namespace semoe::testing
