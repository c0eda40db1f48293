#pragma once

namespace semoe {

/// Memory that host code can read and write.
struct HostSpace {
    static constexpr char const* name = "host";
};
/// Memory of an accelerator; the host only moves it through a backend's copy().
struct DeviceSpace {
    static constexpr char const* name = "device";
};

} // namespace semoe
