#pragma once

#include "semoe/checkpoint/safetensors.hpp"

#include <string>
#include <vector>

namespace semoe::test {

/// A tensor of tests/data/optimizers, which PyTorch wrote, in double.
inline std::vector<double> optimizer_tensor(std::string const& name) {
    static checkpoint::SafetensorsFile const file{SEMOE_TEST_DATA
                                                  "/optimizers/optimizers.safetensors"};
    return file.values<double>(name);
}

} // namespace semoe::test
