#pragma once

#include <charconv>
#include <concepts>
#include <string>
#include <string_view>
#include <system_error>

namespace semoe::checkpoint {

/// The shortest decimal text that number() turns back into the same bits (of NaN: into a NaN).
template <class T>
    requires std::integral<T> || std::floating_point<T> std::string to_text(T value) {
        char text[64];
        auto const result = std::to_chars(text, text + sizeof text, value);
        return {text, result.ptr};
    }

/// Reads one number, with nothing before or behind it.
/// @return whether the text is one and fits T; if not, `to` is unchanged
template <class T>
    requires std::integral<T> || std::floating_point<T>
bool number(std::string_view text, T& to) {
    T value = {};
    auto const result = std::from_chars(text.data(), text.data() + text.size(), value);
    if (result.ec != std::errc{} || result.ptr != text.data() + text.size()) return false;
    to = value;
    return true;
}

} // namespace semoe::checkpoint
