#pragma once

#include <stdexcept>
#include <string>

namespace semoe::testing {

/// A policy does not keep a promise of its concept; the text is the promise and what was found.
struct contract_violation : std::logic_error {
    using std::logic_error::logic_error;
};

/// Throws contract_violation with `sentence` unless `ok`. Independent of any test framework, so
/// that a contract suite runs inside a user's own.
inline void require(bool ok, char const* sentence) {
    if (!ok) throw contract_violation(sentence);
}
inline void require(bool ok, std::string const& sentence) {
    if (!ok) throw contract_violation(sentence);
}

} // namespace semoe::testing
