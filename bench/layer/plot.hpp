#pragma once

#include "layer/result.hpp"
#include "support/svg.hpp"

#include <algorithm>
#include <array>
#include <map>
#include <string>
#include <utility>

namespace bench {

/// The roofline, both axes logarithmic: flops a byte to the right, flops a second upwards. A point
/// for each row with balanced routing, a line through the rows that differ in tokens alone.
class RooflinePlot {
public:
    RooflinePlot(Setting const& setting, Roofs const& roofs, std::vector<Result> const& results)
      : setting_(setting)
      , roofs_(roofs) {
        for (Result const& r : results)
            if (r.row.skew == Skew::balanced && r.row.work != Work::gate_forward)
                results_.push_back(r);
        double lowest = 0.8 * roofs.memory_gbytes, rightmost = ridge(top()) * 2;
        for (Result const& r : results_) {
            lowest = std::min(lowest, r.gflops());
            rightmost = std::max(rightmost, intensity(r));
        }
        x_ = {0.4, rightmost * 2, left, width - 30};
        y_ = {lowest / 2, top() * 2.5, height - bottom, 50};
    }

    void write(std::string const& file) {
        axes();
        roofs();
        series();
        labels();
        legend();
        svg_.write(file);
    }

private:
    static constexpr double width = 1100, height = 720, left = 80, bottom = 60;
    static constexpr char const* ink = "#222222";
    static constexpr char const* pale = "#e4e4e4";

    struct Axis {
        double from, to, begin, end;
        double operator()(double value) const {
            return begin + (end - begin) * std::log(value / from) / std::log(to / from);
        }
    };
    struct Box {
        double x0, y0, x1, y1;
        bool meets(Box const& b) const { return x0 < b.x1 && b.x0 < x1 && y0 < b.y1 && b.y0 < y1; }
    };

    std::array<std::pair<double, char const*>, 4> peaks() const {
        return {{{roofs_.bf16_gflops, "bf16"},
                 {roofs_.float_gflops, "float"},
                 {roofs_.byte_gflops, "int8"},
                 {roofs_.half_byte_gflops, "int4"}}};
    }
    double top() const {
        auto const all = peaks();
        return std::max_element(all.begin(), all.end())->first;
    }
    double ridge(double gflops) const { return gflops / roofs_.memory_gbytes; }
    static double intensity(Result const& r) { return r.outcome.cost.flops / r.outcome.cost.bytes; }
    Svg::Point place(double flops_per_byte, double gflops) const {
        return {x_(flops_per_byte), y_(gflops)};
    }
    Svg::Point place(Result const& r) const { return place(intensity(r), r.gflops()); }

    static char const* color_of(Row const& row) {
        std::string const name = row.shape.name;
        return name == olmoe.name     ? "#1f5fb4"
               : name == qwen3.name   ? "#c8501e"
               : name == mixtral.name ? "#2b8a3e"
                                      : "#8a3ab9";
    }
    static int corners_of(Work work) {
        return work == Work::forward ? 0 : work == Work::forward_backward ? 4 : 3;
    }
    static std::string decimal(double value) {
        char text[32];
        std::snprintf(text, sizeof text, "%g", value);
        return text;
    }

