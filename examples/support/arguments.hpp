#pragma once

// The flags of a program: what follows each, as text, number or size, refused by name.

#include <charconv>
#include <cmath>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>

namespace examples {

/// Gives a program's arguments one after the other. Every function throws std::invalid_argument
/// naming the flag and what is wrong with its value.
class Arguments {
public:
    Arguments(int argc, char** argv)
      : argc_(argc)
      , argv_(argv) {}

    /// On to the next flag. @return whether there is one
    bool next() {
        if (at_ + 1 >= argc_) return false;
        flag_ = argv_[++at_];
        return true;
    }
    std::string const& flag() const { return flag_; }
    /// Whether another value follows, and no flag.
    bool more() const { return at_ + 1 < argc_ && std::string(argv_[at_ + 1]).rfind("--", 0) != 0; }

    std::string text() {
        if (at_ + 1 >= argc_) throw std::invalid_argument(flag_ + " needs a value");
        return argv_[++at_];
    }
    double number(double least, double most = std::numeric_limits<double>::max()) {
        std::string const given = text();
        std::size_t used = 0;
        double const n = leading_number(given, used);
        if (used != given.size() || used == 0 || !(n >= least && n <= most))
            throw std::invalid_argument(
                flag_ + ": '" + given + "' is no number of at least " + std::to_string(int(least)) +
                (most < 1e9 ? " and at most " + std::to_string(int(most)) : ""));
        return n;
    }
    std::int64_t count(std::int64_t least,
                       std::int64_t most = std::numeric_limits<std::int64_t>::max()) {
        std::string const given = text();
        char const* const end = given.data() + given.size();
        std::int64_t n = 0;
        auto const parsed = std::from_chars(given.data(), end, n);
        if (parsed.ec != std::errc() || parsed.ptr != end || n < least || n > most)
            throw std::invalid_argument(
                flag_ + ": '" + given + "' is no whole number of at least " +
                std::to_string(least) + " and at most " + std::to_string(most));
        return n;
    }
    /// Bytes, of "512MiB", "2 GB", "4096".
    std::int64_t size() {
        std::string const given = text();
        std::size_t used = 0;
        double const n = leading_number(given, used);
        while (used < given.size() && given[used] == ' ') ++used;
        constexpr struct {
            char const* name;
            double bytes;
        } units[] = {{"", 1},          {"kB", 1e3},      {"MB", 1e6},     {"GB", 1e9},
                     {"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}};
        for (auto const& unit : units)
            if (n > 0 && n * unit.bytes < 9e18 && given.substr(used) == unit.name)
                return std::int64_t(n * unit.bytes);
        throw std::invalid_argument(flag_ + ": '" + given + "' is no size such as 512MiB or 2GiB");
    }
    /// @param names  separated by spaces
    std::string one_of(std::string const& names) {
        std::string const given = text();
        if ((" " + names + " ").find(" " + given + " ") == std::string::npos)
            throw std::invalid_argument(flag_ + ": '" + given + "' is none of " + names);
        return given;
    }

private:
    /// @param used  how much of the text it is; 0: none
    static double leading_number(std::string const& given, std::size_t& used) {
        try {
            return std::stod(given, &used);
        } catch (std::exception const&) {
            used = 0;
            return 0;
        }
    }

    int argc_;
    char** argv_;
    int at_ = 0;
    std::string flag_;
};

} // namespace examples
