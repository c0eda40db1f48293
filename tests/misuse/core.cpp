#include "semoe/core/dtype.hpp"

#if defined(CASE_fast_math)
// with: -ffast-math
// must print: semoe: -ffast-math or a part of it breaks NaN checks and reproducible sums
#elif defined(CASE_finite_math_only)
// with: -ffinite-math-only
// must print: semoe: -ffast-math or a part of it breaks NaN checks and reproducible sums
#elif defined(CASE_associative_math) && !defined(__clang__)
// with: -funsafe-math-optimizations
// must print: semoe: -ffast-math or a part of it breaks NaN checks and reproducible sums
#endif