    void axes() {
        for (double decade = 1e-2; decade < 1e7; decade *= 10)
            for (int digit = 1; digit < 10; ++digit) {
                double const v = decade * digit;
                if (v > x_.from && v < x_.to) {
                    svg_.line({x_(v), y_.begin}, {x_(v), y_.end}, pale, digit == 1 ? 1.5 : 0.5);
                    if (digit == 1) svg_.text({x_(v), y_.begin + 20}, decimal(v), ink, "middle");
                }
                if (v > y_.from && v < y_.to) {
                    svg_.line({x_.begin, y_(v)}, {x_.end, y_(v)}, pale, digit == 1 ? 1.5 : 0.5);
                    if (digit == 1) svg_.text({x_.begin - 8, y_(v) + 4}, decimal(v), ink, "end");
                }
            }
        svg_.line({x_.begin, y_.begin}, {x_.end, y_.begin}, ink);
        svg_.line({x_.begin, y_.begin}, {x_.begin, y_.end}, ink);
        svg_.text({(x_.begin + x_.end) / 2, height - 16}, "flops a byte of memory traffic", ink,
                  "middle");
        svg_.text({24, (y_.begin + y_.end) / 2}, "GFLOP/s", ink, "middle", 13, -90);
        svg_.text({left, 28},
                  "semoe: " + setting_.processor + ", " + std::to_string(setting_.threads) +
                      " threads, " + setting_.isa,
                  ink, "start", 16);
    }
    void roofs() {
        double const memory = roofs_.memory_gbytes;
        Svg::Point const a = place(x_.from, x_.from * memory), b = place(ridge(top()), top());
        svg_.path({a, b, place(x_.to, top())}, ink, 2);
        auto all = peaks();
        std::sort(all.rbegin(), all.rend());
        std::string names;
        for (std::size_t i = 0; i < all.size(); ++i) {
            auto const [peak, name] = all[i];
            if (peak < top())
                svg_.line(place(ridge(peak), peak), place(x_.to, peak), ink, 2, "7 5");
            names += (names.empty() ? "" : ", ") + (name + (" " + decimal(std::round(peak))));
            // Peaks that leave no room between their lines share one.
            if (i + 1 < all.size() && y_(all[i + 1].first) - y_(peak) < 16) continue;
            svg_.text({x_.end - 4, y_(peak) - 7}, std::exchange(names, ""), ink, "end");
        }
        double const turn = std::atan2(b.y - a.y, b.x - a.x) * 180 / 3.14159265;
        char name[32];
        std::snprintf(name, sizeof name, "memory %.1f GB/s", memory);
        svg_.text({a.x + 0.35 * (b.x - a.x) - 8, a.y + 0.35 * (b.y - a.y) - 12}, name, ink, "start",
                  13, turn);
    }
    static std::string series_of(Row const& row) {
        return std::string(row.shape.name) + " " + to_string(row.weights) + " " +
               to_string(row.work);
    }
    void series() {
        std::map<std::string, std::vector<Svg::Point>> lines;
        std::map<std::string, char const*> colors;
        for (Result const& r : results_) {
            lines[series_of(r.row)].push_back(place(r));
            colors[series_of(r.row)] = color_of(r.row);
        }
        for (auto const& [name, points] : lines) svg_.path(points, colors[name], 0.8);
        for (Result const& r : results_)
            svg_.mark(place(r), corners_of(r.row.work), color_of(r.row),
                      r.row.weights != Weights::floats);
    }
    /// The number of tokens beside each point, where there is room for it.
    void labels() {
        std::vector<Box> taken;
        for (Result const& r : results_) {
            Svg::Point const p = place(r);
            taken.push_back({p.x - 6, p.y - 6, p.x + 6, p.y + 6});
        }
        for (Result const& r : results_) {
            Svg::Point const p = place(r);
            std::string const words = std::to_string(r.row.tokens);
            double const w = 6.2 * double(words.size()), h = 9;
            Svg::Point const corners[] = {{p.x + 8, p.y + 4},      {p.x - 8 - w, p.y + 4},
                                          {p.x + 5, p.y + 16},     {p.x - 5 - w, p.y - 7},
                                          {p.x - w / 2, p.y + 18}, {p.x - w / 2, p.y - 9},
                                          {p.x + 6, p.y - 7},      {p.x - 5 - w, p.y + 16}};
            for (Svg::Point const at : corners) {
                Box const box{at.x - 1, at.y - h - 1, at.x + w + 1, at.y + 1};
                if (std::any_of(taken.begin(), taken.end(),
                                [&](Box const& other) { return box.meets(other); }))
                    continue;
                taken.push_back(box);
                svg_.text(at, words, color_of(r.row), "start", 11);
                break;
            }
        }
    }
    void legend() {
        std::map<std::string, Row> rows;
        for (Result const& r : results_) rows.emplace(series_of(r.row), r.row);
        double y = y_.begin - 16 - 18 * double(rows.size());
        svg_.text({x_.end - 316, y}, "numbers beside points: tokens", ink);
        for (auto const& [name, row] : rows) {
            y += 18;
            svg_.mark({x_.end - 310, y - 4}, corners_of(row.work), color_of(row),
                      row.weights != Weights::floats);
            svg_.text({x_.end - 296, y}, name, ink);
        }
    }

    Setting const& setting_;
    Roofs roofs_;
    std::vector<Result> results_;
    Axis x_{}, y_{};
    Svg svg_{width, height};
};

inline void write_plot(std::string const& file, Setting const& setting, Roofs const& roofs,
                       std::vector<Result> const& results) {
    RooflinePlot(setting, roofs, results).write(file);
}

} // namespace bench
