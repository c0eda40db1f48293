#pragma once

#include "semoe/layer/route.hpp"
#include "semoe/layer/shared.hpp"
#include "semoe/ops/fill.hpp"
#include "semoe/ops/gemm.hpp"

namespace semoe::detail {

/// What every rank holds beside its experts: the router and, where there is one, the shared expert
/// and its sigmoid gate.
template <class B, class X, class M, class C>
struct DenseParts {
    using T = typename X::value_type;
    using Real = accumulate_t<T>;
    using S = space_of<B>;
    using Rows = MatrixView<Real, S>;
    using State = ContextState<B, T, C>;

    B& backend;
    X const& expert;
    C& comm;
    LayerBlocks<B, X, M>& blocks;
    index_t num_experts;

    bool sigmoid_gate() const {
        if constexpr (HasSharedExpert<X>)
            return expert.sigmoid_gate;
        else
            return false;
    }
    auto acquire_router() const {
        return blocks.acquire(backend, router_block, BlockKind::weight, Access::read);
    }
    /// The router as rows of H.
    template <class Lease>
    Rows router(Lease const& lease) const {
        return rows(view_as<Real>(lease.bytes())).row_range(0, num_experts);
    }
    /// The row of the shared expert's sigmoid gate.
    template <class Lease>
    Rows shared_gate(Lease const& lease) const {
        return rows(view_as<Real>(lease.bytes())).row_range(num_experts, 1);
    }

    void forward_shared(State& s) const requires HasSharedExpert<X> {
        if (sigmoid_gate()) {
            auto const lease = acquire_router();
            shared_factor(backend, shared_gate(lease), s);
        }
        auto weight = acquire_shared();
        detail::forward_shared(backend, expert.shared, ConstBytes<S>(weight.bytes()), s);
    }
    void backward_shared(MatrixView<T const, S> dy, State& s) const requires HasSharedExpert<X> {
        add_gradient(shared_block, s, [&](VectorView<Real, S> to, bool add) {
            auto weight = acquire_shared();
            detail::backward_shared(backend, expert.shared, ConstBytes<S>(weight.bytes()), to, add,
                                    sigmoid_gate(), dy, s);
        });
    }
    /// From d_logits and the gradient of the sigmoid gate's logit: views.base grows by their part
    /// of dx, the router's block by their gradients.
    void backward_router(State& s) const {
        auto& v = s.views;
        index_t const tokens = s.num_tokens;
        Rows const d_logits = v.d_logits.row_range(0, tokens),
                   d_factor{v.d_shared_factor.data, tokens, 1};
        {
            auto const lease = acquire_router();
            auto const base = v.base.row_range(0, tokens);
            if (!s.routed_outside)
                ops::gemm_nn(backend, d_logits, router(lease), base, s.grow_base());
            if (sigmoid_gate())
                ops::gemm_nn(backend, d_factor, shared_gate(lease), base, s.grow_base());
        }
        add_gradient(router_block, s, [&](VectorView<Real, S> to, bool add) {
            auto const mode = add ? ops::Accumulate::yes : ops::Accumulate::no;
            if (s.routed_outside && !add) ops::fill(backend, to, Real(0));
            if (!s.routed_outside)
                ops::gemm_tn(backend, d_logits, s.dense_x, rows(to).row_range(0, num_experts),
                             mode);
            if (sigmoid_gate())
                ops::gemm_tn(backend, d_factor, s.dense_x, rows(to).row_range(num_experts, 1),
                             mode);
        });
    }

private:
    /// The router's block: a row of H an expert, then one of the sigmoid gate.
    Rows rows(VectorView<Real, S> block) const {
        return {block.data, num_experts + (sigmoid_gate() ? 1 : 0), index_t(expert.hidden)};
    }
    auto acquire_shared() const {
        return blocks.acquire(backend, shared_block, BlockKind::weight, Access::read);
    }
    /// Runs write(to, add), which writes this rank's gradient of a block that all ranks hold, or
    /// adds to it; with several ranks the sum over them is what the block's gradient grows by.
    template <class F>
    void add_gradient(expert_id id, State& s, F&& write) const {
        bool const had = blocks.has_gradient(id);
        index_t const n = blocks.layout(id).primary_elements();
        if (comm.size() == 1) {
            auto lease = blocks.acquire_gradient(backend, id);
            write(view_as<Real>(lease.bytes()).part(0, n), had);
        } else {
            auto const part = s.views.reduced.part(0, n);
            write(part, false);
            comm.all_reduce_sum(backend, part);
            auto lease = blocks.acquire_gradient(backend, id);
            auto const to = view_as<Real>(lease.bytes()).part(0, n);
            backend.parallel_for(n, AddOrCopy<Real>{part.data, had, to.data});
        }
        blocks.set_gradient(id, true);
    }
};

} // namespace semoe::detail
