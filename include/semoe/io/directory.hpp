#pragma once

#include "semoe/io/file.hpp"

#include <cerrno>
#include <filesystem>
#include <string>

namespace semoe::io {

/// The directory that lists `path`: "." where it names none.
inline std::string parent_directory(std::string const& path) {
    std::string const parent = std::filesystem::path(path).parent_path().string();
    return parent.empty() ? "." : parent;
}

/// Makes the directory and those above it, where they are missing, so that a power cut does not
/// take them back.
/// @throws store_error naming the directory that could not be made
inline void create_directories(std::string const& path,
                               FileSystem& system = default_file_system()) {
    std::filesystem::path sofar;
    for (std::filesystem::path const& part : std::filesystem::path(path)) {
        sofar /= part;
        if (part.empty()) continue; // after a trailing slash
        std::string const name = sofar.string();
        if (system.make_directory(name.c_str(), 0777) == 0)
            File{system, parent_directory(name), Open::directory}.sync();
        else if (errno != EEXIST)
            throw file_error(name, "mkdir", errno);
    }
    File{system, path, Open::directory}; // what exists may also be a file
}

} // namespace semoe::io
