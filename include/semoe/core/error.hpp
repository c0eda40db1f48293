#pragma once

#include <stdexcept>
#include <string>

namespace semoe {

/// A call that breaks a documented precondition; thrown on the host before any work starts.
struct precondition_error : std::invalid_argument {
    using std::invalid_argument::invalid_argument;
};
/// A backend could not allocate, copy or launch.
struct backend_error : std::runtime_error {
    using std::runtime_error::runtime_error;
};
/// A collective did not complete: a rank is missing, late, or called something else.
struct comm_error : std::runtime_error {
    using std::runtime_error::runtime_error;
};
/// Bytes at rest could not be read or written, or are not what they claim to be.
struct store_error : std::runtime_error {
    using std::runtime_error::runtime_error;
};
/// What only the data can show: a logit that is not finite, for instance.
struct data_error : std::runtime_error {
    using std::runtime_error::runtime_error;
};

/// Throws precondition_error with `what` unless `ok`.
/// `what` names the offending shape or value; build it lazily with the overload below
/// where the text needs formatting.
inline void expects(bool ok, char const* what) {
    if (!ok) throw precondition_error(what);
}
/// As above; `describe()` makes the text only when it is needed, so the good path never allocates.
template <class Describe>
    requires requires(Describe const& d) { std::string(d()); }
inline void expects(bool ok, Describe const& describe) {
    if (!ok) throw precondition_error(describe());
}

} // namespace semoe
