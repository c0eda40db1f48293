#pragma once

#include "layer/row.hpp"

#include <initializer_list>

namespace bench {

/// The largest T of any row.
inline constexpr index_t max_tokens = 2048;

using Tokens = std::initializer_list<index_t>;

/// The rows of one shape and element type, in an order that builds each kind of memory once.
struct Sweep {
    Shape shape;
    Weights weights;
    Tokens forward, gate, zipf, forward_backward, step;

    void append_to(std::vector<Row>& rows) const {
        auto const add = [&](Tokens const& all, Skew skew, Work work) {
            for (index_t tokens : all) rows.push_back({shape, weights, skew, work, tokens});
        };
        add(forward, Skew::balanced, Work::forward);
        add(gate, Skew::balanced, Work::gate_forward);
        add(zipf, Skew::zipf, Work::forward);
        add(forward_backward, Skew::balanced, Work::forward_backward);
        add(step, Skew::balanced, Work::training_step);
        add(step, Skew::balanced, Work::step_at_once);
    }
};
inline std::vector<Row> rows_of(std::initializer_list<Sweep> sweeps) {
    std::vector<Row> rows;
    for (Sweep const& sweep : sweeps) sweep.append_to(rows);
    return rows;
}

/// Two minutes.
inline std::vector<Row> quick_rows() {
    return rows_of({
        {olmoe, Weights::bf16, {1, 8, 32, 128, 512, 2048}, {1, 512}, {32, 512}, {512, 2048}, {512}},
        {olmoe, Weights::floats, {1, 32, 512}, {}, {}, {512}, {}},
        {olmoe, Weights::int8, {1, 32, 512}, {}, {}, {}, {}},
        {olmoe, Weights::int4, {1, 32, 512}, {}, {}, {}, {}},
        {olmoe, Weights::mxfp4, {1, 32, 512}, {}, {}, {}, {}},
        {qwen3, Weights::bf16, {1, 32, 512}, {}, {}, {}, {}},
        {mixtral, Weights::bf16, {1, 32, 512}, {}, {}, {}, {}},
        {deepseek, Weights::bf16, {1, 32, 512}, {}, {}, {}, {}},
    });
}

/// A quarter of an hour.
inline std::vector<Row> all_rows() {
    return rows_of({
        {olmoe,
         Weights::bf16,
         {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048},
         {1, 32, 512, 2048},
         {8, 32, 128, 512, 2048},
         {32, 128, 512, 2048},
         {128, 512, 2048}},
        {olmoe, Weights::floats, {1, 8, 32, 128, 512, 2048}, {512}, {512}, {128, 512, 2048}, {512}},
        {olmoe, Weights::int8, {1, 8, 32, 128, 512, 2048}, {}, {512}, {}, {}},
        {olmoe, Weights::int4, {1, 8, 32, 128, 512, 2048}, {}, {512}, {}, {}},
        {olmoe, Weights::mxfp4, {1, 8, 32, 128, 512, 2048}, {}, {512}, {}, {}},
        {qwen3,
         Weights::bf16,
         {1, 8, 32, 128, 512, 2048},
         {1, 32, 512, 2048},
         {32, 512, 2048},
         {128, 512, 2048},
         {512}},
        {qwen3, Weights::floats, {1, 32, 512}, {}, {}, {512}, {}},
        {mixtral, Weights::bf16, {1, 8, 32, 128, 512, 2048}, {}, {512}, {128, 512}, {}},
        {mixtral, Weights::floats, {1, 32, 512}, {}, {}, {}, {}},
        {deepseek, Weights::bf16, {1, 8, 32, 128, 512, 2048}, {}, {512}, {128, 512}, {}},
        {deepseek, Weights::floats, {1, 32, 512}, {}, {}, {}, {}},
    });
}

} // namespace bench
