#pragma once

namespace semoe::expert {

/// Whether a block holds its weights a second time, in the order in which a processor's product
/// reads them. Costs the memory of the weights once more; changes speed, never a bit of a result.
enum class Packing {
    none,
    /// LayoutId::panels_16: derived slices, on backends that have workers and for f16, whose
    /// products are computed one by one in panels; elsewhere as `none`. An expert that is one
    /// operation (ops/feed_forward.hpp) reads its rows where they lie, and so do doubles.
    derived_panels,
};

} // namespace semoe::expert
