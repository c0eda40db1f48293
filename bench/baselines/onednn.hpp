#pragma once

#include "baselines/baseline.hpp"
#include "baselines/memory.hpp"

#include <cstring>
#include <map>
#include <omp.h>
#include <oneapi/dnnl/dnnl.hpp>
#include <type_traits>

namespace bench {

/// oneDNN's matmul on weights in the order that it asks for, gate_proj and up_proj as one matrix.
template <class T>
class OneDnnProducts {
public:
    static constexpr bool trains = true;

    /// Whether oneDNN multiplies this type here: bf16 wants AVX-512.
    static bool is_available() {
        try {
            dnnl::engine const engine(dnnl::engine::kind::cpu, 0);
            (void)description(engine, 16, 64, 64);
            return true;
        } catch (dnnl::error const&) {
            return false;
        }
    }
    OneDnnProducts(Shape const& shape, std::vector<LayerWeights<T>> const& layers,
                   BaselineOptions const& options)
      : H_(shape.hidden)
      , I_(shape.intermediate)
      , num_experts_(shape.num_experts)
      , engine_(dnnl::engine::kind::cpu, 0)
      , stream_(engine_) {
        omp_set_num_threads(options.threads);
        std::vector<T> plain(std::size_t(2 * I_ * H_));
        for (LayerWeights<T> const& layer : layers)
            for (ExpertWeights<T> const& w : layer) {
                copy_rows(w.gate, plain.data());
                copy_rows(w.up, plain.data() + I_ * H_);
                gate_up_.add(*this, plain.data(), 2 * I_, H_, options.training);
                copy_rows(w.down, plain.data());
                down_.add(*this, plain.data(), H_, I_, options.training);
            }
    }

    char const* name() const { return "oneDNN"; }
    bool takes(index_t) const { return true; }
    void prepare(index_t m) {
        if (products_.contains(m)) return;
        bool const training = !gate_up_.backward.empty();
        Products made{make(m, H_, 2 * I_), make(m, I_, H_), {}, {}, {}, {}};
        if (training) {
            made.gate_up_backward = make(m, 2 * I_, H_);
            made.down_backward = make(m, H_, I_);
            made.gate_up_gradient = make_gradient(m, 2 * I_, H_);
            made.down_gradient = make_gradient(m, H_, I_);
        }
        products_.emplace(m, std::move(made));
    }
    void gate_up(index_t layer, index_t expert, index_t m, T const* in, float* out) {
        run(products_.at(m).gate_up, in, gate_up_.forward[index(layer, expert)], out);
    }
    void down(index_t layer, index_t expert, index_t m, T const* in, float* out) {
        run(products_.at(m).down, in, down_.forward[index(layer, expert)], out);
    }
    void gate_up_backward(index_t layer, index_t expert, index_t m, T const* d_out, float* d_in) {
        run(products_.at(m).gate_up_backward, d_out, gate_up_.backward[index(layer, expert)], d_in);
    }
    void down_backward(index_t layer, index_t expert, index_t m, T const* d_out, float* d_in) {
        run(products_.at(m).down_backward, d_out, down_.backward[index(layer, expert)], d_in);
    }
    void gradient(index_t m, T const* d_out, index_t n, T const* in, index_t k, float* out) {
        Products& made = products_.at(m);
        Memory const rows({{m, k}, type, Memory::format_tag::ab}, engine_, const_cast<T*>(in));
        run(n == H_ && k == I_ ? made.down_gradient : made.gate_up_gradient, d_out, rows, out);
    }

private:
    using Memory = dnnl::memory;
    static constexpr auto type =
        std::is_same_v<T, float> ? Memory::data_type::f32 : Memory::data_type::bf16;

    struct Product {
        dnnl::matmul call;
        Memory in, out; // no memory of their own: each run says where
    };
    struct Products {
        Product gate_up, down, gate_up_backward, down_backward, gate_up_gradient, down_gradient;
    };
    /// The matrices of all experts of all layers, each in the order that its product asks for; the
    /// same order serves every number of rows (oneDNN 2.6 asks for no other from 1 to 700).
    struct Weights {
        std::vector<Memory> forward, backward;

