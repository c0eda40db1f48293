#pragma once

#include "semoe/backend/buffer.hpp"
#include "semoe/core/rng.hpp"
#include "semoe/expert/concept.hpp"
#include "semoe/testing/contract.hpp"
#include "semoe/testing/detail/transfer.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

namespace semoe::testing {

/// How an expert is to be checked.
struct ExpertCheck {
    std::uint64_t seed = 1;
    /// Elements of a tensor whose gradient is compared with a difference quotient.
    index_t max_differences = 48;
    /// Largest error of a gradient, as a share of the tensor's largest value; 0: 1e-6 for experts
    /// of double, 1e-2 for those of float. Experts of 16 bits have no usable differences.
    double gradient_tolerance = 0;
};

namespace detail {

/// One call of an expert, on the host. Row 0 and the last row belong to nobody.
template <class T>
struct ExpertBatch {
    using Real = accumulate_t<T>;
    std::vector<index_t> rows;                ///< of each expert of the group
    std::vector<std::vector<T>> weights;      ///< primary elements of each expert
    std::vector<T> in, d_out;                 ///< [2 + sum of rows, H]
    std::vector<std::vector<Real>> gradients; ///< what the gradient blocks hold before backward
    ops::GroupMask accumulate = 0;

    index_t num_rows() const {
        index_t n = 2;
        for (index_t const r : rows) n += r;
        return n;
    }
};
template <class T>
struct ExpertAnswer {
    std::vector<T> out, saved, d_in, recomputed; ///< [R,...] as far as the expert has them
    std::vector<std::vector<accumulate_t<T>>> gradients;
};

template <class T>
bool is_nan(T x) {
    return !(convert<accumulate_t<T>>(x) == convert<accumulate_t<T>>(x));
}
template <class T>
T nan_of() {
    return convert<T>(std::numeric_limits<accumulate_t<T>>::quiet_NaN());
}
template <class T>
bool same_bits(std::vector<T> const& a, std::vector<T> const& b) {
    return a.size() == b.size() &&
           (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

/// An expert on a backend as the suite sees it.
template <class T>
struct ExpertRun {
    index_t hidden, saved_columns;
    BlockLayout layout;
    bool trains, recomputes;

    virtual ~ExpertRun() = default;
    virtual ExpertAnswer<T> run(ExpertBatch<T> const& batch, bool backward) = 0;

    ExpertRun(index_t h, index_t saved, BlockLayout l, bool differentiable, bool recomputable)
      : hidden(h)
      , saved_columns(saved)
      , layout(l)
      , trains(differentiable)
      , recomputes(recomputable) {}
};

/// A [rows, cols] matrix in backend memory whose rows lie apart.
template <class B, class T>
struct PaddedMatrix {
    static constexpr index_t padding = 3;
    index_t rows, cols;
    Buffer<T, B> memory;

    PaddedMatrix(B& b, index_t r, index_t c, std::vector<T> const& dense)
      : rows(r)
      , cols(c) {
        std::vector<T> wide(std::size_t(rows * (cols + padding)), nan_of<T>());
        for (index_t i = 0; i < rows; ++i)
            std::copy_n(dense.begin() + i * cols, cols, wide.begin() + i * (cols + padding));
        memory = upload(b, wide);
    }
    PaddedMatrix(B& b, index_t r, index_t c)
      : PaddedMatrix(b, r, c, std::vector<T>(std::size_t(r * c), nan_of<T>())) {}

    MatrixView<T, space_of<B>> view() const { return {memory.data(), rows, cols, cols + padding}; }
    /// What expert rows hold, without row 0 and the last; those and the padding must be NaN still.
    std::vector<T> taken(B& b, char const* name) const {
        auto const wide = download(b, memory);
        std::vector<T> dense;
        for (index_t r = 0; r < rows; ++r) {
            auto const row = wide.begin() + r * (cols + padding);
            bool const foreign = r == 0 || r == rows - 1;
            require(std::all_of(row + (foreign ? 0 : cols), row + cols + padding, is_nan<T>),
                    std::string("Expert: ") + name +
                        (foreign ? " is written in a row of another group"
                                 : " is written past its last column"));
            if (foreign) continue;
            require(std::none_of(row, row + cols, is_nan<T>),
                    std::string("Expert: ") + name + ", row " + std::to_string(r - 1) +
                        ", holds a NaN though all inputs are finite: is it written, and nothing "
                        "read that was not?");
            dense.insert(dense.end(), row, row + cols);
        }
        return dense;
    }
};

template <class B, class X>
struct ExpertRunOf final : ExpertRun<typename X::value_type> {
    using T = typename X::value_type;
    using Real = accumulate_t<T>;
    B& b;
    X const& expert;

    ExpertRunOf(B& backend, X const& x)
      : ExpertRun<T>(index_t(x.hidden), x.saved_columns(), x.layout(backend),
                     DifferentiableExpert<X, B>, RecomputableExpert<X, B>)
      , b(backend)
      , expert(x) {}

    ExpertAnswer<T> run(ExpertBatch<T> const& batch, bool backward) override {
        using Matrix = PaddedMatrix<B, T>;
        index_t const R = batch.num_rows(), H = this->hidden, A = this->saved_columns;
        std::vector<Buffer<T, B>> blocks;
        std::vector<Buffer<Real, B>> gradient_blocks;
        ops::Group<std::byte const> weights;
        ops::Group<std::byte> gradients;
        index_t first = 1;
        for (std::size_t e = 0; e < batch.rows.size(); ++e) {
            auto block = batch.weights[e];
            block.resize(std::size_t(this->layout.elements()), nan_of<T>());
            blocks.push_back(upload(b, block));
            if constexpr (HasDerivedSlices<X, B>)
                expert.rebuild_derived(b, as_writable_bytes(blocks.back().view()));
            gradient_blocks.push_back(upload(b, batch.gradients[e]));
            weights.add(first, batch.rows[e],
                        reinterpret_cast<std::byte const*>(blocks.back().data()));
            gradients.add(first, batch.rows[e],
                          reinterpret_cast<std::byte*>(gradient_blocks.back().data()));
            first += batch.rows[e];
        }
        Matrix const in(b, R, H, batch.in), out(b, R, H), saved(b, R, A),
            scratch(b, R, expert.scratch_columns());
        expert.forward_grouped(
            b, weights,
            ExpertRows<T, space_of<B>>{in.view(), out.view(), saved.view(), scratch.view()});
        ExpertAnswer<T> answer{out.taken(b, "out"), saved.taken(b, "saved"), {}, {}, {}};
        if constexpr (DifferentiableExpert<X, B>) {
            if (backward) {
                Matrix const d_out(b, R, H, batch.d_out), d_in(b, R, H),
                    wide(b, R, expert.backward_scratch_columns());
                expert.backward_grouped(
                    b, weights, gradients, batch.accumulate,
                    ExpertGradientRows<T, space_of<B>>{in.view(), saved.view(), d_out.view(),
                                                       d_in.view(), wide.view()});
                answer.d_in = d_in.taken(b, "d_in");
                for (auto const& block : gradient_blocks)
                    answer.gradients.push_back(download(b, block));
            }
        }
        if constexpr (RecomputableExpert<X, B>) {
            Matrix const again(b, R, A), fresh(b, R, expert.scratch_columns());
            expert.recompute_grouped(b, weights, in.view(), again.view(), fresh.view());
            answer.recomputed = again.taken(b, "saved, as recomputed,");
        }
        return answer;
    }
};

template <class T>
class ExpertSuite {
public:
    ExpertSuite(ExpertRun<T>& expert, ExpertCheck const& check)
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
        recomputed();
        if (!expert_.trains) return;
        gradients_overwritten_or_added_to();
        if constexpr (sizeof(T) > 2) gradients_by_differences();
    }

private:
    using Real = accumulate_t<T>;
    using Batch = ExpertBatch<T>;
    using Answer = ExpertAnswer<T>;

    /// Uniform in [-bound, bound).
    T draw(index_t stream, index_t i, double bound) const {
        double const u = random_uniform<double>(RngKey{check_.seed}, i, stream);
        return convert<T>(Real((2 * u - 1) * bound));
    }
    std::vector<T> draw_values(index_t stream, index_t n) const {
        std::vector<T> values;
        for (index_t i = 0; i < n; ++i) values.push_back(draw(stream, i, 1.7));
        return values;
    }
    Batch random_batch(std::vector<index_t> rows) const {
        Batch batch;
        batch.rows = std::move(rows);
        index_t const n = batch.num_rows() * expert_.hidden,
                      primary = expert_.layout.primary_elements();
        batch.in = draw_values(0, n);
        batch.d_out = draw_values(1, n);
        for (std::size_t e = 0; e < batch.rows.size(); ++e) {
            std::vector<T> block(std::size_t(primary), nan_of<T>());
            for (Slice const& s : expert_.layout)
                for (index_t i = 0; !s.derived && i < s.elements; ++i)
                    block[std::size_t(s.offset + i)] =
                        draw(2 + index_t(e), s.offset + i,
                             s.rows == 1 ? 1 : std::sqrt(3.0 / double(s.cols)));
            batch.weights.push_back(std::move(block));
            batch.gradients.emplace_back(std::size_t(primary), nan_of<Real>());
        }
        return batch;
    }
    /// The rows [first, first + count) of expert e as a batch of its own.
    Batch part(std::size_t e, index_t first, index_t count) const {
        Batch one;
        one.rows = {count};
        one.weights = {batch_.weights[e]};
        one.gradients = {batch_.gradients[e]};
        index_t const begin = 1 + first_row(e) + first;
        for (auto const& [from, to] :
             {std::pair{&batch_.in, &one.in}, std::pair{&batch_.d_out, &one.d_out}}) {
            to->assign(std::size_t((count + 2) * expert_.hidden), nan_of<T>());
            std::copy_n(from->begin() + begin * expert_.hidden, count * expert_.hidden,
                        to->begin() + expert_.hidden);
        }
        return one;
    }
    index_t first_row(std::size_t e) const {
        index_t n = 0;
        for (std::size_t i = 0; i < e; ++i) n += batch_.rows[i];
        return n;
    }
    /// Rows of expert e in a matrix of the whole batch's answer.
    std::vector<T> rows_of(std::vector<T> const& matrix, index_t columns, std::size_t e,
                           index_t first, index_t count) const {
        if (matrix.empty()) return {};
        auto const begin = matrix.begin() + (first_row(e) + first) * columns;
        return {begin, begin + count * columns};
    }
    void require_rows(Answer const& a, std::size_t e, index_t first, index_t count,
                      std::string const& promise) const {
        index_t const H = expert_.hidden;
        require(same_bits(a.out, rows_of(whole_.out, H, e, first, count)), promise + ": out");
        require(same_bits(a.saved, rows_of(whole_.saved, expert_.saved_columns, e, first, count)),
                promise + ": saved");
        require(same_bits(a.d_in, rows_of(whole_.d_in, H, e, first, count)), promise + ": d_in");
    }

    void repeated() const {
        auto const again = expert_.run(batch_, expert_.trains);
        bool same = same_bits(again.out, whole_.out) && same_bits(again.d_in, whole_.d_in);
        for (std::size_t e = 0; e < whole_.gradients.size(); ++e)
            same = same && same_bits(again.gradients[e], whole_.gradients[e]);
        require(same, "Expert: the same input gives the same bits");
    }
    void no_rows() const {
        for (auto const& rows :
             {std::vector<index_t>{}, std::vector<index_t>{0}, std::vector<index_t>{0, 0}}) {
            auto const a = expert_.run(random_batch(rows), expert_.trains);
            require(a.out.empty(), "Expert: a group without rows is ordinary");
            for (auto const& gradient : a.gradients)
                require(std::all_of(gradient.begin(), gradient.end(), is_nan<Real>),
                        "Expert: a group without rows leaves all gradients alone");
        }
    }
    void rows_alone() const {
        for (std::size_t e = 0; e < batch_.rows.size(); ++e)
            for (index_t r = 0; r < batch_.rows[e]; ++r)
                require_rows(expert_.run(part(e, r, 1), expert_.trains), e, r, 1,
                             "Expert: a row gives the same bits alone and among others (row " +
                                 std::to_string(first_row(e) + r) + ")");
    }
    void experts_alone() const {
        for (std::size_t e = 0; e < batch_.rows.size(); ++e) {
            std::string const promise = "Expert: an expert gives the same bits alone and in a "
                                        "group (expert " +
                                        std::to_string(e) + ")";
            auto const a = expert_.run(part(e, 0, batch_.rows[e]), expert_.trains);
            require_rows(a, e, 0, batch_.rows[e], promise);
            if (expert_.trains)
                require(same_bits(a.gradients[0], whole_.gradients[e]), promise + ": gradient");
        }
    }
    void experts_reversed() const {
        Batch reversed;
        std::vector<T> const foreign(std::size_t(expert_.hidden), nan_of<T>());
        reversed.in = reversed.d_out = foreign;
        for (std::size_t e = batch_.rows.size(); e-- > 0;) {
            auto const one = part(e, 0, batch_.rows[e]);
            reversed.rows.push_back(one.rows[0]);
            reversed.weights.push_back(one.weights[0]);
            reversed.gradients.push_back(one.gradients[0]);
            reversed.in.insert(reversed.in.end(), one.in.begin() + expert_.hidden,
                               one.in.end() - expert_.hidden);
            reversed.d_out.insert(reversed.d_out.end(), one.d_out.begin() + expert_.hidden,
                                  one.d_out.end() - expert_.hidden);
        }
        reversed.in.insert(reversed.in.end(), foreign.begin(), foreign.end());
        reversed.d_out.insert(reversed.d_out.end(), foreign.begin(), foreign.end());
        auto const a = expert_.run(reversed, expert_.trains);
        std::vector<T> out;
        for (std::size_t e = batch_.rows.size(); e-- > 0;) {
            auto const rows = rows_of(whole_.out, expert_.hidden, e, 0, batch_.rows[e]);
            out.insert(out.end(), rows.begin(), rows.end());
        }
        require(same_bits(a.out, out), "Expert: the order of a group's experts changes no bit");
        for (std::size_t e = 0; e < a.gradients.size(); ++e)
            require(same_bits(a.gradients[e], whole_.gradients[batch_.rows.size() - 1 - e]),
                    "Expert: the order of a group's experts changes no bit of a gradient");
    }
    void recomputed() const {
        if (expert_.recomputes)
            require(same_bits(whole_.recomputed, whole_.saved),
                    "Expert: recompute_grouped gives the bits that forward saved");
    }
    void gradients_overwritten_or_added_to() const {
        Batch batch = batch_;
        for (std::size_t e = 0; e < batch.rows.size(); ++e) {
            bool const untouched = batch.rows[e] == 0;
            auto const& g = whole_.gradients[e];
            require(std::all_of(g.begin(), g.end(),
                                [=](Real x) { return is_nan<Real>(x) == untouched; }),
                    untouched ? "Expert: an expert without rows has its gradient left alone"
                              : "Expert: where the mask is clear, the whole gradient is written "
                                "and nothing of it read");
            for (std::size_t i = 0; i < g.size(); ++i)
                batch.gradients[e][i] =
                    e % 2 ? nan_of<Real>() : convert<Real>(draw(100, index_t(i), 1));
            if (e % 2 == 0) batch.accumulate |= 1u << e;
        }
        auto const a = expert_.run(batch, true);
        double const tolerance = std::is_same_v<Real, double> ? 1e-13 : 1e-5;
        for (std::size_t e = 0; e < batch.rows.size(); ++e) {
            auto const &was = batch.gradients[e], &fresh = whole_.gradients[e];
            if (e % 2 || batch.rows[e] == 0) {
                require(same_bits(a.gradients[e], fresh),
                        "Expert: the mask's bits stand for the experts of the group in order");
                continue;
            }
            double scale = 1;
            for (Real const x : fresh) scale = std::max(scale, std::abs(double(x)));
            for (std::size_t i = 0; i < fresh.size(); ++i)
                require(std::abs(double(a.gradients[e][i]) - double(was[i]) - double(fresh[i])) <=
                            tolerance * scale,
                        "Expert: where the mask is set, the gradient is added to what is there "
                        "(element " +
                            std::to_string(i) + ")");
        }
    }

    /// Compares the gradient of sum(out * d_out) by `values` with central differences. Elements
    /// within a step of a kink, where the two one-sided slopes differ, say nothing and are passed
    /// over; half of all must say something.
    void differences(std::string const& name, Batch& batch, T* values, index_t n,
                     auto const& gradient) const {
        bool const fine = std::is_same_v<Real, double>;
        double const step = fine ? 1e-7 : 0x1p-7;
        double const tolerance = check_.gradient_tolerance > 0 ? check_.gradient_tolerance
                                 : fine                        ? 1e-6
                                                               : 1e-2;
        double scale = 0;
        for (index_t i = 0; i < n; ++i) scale = std::max(scale, std::abs(double(gradient[i])));
        if (scale == 0) scale = 1;
        index_t const stride = std::max<index_t>(1, n / check_.max_differences);
        index_t tried = 0, usable = 0;
        for (index_t i = 0; i < n; i += stride, ++tried) {
            T const old = values[i];
            values[i] = T(double(old) + step);
            double const h = double(values[i]) - double(old);
            auto const above = expert_.run(batch, false).out;
            values[i] = T(double(old) - h);
            auto const below = expert_.run(batch, false).out;
            values[i] = old;
            double slope_above = 0, slope_below = 0;
            for (std::size_t j = 0; j < above.size(); ++j) {
                double const d = double(batch.d_out[std::size_t(expert_.hidden) + j]) / h;
                slope_above += d * (double(above[j]) - double(whole_.out[j]));
                slope_below += d * (double(whole_.out[j]) - double(below[j]));
            }
            if (std::abs(slope_above - slope_below) > tolerance * scale) continue;
            ++usable;
            double const slope = (slope_above + slope_below) / 2;
            require(std::abs(slope - double(gradient[i])) <= tolerance * scale,
                    "Expert: the gradient of " + name + " is " +
                        std::to_string(double(gradient[i])) + " at element " + std::to_string(i) +
                        ", central differences give " + std::to_string(slope));
        }
        require(2 * usable >= tried, "Expert: too many kinks near this seed's values to check the "
                                     "gradient of " +
                                         name + "; take another seed or a tolerance");
    }
    void gradients_by_differences() const {
        Batch batch = batch_;
        index_t const H = expert_.hidden;
        differences("in", batch, batch.in.data() + H, index_t(whole_.d_in.size()),
                    whole_.d_in.data());
        for (std::size_t e = 0; e < batch.rows.size(); ++e) {
            if (batch.rows[e] == 0) continue;
            for (Slice const& s : expert_.layout)
                if (!s.derived)
                    differences(s.name, batch, batch.weights[e].data() + s.offset, s.elements,
                                whole_.gradients[e].data() + s.offset);
        }
    }

    ExpertRun<T>& expert_;
    ExpertCheck check_;
    Batch batch_;
    Answer whole_;
};

} // namespace detail

/// The contract of semoe/expert/concept.hpp, checked on one backend: rows do not depend on one
/// another or on the group, bit for bit; rows and columns of others are left alone; groups and
/// experts without rows are ordinary; and, as far as the expert has them, recompute gives the bits
/// that were saved, gradients are written or added to as the mask says and agree with central
/// differences (an expert of double within 1e-6 of the tensor's largest value).
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
    detail::ExpertSuite<typename X::value_type>(run, check).run();
}

} // namespace semoe::testing
