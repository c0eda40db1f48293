#pragma once

#include <cstdio>
#include <cstdlib>
#include <cxxabi.h>
#include <memory>
#include <string>
#include <typeinfo>

namespace train_lm {

/// The name of a type as one would write it, the same from every compiler of this ABI.
template <class T>
std::string type_name() {
    int status = 0;
    std::unique_ptr<char, void (*)(void*)> const name(
        abi::__cxa_demangle(typeid(T).name(), nullptr, nullptr, &status), std::free);
    return status == 0 ? name.get() : typeid(T).name();
}
/// A number in nine digits at most.
inline std::string text(double number) {
    char digits[32];
    std::snprintf(digits, sizeof digits, "%.9g", number);
    return digits;
}

} // namespace train_lm
