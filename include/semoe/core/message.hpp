#pragma once

#include "semoe/core/config.hpp"

#include <concepts>
#include <cstdio>
#include <initializer_list>
#include <string>
#include <string_view>

namespace semoe {

namespace detail {

/// One value that a message names: a number, a text, or a matrix by its shape.
class MessagePart {
public:
    template <std::integral I>
    MessagePart(I value)
      : kind_(Kind::integer)
      , first_(static_cast<long long>(value)) {}
    template <std::floating_point F>
    MessagePart(F value)
      : kind_(Kind::real)
      , real_(static_cast<double>(value)) {}
    template <class Text>
        requires std::convertible_to<Text const&, std::string_view> MessagePart(Text const& value)
          : kind_(Kind::text)
          , text_(value) {}
        template <class Matrix>
            requires requires(Matrix const& m) { m.rows + m.cols; }
        MessagePart(Matrix const& m)
          : kind_(Kind::shape)
          , first_(m.rows)
          , second_(m.cols) {}

        void append_to(std::string& whole) const {
            char number[64];
            int length = 0;
            if (kind_ == Kind::integer)
                length = std::snprintf(number, sizeof number, "%lld", first_);
            if (kind_ == Kind::real) length = std::snprintf(number, sizeof number, "%g", real_);
            if (kind_ == Kind::shape)
                length = std::snprintf(number, sizeof number, "[%lld,%lld]", first_, second_);
            whole += kind_ == Kind::text ? text_ : std::string_view(number, std::size_t(length));
        }

    private:
        enum class Kind { integer, real, text, shape };
        Kind kind_;
        long long first_ = 0, second_ = 0;
        double real_ = 0;
        std::string_view text_;
};

// One function for every message there is: they are many, rare, and must not weigh on the callers.
SEMOE_COLD inline std::string format_message(char const* format,
                                             std::initializer_list<MessagePart> parts) {
    std::string whole;
    for (MessagePart const& part : parts) {
        while (format[0] != '\0' && !(format[0] == '{' && format[1] == '}')) whole += *format++;
        part.append_to(whole);
        if (*format != '\0') format += 2;
    }
    return whole += format;
}

} // namespace detail

/// The format with each {} replaced by the next of the parts: numbers, texts, or matrices, which
/// show their shape as [rows,cols].
template <class... Parts>
std::string message(char const* format, Parts const&... parts) {
    return detail::format_message(format, {detail::MessagePart(parts)...});
}

} // namespace semoe
