#include "odr/one_layer.hpp"

std::vector<float> one_layer_avx2() { return one_layer<float>(); }
