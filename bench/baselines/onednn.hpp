#pragma once

#include "baselines/baseline.hpp"

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
    OneDnnProducts(Shape const& shape, std::vector<LayerWeights<T>> const& layers, int threads)
      : H_(shape.hidden)
      , I_(shape.intermediate)
      , num_experts_(shape.num_experts)
      , engine_(dnnl::engine::kind::cpu, 0)
      , stream_(engine_) {
        omp_set_num_threads(threads);
        // One order serves every number of rows: oneDNN 2.6 asks for the same from 1 to 700.
        gate_up_order_ = describe(16, H_, 2 * I_, nullptr).weights_desc();
        down_order_ = describe(16, I_, H_, nullptr).weights_desc();
        std::vector<T> both(std::size_t(2 * I_ * H_));
        for (LayerWeights<T> const& layer : layers)
            for (ExpertWeights<T> const& w : layer) {
                copy_rows(w.gate, both.data());
                copy_rows(w.up, both.data() + I_ * H_);
                gate_up_.push_back(reorder(both.data(), 2 * I_, H_, gate_up_order_));
                copy_rows(w.down, both.data());
                down_.push_back(reorder(both.data(), H_, I_, down_order_));
            }
    }

    char const* name() const { return "oneDNN"; }
    bool takes(index_t) const { return true; }
    void prepare(index_t m) {
        if (products_.contains(m)) return;
        products_.emplace(m,
                          Pair{make(m, H_, 2 * I_, gate_up_order_), make(m, I_, H_, down_order_)});
    }
    void gate_up(index_t layer, index_t expert, index_t m, T const* in, float* out) {
        run(products_.at(m).gate_up, in, gate_up_[index(layer, expert)], out);
    }
    void down(index_t layer, index_t expert, index_t m, T const* in, float* out) {
        run(products_.at(m).down, in, down_[index(layer, expert)], out);
    }

private:
    using Memory = dnnl::memory;
    static constexpr auto type =
        std::is_same_v<T, float> ? Memory::data_type::f32 : Memory::data_type::bf16;

    struct Product {
        dnnl::matmul call;
        Memory in, out; // no memory of their own: each run says where
    };
    struct Pair {
        Product gate_up, down;
    };

    static Memory::desc rows_of(Memory::data_type t, index_t rows, index_t cols) {
        return {{rows, cols}, t, Memory::format_tag::ab};
    }
    /// [m,k] times [k,n], the weights in the order given, or in any.
    dnnl::matmul::primitive_desc describe(index_t m, index_t k, index_t n,
                                          Memory::desc const* order) const {
        Memory::desc const any({k, n}, type, Memory::format_tag::any);
        return {dnnl::matmul::desc(rows_of(type, m, k), order ? *order : any,
                                   rows_of(Memory::data_type::f32, m, n)),
                engine_};
    }
    Product make(index_t m, index_t k, index_t n, Memory::desc const& order) const {
        return {dnnl::matmul(describe(m, k, n, &order)),
                Memory(rows_of(type, m, k), engine_, nullptr),
                Memory(rows_of(Memory::data_type::f32, m, n), engine_, nullptr)};
    }
    static void copy_rows(Matrix<T const> from, T* to) {
        for (index_t r = 0; r < from.rows; ++r)
            std::memcpy(to + r * from.cols, from.row(r), std::size_t(from.cols) * sizeof(T));
    }
    /// From [n,k] row after row, which is [k,n] column after column.
    Memory reorder(T* from, index_t n, index_t k, Memory::desc const& order) {
        Memory plain({{k, n}, type, Memory::format_tag::ba}, engine_, from);
        Memory ordered(order, engine_);
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
    Memory::desc gate_up_order_, down_order_;
    std::vector<Memory> gate_up_, down_;
    std::map<index_t, Pair> products_;
};

} // namespace bench
