#pragma once

#include "semoe/backend/concept.hpp"
#include "semoe/checkpoint/dtype.hpp"
#include "semoe/checkpoint/safetensors.hpp"
#include "semoe/checkpoint/tensor_part.hpp"
#include "semoe/core/error.hpp"
#include "semoe/core/view.hpp"

#include <concepts>
#include <initializer_list>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace semoe::checkpoint {

/// Where tensors are read from: the path of a file, or a list of paths of files that are read as
/// one, like {"a.safetensors", "b.safetensors"}.
struct Paths {
    std::vector<std::string> each;
    bool is_list = true;

    template <std::convertible_to<std::string> Path>
    Paths(Path const& path)
      : each(1, path)
      , is_list(false) {}
    Paths(std::vector<std::string> paths)
      : each(std::move(paths)) {}
    Paths(std::initializer_list<std::string> paths)
      : each(paths) {}
};

/// Loads tensors by name into views of backend memory. Nothing is converted: a checkpoint that
/// differs in a name, a shape or a type is of another model, and the error says in what.
class Reader {
public:
    /// A tensor is read from the first file that has it.
    /// @throws store_error, as SafetensorsFile; precondition_error for a list without a path
    explicit Reader(Paths const& paths, io::FileSystem& system = io::default_file_system()) {
        expects(!paths.each.empty(), "checkpoint::Reader: no path is given");
        for (std::string const& path : paths.each) {
            files_.emplace_back(path, Gaps::refuse, system);
            for (std::string& name : files_.back().names()) unread_.insert(std::move(name));
            text_ += (text_.empty() ? "" : ", ") + path;
        }
    }

    SafetensorsFile const& file() const { return files_.front(); }
    std::vector<SafetensorsFile> const& files() const { return files_; }

    /// That the tensor is there and would fit.
    /// @throws store_error naming the tensor, and of shapes or types both, or a bool that is none
    template <class T, class Space>
    void check(std::string const& name, MatrixView<T, Space> view) {
        index_t const shape[] = {view.rows, view.cols};
        check<T>(name, shape);
    }
    template <class T, class Space>
    void check(std::string const& name, VectorView<T, Space> view) {
        index_t const shape[] = {view.size};
        check<T>(name, shape);
    }

    /// Overwrites the view with the tensor, after the work enqueued on b so far.
    /// @throws store_error as check() does, with nothing written
    /// @sync waits for b
    template <Backend B, class T, class Space>
        requires(!std::is_const_v<T>)
    void read(B& b, std::string const& name, MatrixView<T, Space> view) {
        check(name, view);
        auto const bytes = file_of(name).tensor(name).bytes;
        bool const packed = view.ld == view.cols;
        index_t const rows = packed ? 1 : view.rows;
        auto const row_bytes = rows > 0 ? bytes.size() / std::size_t(rows) : 0;
        for (index_t r = 0; r < rows && row_bytes > 0; ++r)
            b.copy(view.row(r), bytes.data() + std::size_t(r) * row_bytes, row_bytes);
        b.synchronize();
    }
    template <Backend B, class T, class Space>
        requires(!std::is_const_v<T>)
    void read(B& b, std::string const& name, VectorView<T, Space> view) {
        check(name, view);
        auto const bytes = file_of(name).tensor(name).bytes;
        if (!bytes.empty()) b.copy(view.data, bytes.data(), bytes.size());
        b.synchronize();
    }

    /// That the tensor is there, with as many parts like the view as it should have, of numbers
    /// that convert to T. A matrix of one row may be a vector.
    /// @param view  a MatrixView or VectorView
    /// @throws store_error naming the tensor, and of shapes or types both; precondition_error for a
    ///         part that no tensor has
    template <class View>
    void check_values(TensorPart const& part, View view) {
        (void)elements_of(part, matrix_of(view));
    }
    template <class View>
    void check_values(std::string const& name, View view) {
        check_values(TensorPart{.name = name}, view);
    }
    /// Overwrites the view with the tensor's numbers, converted as by SafetensorsFile::values.
    /// @throws as check_values() and values() do, with nothing written
    /// @sync waits for b
    template <Backend B, class View>
    void read_values(B& b, TensorPart const& part, View view) {
        auto const to = matrix_of(view);
        auto const elements = elements_of(part, to);
        using T = std::remove_pointer_t<decltype(to.data)>;
        static_assert(!std::is_const_v<T>, "checkpoint::Reader::read_values: the view is of "
                                           "constants: give one that can be written");
        auto const values = file_of(part.name).template values<T>(part.name, elements);
        for (index_t r = 0; r < to.rows && to.cols > 0; ++r)
            b.copy(to.row(r), values.data() + r * to.cols, std::size_t(to.cols) * sizeof(T));
        b.synchronize();
    }
    template <Backend B, class View>
    void read_values(B& b, std::string const& name, View view) {
        read_values(b, TensorPart{.name = name}, view);
    }

    /// Tensors with this beginning may stay unread.
    void ignore(std::string_view prefix) {
        ignore_if([&](std::string const& name) { return name.starts_with(prefix); });
    }
    /// Tensors for which f(name) is true may stay unread.
    template <class F>
    void ignore_if(F const& f) {
        std::erase_if(unread_, f);
    }

    /// @throws store_error naming tensors of the file that nobody has checked or read
    void expect_all_read() const {
        if (unread_.empty()) return;
        std::string text = text_ + ": " + std::to_string(unread_.size()) +
                           " tensors that this model does not have:";
        int shown = 0;
        for (std::string const& name : unread_) {
            if (shown++ == 4) {
                text += " ...";
                break;
            }
            text += " " + detail::in_quotes(name);
        }
        throw store_error(text);
    }

private:
    template <class T, class Space>
    static MatrixView<T, Space> matrix_of(MatrixView<T, Space> view) {
        return view;
    }
    template <class T, class Space>
    static MatrixView<T, Space> matrix_of(VectorView<T, Space> view) {
        return {view.data, 1, view.size};
    }
    /// Where the view's elements lie in the tensor, which is checked.
    template <class T, class Space>
    ElementRows elements_of(TensorPart const& part, MatrixView<T, Space> view) {
        auto const found = file_of(part.name).tensor(part.name);
        std::size_t const dimensions = found.shape.size() - std::size_t(part.slices > 0);
        bool const vector = view.rows == 1 && dimensions == 1;
        index_t const rows = vector ? view.cols : view.rows, cols = vector ? 0 : view.cols;
        detail::expect_part(part, rows, cols);
        using To = std::remove_const_t<T>;
        check(part.name, converts<To>(found.dtype) ? found.dtype : dtype_of<To>,
              detail::shape_of(part, rows, cols));
        return detail::elements_of(part, rows, cols);
    }
    template <class T>
    void check(std::string const& name, std::span<index_t const> shape) {
        check(name, dtype_of<T>, shape);
        if constexpr (std::same_as<std::remove_const_t<T>, bool>)
            (void)file_of(name).template view<bool>(name);
    }
    void check(std::string const& name, Dtype dtype, std::span<index_t const> shape) {
        (void)file_of(name).tensor(name, dtype, shape);
        unread_.erase(name);
    }
    SafetensorsFile const& file_of(std::string const& name) const {
        for (SafetensorsFile const& file : files_)
            if (file.contains(name)) return file;
        throw store_error(text_ + ": tensor " + detail::in_quotes(name) + ": missing");
    }

    std::vector<SafetensorsFile> files_;
    std::string text_; // their paths
    std::set<std::string> unread_;
};

} // namespace semoe::checkpoint