        /// @param from  [n,k] row after row
        void add(OneDnnProducts& self, T* from, index_t n, index_t k, bool training) {
            using Tag = Memory::format_tag;
            Memory const transposed({{k, n}, type, Tag::ba}, self.engine_, from);
            forward.push_back(self.reorder(transposed, self.describe(16, k, n).weights_desc()));
            if (!training) return;
            Memory const plain({{n, k}, type, Tag::ab}, self.engine_, from);
            backward.push_back(self.reorder(plain, self.describe(16, n, k).weights_desc()));
        }
    };

    static Memory::desc rows_of(Memory::data_type t, index_t rows, index_t cols) {
        return {{rows, cols}, t, Memory::format_tag::ab};
    }
    /// [m,k] times [k,n], the weights in whatever order suits.
    static dnnl::matmul::primitive_desc description(dnnl::engine const& engine, index_t m,
                                                    index_t k, index_t n) {
        Memory::desc const any({k, n}, type, Memory::format_tag::any);
        return description(engine, rows_of(type, m, k), any, rows_of(Memory::data_type::f32, m, n));
    }
    static dnnl::matmul::primitive_desc description(dnnl::engine const& engine,
                                                    Memory::desc const& in,
                                                    Memory::desc const& weights,
                                                    Memory::desc const& out) {
#if DNNL_VERSION_MAJOR >= 3
        return {engine, in, weights, out};
#else
        return {dnnl::matmul::desc(in, weights, out), engine};
#endif
    }
    dnnl::matmul::primitive_desc describe(index_t m, index_t k, index_t n) const {
        return description(engine_, m, k, n);
    }
    Product make(index_t m, index_t k, index_t n) const {
        return {dnnl::matmul(describe(m, k, n)), Memory(rows_of(type, m, k), engine_, nullptr),
                Memory(rows_of(Memory::data_type::f32, m, n), engine_, nullptr)};
    }
    /// [n,m] times [m,k], the former from [m,n] row after row.
    Product make_gradient(index_t m, index_t n, index_t k) const {
        Memory::desc const d_out({n, m}, type, Memory::format_tag::ba);
        Memory::desc const out = rows_of(Memory::data_type::f32, n, k);
        return {dnnl::matmul(description(engine_, d_out, rows_of(type, m, k), out)),
                Memory(d_out, engine_, nullptr), Memory(out, engine_, nullptr)};
    }
    static void copy_rows(Matrix<T const> from, T* to) {
        for (index_t r = 0; r < from.rows; ++r)
            std::memcpy(to + r * from.cols, from.row(r), std::size_t(from.cols) * sizeof(T));
    }
    Memory reorder(Memory plain, Memory::desc const& order) {
        // oneDNN does not ask the system for large pages itself.
        Memory ordered(order, engine_, ordered_.emplace_back(order.get_size()).data());
        dnnl::reorder(plain, ordered).execute(stream_, plain, ordered);
        stream_.wait();
        return ordered;
    }
    void run(Product& product, T const* in, Memory const& weights, float* out) {
        product.in.set_data_handle(const_cast<T*>(in));
        product.out.set_data_handle(out);
        product.call.execute(
            stream_,
            {{DNNL_ARG_SRC, product.in}, {DNNL_ARG_WEIGHTS, weights}, {DNNL_ARG_DST, product.out}});
        stream_.wait();
    }
    std::size_t index(index_t layer, index_t expert) const {
        return std::size_t(layer * num_experts_ + expert);
    }

    index_t H_, I_, num_experts_;
    dnnl::engine engine_;
    dnnl::stream stream_;
    std::vector<HostVector<std::byte>> ordered_; ///< what the weights lie in
    Weights gate_up_, down_;
    std::map<index_t, Products> products_;
};

} // namespace bench
