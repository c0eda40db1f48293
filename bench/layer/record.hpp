#pragma once

#include "layer/result.hpp"
#include "layer/rows.hpp"

#include <array>
#include <cstdio>
#include <fstream>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

namespace bench {

/// The table of results in bench/README.md: a line for each row, a column for each kind of machine.
class ResultTable {
public:
    static constexpr char const* begin = "<!-- layer_bench: written by --record -->";
    static constexpr char const* end = "<!-- end -->";
    using Key = std::array<std::string, 3>; ///< layer, work, T

    /// Reads lines of markdown, from the head of the table on.
    explicit ResultTable(std::vector<std::string> const& lines) {
        for (std::size_t i = 0; i < lines.size(); ++i) {
            std::vector<std::string> const cells = split(lines[i]);
            if (cells.size() < 3 || i == 1) continue;
            Key const key{cells[0], cells[1], cells[2]};
            for (std::size_t c = 3; c < cells.size(); ++c)
                if (i == 0)
                    machines_.push_back(cells[c]);
                else if (c - 3 < machines_.size() && !cells[c].empty())
                    cells_[key][machines_[c - 3]] = cells[c];
        }
    }
    void set(Key const& key, std::string const& machine, std::string const& text) {
        if (std::find(machines_.begin(), machines_.end(), machine) == machines_.end())
            machines_.push_back(machine);
        cells_[key][machine] = text;
    }
    /// Lines in the order of all_rows(); a row that nobody measured has none.
    std::vector<std::string> lines() const {
        std::string head = "| layer | work | T |", rule = "|---|---|---|";
        for (auto const& machine : machines_) {
            head += " " + machine + " |";
            rule += "---|";
        }
        std::vector<std::string> all{head, rule};
        append(roofs_key(), all);
        for (Row const& row : all_rows()) append(key_of(row), all);
        return all;
    }

    static Key roofs_key() { return {"roofs", "", ""}; }
    static Key key_of(Row const& row) {
        return {std::string(row.shape.name) + " " + to_string(row.weights),
                std::string(to_string(row.work)) + (row.skew == Skew::zipf ? ", Zipf" : ""),
                std::to_string(row.tokens)};
    }

private:
    static std::vector<std::string> split(std::string const& line) {
        std::vector<std::string> cells;
        for (std::size_t at = line.find('|'); at != std::string::npos;) {
            std::size_t const next = line.find('|', at + 1);
            if (next == std::string::npos) break;
            std::string cell = line.substr(at + 1, next - at - 1);
            cell.erase(0, cell.find_first_not_of(' '));
            cell.erase(cell.find_last_not_of(' ') + 1);
            cells.push_back(cell);
            at = next;
        }
        return cells;
    }
    void append(Key const& key, std::vector<std::string>& all) const {
        auto const row = cells_.find(key);
        if (row == cells_.end()) return;
        std::string line = "|";
        for (auto const& part : key) line += part.empty() ? " |" : " " + part + " |";
        for (auto const& machine : machines_) {
            auto const cell = row->second.find(machine);
            line += cell == row->second.end() ? " |" : " " + cell->second + " |";
        }
        all.push_back(line);
    }

    std::vector<std::string> machines_;
    std::map<Key, std::map<std::string, std::string>> cells_;
};

/// "30.2 ms, 0.81; oneDNN 2.4x"
inline std::string cell_of(Result const& r) {
    char text[64];
    std::snprintf(text, sizeof text, r.milliseconds() < 100 ? "%.2f ms, %.2f" : "%.0f ms, %.2f",
                  r.milliseconds(), r.roofline());
    std::string cell = text;
    char const* separator = "; ";
    for (auto const& [name, seconds] : r.outcome.baselines) {
        double const ratio = seconds / r.outcome.seconds;
        std::snprintf(text, sizeof text, ratio < 10 ? "%s %.2fx" : "%s %.0fx", name.c_str(), ratio);
        cell += std::exchange(separator, ", ") + std::string(text);
    }
    return cell;
}

/// Writes the results into this machine's column of the table in `file`; everything else in the
/// file stays as it is.
/// @throws std::runtime_error where the file has no such table
inline void record(std::string const& file, Roofs const& roofs,
                   std::vector<Result> const& results) {
    std::vector<std::string> lines;
    {
        std::ifstream in(file);
        for (std::string line; std::getline(in, line);) lines.push_back(line);
    }
    auto const begin = std::find(lines.begin(), lines.end(), ResultTable::begin);
    auto const end = std::find(begin, lines.end(), ResultTable::end);
    if (end == lines.end()) throw std::runtime_error(file + " has no table of results");
    ResultTable table({begin + 1, end});
    std::string const machine = machine_kind();
    table.set(ResultTable::roofs_key(), machine, roofs.text());
    for (Result const& r : results)
        if (r.roofline() <= 1) // else the probe was disturbed
            table.set(ResultTable::key_of(r.row), machine, cell_of(r));

    std::ofstream out(file);
    auto const write = [&out](auto from, auto to) {
        for (; from != to; ++from) out << *from << '\n';
    };
    std::vector<std::string> const written = table.lines();
    write(lines.begin(), begin + 1);
    write(written.begin(), written.end());
    write(end, lines.end());
    if (!out) throw std::runtime_error("cannot write " + file);
}

} // namespace bench
