#pragma once

#include "semoe/ops/activation.hpp"
#include "semoe/ops/cpu/kernels.hpp"
#include "semoe/ops/cpu/quantized/tasks.hpp"
#include "semoe/ops/feed_forward.hpp"

namespace semoe {

struct CpuBackend;

// NOLINTBEGIN(bugprone-macro-parentheses): what is passed stands before a declaration.

/// The kernels that depend on no type of the user's, with `how` before each: `template` compiles
/// them here, `extern template` says that another translation unit does. See semoe/kernels.hpp.
#define SEMOE_KERNELS(how)                                                                         \
    SEMOE_ROW_KERNELS(how, float)                                                                  \
    SEMOE_MIXED_ROW_KERNELS(how, bf16)                                                             \
    SEMOE_MIXED_ROW_KERNELS(how, f16)                                                              \
    SEMOE_BLOCK_KERNELS(how)

#define SEMOE_ROW_KERNELS(how, T)                                                                  \
    how void multiply(Isa, PanelProduct<T> const&);                                                \
    how void transpose(Isa, T const*, index_t, int, index_t, float*);                              \
    how void widen(Isa, T const*, index_t, index_t, index_t, float*, index_t);                     \
    how void narrow(Isa, float const*, index_t, index_t, index_t, T*, index_t);                    \
    how void sum_rows(Isa, RowSum<T, T> const&);                                                   \
    how void weigh_row(Isa, RowWeight<T, T> const&);                                               \
    how void dot_rows(Isa, RowDots<T, T> const&);
#define SEMOE_MIXED_ROW_KERNELS(how, T)                                                            \
    SEMOE_ROW_KERNELS(how, T)                                                                      \
    how void sum_rows(Isa, RowSum<T, float> const&);                                               \
    how void dot_rows(Isa, RowDots<T, float> const&);

#define SEMOE_VECTOR_KERNELS(how, V)                                                               \
    how class VectorKernel<portable::FewKernel<portable::FloatWords<V>>,                           \
                           portable::FloatChains<V>>;                                              \
    how class portable::FewKernel<portable::FloatWords<V>>;                                        \
    how class portable::FewKernel<portable::WidenedWords<V>>;
#if SEMOE_X86
#define SEMOE_TILE_KERNELS(how)                                                                    \
    how class VectorKernel<avx2::FewKernel<avx2::FloatWords>, avx2::Chains<avx2::FloatWords>>;     \
    how class avx2::FewKernel<avx2::FloatWords>;                                                   \
    how class avx2::FewKernel<avx2::WidenedWords>;                                                 \
    how class avx512::LanesKernel<avx512::FloatWords>;                                             \
    how class avx512::LanesKernel<avx512::DotWords>;                                               \
    how class avx512::VectorKernel<avx512::FloatWords>;                                            \
    how class avx512::VectorKernel<avx512::DotWords>;                                              \
    how class avx512::FewKernel<avx512::FloatWords>;                                               \
    how class avx512::FewKernel<avx512::DotWords>;                                                 \
    how class avx512::FewKernel<avx512::WidenedWords>;                                             \
    how class avx512::VectorKernel<avx512::ByteDotWords>;                                          \
    how class avx512::FewKernel<avx512::ByteDotWords>;                                             \
    how class amx::TileKernel<amx::HardwareTiles>;                                                 \
    how class amx::TileKernel<amx::HardwareByteTiles>;
#elif SEMOE_ARM
#define SEMOE_TILE_KERNELS(how)                                                                    \
    SEMOE_VECTOR_KERNELS(how, neon::Vectors)                                                       \
    how class neon::ByteKernel<neon::LongSums>;                                                    \
    how class neon::ByteKernel<neon::DotSums>;
#else
#define SEMOE_TILE_KERNELS(how)
#endif
#define SEMOE_BLOCK_KERNELS(how)                                                                   \
    SEMOE_VECTOR_KERNELS(how, portable::Vectors)                                                   \
    SEMOE_TILE_KERNELS(how)                                                                        \
    SEMOE_LINE_KERNELS(how, float)                                                                 \
    SEMOE_LINE_KERNELS(how, bf16)                                                                  \
    SEMOE_UNIT_KERNELS(how, unit::Gated<activation::Silu>)                                         \
    SEMOE_UNIT_KERNELS(how, unit::Gated<activation::Gelu>)                                         \
    SEMOE_UNIT_KERNELS(how, unit::Plain<activation::Relu>)                                         \
    SEMOE_UNIT_KERNELS(how, unit::Plain<activation::Gelu>)                                         \
    SEMOE_UNIT_KERNELS(how, unit::Plain<activation::Silu>)
#define SEMOE_LINE_KERNELS(how, T)                                                                 \
    how void tile_rows_of(TileForm, HostRows<T> const&, char*);                                    \
    how void tile_words_of(TileForm, HostRows<T> const&, char*);                                   \
    how void tile_by_columns(Isa, HostRows<T> const&, char*, Fetch&);                              \
    how void store_columns<1>(Isa, float const*, T*, index_t, index_t, index_t);                   \
    how void store_columns<2>(Isa, float const*, T*, index_t, index_t, index_t);                   \
    how void words_of_results<T>(TileForm, float const*, char*);                                   \
    how void load_rows(Isa, T const*, index_t, index_t, index_t, float*);                          \
    how void store_rows(Isa, float const*, T*, index_t, index_t, index_t);
#define SEMOE_UNIT_KERNELS(how, Unit)                                                              \
    SEMOE_FEED_FORWARD_KERNELS(how, float, Unit)                                                   \
    SEMOE_FEED_FORWARD_KERNELS(how, bf16, Unit)
#define SEMOE_FEED_FORWARD_KERNELS(how, T, Unit)                                                   \
    how void run_feed_forward<T>(CpuBackend&, Group<std::byte const> const&,                       \
                                 FeedForwardBlock<Unit> const&,                                    \
                                 IndexedRows<T const, HostSpace> const&, MatrixView<T, HostSpace>, \
                                 MatrixView<T, HostSpace>, MatrixView<T, HostSpace>);              \
    how void run_feed_forward_backward<T>(                                                         \
        CpuBackend&, Group<std::byte const> const&, Group<std::byte> const&, GroupMask,            \
        FeedForwardBlock<Unit> const&, IndexedRows<T const, HostSpace> const&,                     \
        MatrixView<T const, HostSpace>, MatrixView<T const, HostSpace>, MatrixView<T, HostSpace>,  \
        MatrixView<T, HostSpace>);
// NOLINTEND(bugprone-macro-parentheses)

#if defined(SEMOE_EXTERN_KERNELS)
namespace ops::cpu {
SEMOE_KERNELS(extern template)
}
#endif

} // namespace semoe
