#pragma once

#include "semoe/io/transfer_file.hpp"
#include "support/faulty_file_system.hpp"

#include <doctest/doctest.h>

namespace semoe::test {

/// Whether files in scratch directories may be transferred past the system's cache. Where they may
/// not, a message tells that this is not tested.
inline bool direct_works() {
    static bool const works = [] {
        ScratchDirectory directory;
        write_text(directory / "file", "some text");
        io::TransferFile const file(io::default_file_system(), directory / "file", true);
        return file.way() == io::Way::direct;
    }();
    if (!works) MESSAGE("direct transfers are not tested: scratch directories have none");
    return works;
}
/// What a file that is opened for direct transfers then has.
inline io::Way direct_way() { return direct_works() ? io::Way::direct : io::Way::cached; }

} // namespace semoe::test
