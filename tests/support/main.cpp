// The header may have been included before, without its implementation, so both are named.
#define DOCTEST_CONFIG_IMPLEMENT
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

// libstdc++ counts who holds an exception that ranks share, and its text, by atomics of its own,
// which ThreadSanitizer does not see: it takes the last one's release for a race with what the
// others read before theirs.
extern "C" char const* __tsan_default_suppressions();
extern "C" char const* __tsan_default_suppressions() {
    return "race:std::runtime_error::~runtime_error\n";
}
