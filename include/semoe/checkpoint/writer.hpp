#pragma once

#include "semoe/backend/concept.hpp"
#include "semoe/checkpoint/dtype.hpp"
#include "semoe/checkpoint/safetensors_writer.hpp"
#include "semoe/core/view.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace semoe::checkpoint {

/// A SafetensorsWriter that takes views of backend memory. Every view comes twice: to declare()
/// with the others, then to write(); in between it need not exist, so blocks that do not fit in
/// memory together are leased one by one.
class Writer {
public:
    /// @param chunk_bytes  of host memory that backend memory passes through
    /// @throws store_error when the directory is missing or takes no files
    explicit Writer(std::string path, io::FileSystem& system = io::default_file_system(),
                    index_t chunk_bytes = index_t(4) << 20)
      : file_(std::move(path), system)
      , chunk_(std::size_t(std::max<index_t>(chunk_bytes, 1))) {}

    /// Adds a string that the file carries. @pre before the first write; UTF-8
    void metadata(std::string const& key, std::string const& value) { file_.metadata(key, value); }

    /// A matrix is stored as [rows,cols] without its padding, a vector as [size].
    /// @throws precondition_error when the name is taken
    template <class T, class Space>
    void declare(std::string const& name, MatrixView<T, Space> view) {
        file_.declare(name, dtype_of<std::remove_const_t<T>>, shape_of(view));
    }
    template <class T, class Space>
    void declare(std::string const& name, VectorView<T, Space> view) {
        file_.declare(name, dtype_of<std::remove_const_t<T>>, shape_of(view));
    }

    /// The values that the view has when the work enqueued on b so far is done.
    /// @throws precondition_error when it was not declared, or with another type or shape;
    ///         store_error or what b throws: then nothing of the view counts as written, and the
    ///         same call may be made again
    /// @sync waits for b, once a chunk
    template <Backend B, class T, class Space>
    void write(B& b, std::string const& name, MatrixView<T, Space> view) {
        file_.expect_declared(name, dtype_of<std::remove_const_t<T>>, shape_of(view));
        // Rows without padding between them are one long row.
        bool const packed = view.ld == view.cols;
        index_t const rows = packed ? 1 : view.rows;
        index_t const cols = packed ? view.rows * view.cols : view.cols;
        all_or_nothing(name, [&] {
            for (index_t r = 0; r < rows; ++r)
                gather(b, name, as_bytes(VectorView<T, Space>(view.row(r), cols)));
            flush(b, name);
        });
    }
    template <Backend B, class T, class Space>
    void write(B& b, std::string const& name, VectorView<T, Space> view) {
        file_.expect_declared(name, dtype_of<std::remove_const_t<T>>, shape_of(view));
        all_or_nothing(name, [&] {
            gather(b, name, as_bytes(view));
            flush(b, name);
        });
    }

    /// On return the file is in its place, on the device; before, the previous one was.
    /// @throws precondition_error naming a tensor that was declared and not written; store_error
    void commit() { file_.commit(); }

private:
    template <class T, class Space>
    static std::array<index_t, 2> shape_of(MatrixView<T, Space> view) {
        return {view.rows, view.cols};
    }
    template <class T, class Space>
    static std::array<index_t, 1> shape_of(VectorView<T, Space> view) {
        return {view.size};
    }
    /// A chunk that fails takes those before it along.
    template <class F>
    void all_or_nothing(std::string const& name, F const& write) {
        passed_ = 0;
        try {
            write();
        } catch (...) {
            filled_ = 0;
            if (passed_ > 0) file_.take_back(name, passed_);
            throw;
        }
    }
    template <class B, class Space>
    void gather(B& b, std::string const& name, ConstBytes<Space> bytes) {
        auto const limit = index_t(chunk_.size());
        while (!bytes.empty()) {
            index_t const n = std::min(bytes.size, limit - filled_);
            b.copy(chunk_.data() + filled_, bytes.data, std::size_t(n));
            filled_ += n;
            bytes = bytes.part(n, bytes.size - n);
            if (filled_ == limit) flush(b, name);
        }
    }
    template <class B>
    void flush(B& b, std::string const& name) {
        b.synchronize();
        index_t const bytes = std::exchange(filled_, 0);
        file_.write(name, std::span(chunk_).first(std::size_t(bytes)));
        passed_ += bytes;
    }

    SafetensorsWriter file_;
    std::vector<std::byte> chunk_;
    index_t filled_ = 0; // of the chunk
    index_t passed_ = 0; // to the file by the present write
};

} // namespace semoe::checkpoint
