#pragma once

#include <cmath>
#include <cstdio>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace bench {

/// A picture of lines, marks and words.
class Svg {
public:
    Svg(double width, double height) {
        text_ = "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 " + number(width) + " " +
                number(height) + "' font-family='sans-serif' font-size='13'>\n" +
                "<rect width='100%' height='100%' fill='white'/>\n";
    }
    struct Point {
        double x, y;
    };

    void line(Point a, Point b, char const* color, double width = 1, char const* dashes = "") {
        text_ += "<line x1='" + number(a.x) + "' y1='" + number(a.y) + "' x2='" + number(b.x) +
                 "' y2='" + number(b.y) + stroke(color, width) + "' stroke-dasharray='" + dashes +
                 "'/>\n";
    }
    void path(std::vector<Point> const& points, char const* color, double width = 1) {
        text_ += "<polyline fill='none" + stroke(color, width) + "' points='";
        for (Point p : points) text_ += number(p.x) + "," + number(p.y) + " ";
        text_ += "'/>\n";
    }
    /// A polygon with `corners` corners, a circle for 0; hollow or filled.
    void mark(Point at, int corners, char const* color, bool filled, double radius = 4.5) {
        std::string const fill = std::string("' fill='") + (filled ? color : "white");
        if (corners == 0) {
            text_ += "<circle cx='" + number(at.x) + "' cy='" + number(at.y) + "' r='" +
                     number(radius) + stroke(color, 1.5) + fill + "'/>\n";
            return;
        }
        text_ += "<polygon points='";
        for (int i = 0; i < corners; ++i) {
            double const turn = 2 * 3.14159265 * i / corners + (corners % 2 ? 0 : 0.78539816);
            text_ += number(at.x + 1.25 * radius * std::sin(turn)) + "," +
                     number(at.y - 1.25 * radius * std::cos(turn)) + " ";
        }
        text_ += stroke(color, 1.5) + fill + "'/>\n";
    }
    /// @param anchor  start, middle or end
    void text(Point at, std::string const& words, char const* color, char const* anchor = "start",
              double size = 13, double turn = 0) {
        text_ += "<text x='" + number(at.x) + "' y='" + number(at.y) + "' fill='" + color +
                 "' text-anchor='" + anchor + "' font-size='" + number(size) +
                 "' transform='rotate(" + number(turn) + " " + number(at.x) + " " + number(at.y) +
                 ")'>" + words + "</text>\n";
    }
    /// @throws std::runtime_error naming the file
    void write(std::string const& file) const {
        std::ofstream out(file);
        out << text_ << "</svg>\n";
        if (!out) throw std::runtime_error("cannot write " + file);
    }

private:
    static std::string number(double value) {
        char text[32];
        std::snprintf(text, sizeof text, "%.2f", value);
        return text;
    }
    static std::string stroke(char const* color, double width) {
        return std::string("' stroke='") + color + "' stroke-width='" + number(width);
    }

    std::string text_;
};

} // namespace bench
