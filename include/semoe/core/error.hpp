#pragma once

#include "semoe/core/config.hpp"
#include "semoe/core/message.hpp"

#include <concepts>
#include <initializer_list>
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

namespace detail {

[[noreturn]] SEMOE_COLD inline void refuse(std::string const& what) {
    throw precondition_error(what);
}
[[noreturn]] SEMOE_COLD inline void refuse(char const* format,
                                           std::initializer_list<MessagePart> parts) {
    refuse(format_message(format, parts));
}

} // namespace detail

/// Throws precondition_error unless `ok`. The message names the offending shape or value: each {}
/// in `format` is replaced by the next of the parts, as message() does. Nothing is allocated, and
/// no text made, while all is well.
template <class... Parts>
    requires(std::convertible_to<Parts const&, detail::MessagePart>&&...)
void expects(bool ok, char const* format, Parts const&... parts) {
    if (!ok) detail::refuse(format, {detail::MessagePart(parts)...});
}
/// As above where the parts themselves cost something: `describe()` makes the text when needed.
template <class Describe>
    requires requires(Describe const& d) { std::string(d()); }
void expects(bool ok, Describe const& describe) {
    if (!ok) detail::refuse(std::string(describe()));
}

} // namespace semoe
