// Two translation units that include everything, one for any x86-64, one for x86-64-v3, make one
// program. Their results may differ by the rounding of fused multiply-adds, no more.
#include <cmath>
#include <cstdio>
#include <vector>

std::vector<float> one_layer_baseline();
std::vector<float> one_layer_avx2();

int main() {
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) {
        std::puts("skipped: this processor is no x86-64-v3");
        return 77;
    }
    std::vector<float> const a = one_layer_baseline(), b = one_layer_avx2();
    float difference = 0, largest = 0;
    bool finite = true;
    for (std::size_t i = 0; i < a.size(); ++i) {
        finite = finite && std::isfinite(a[i]) && std::isfinite(b[i]);
        difference = std::fmax(difference, std::fabs(a[i] - b[i]));
        largest = std::fmax(largest, std::fabs(a[i]));
    }
    std::printf("largest difference %g of %g\n", double(difference), double(largest));
    bool const same = a.size() == b.size() && difference <= 1e-5f * largest;
    return finite && largest > 0 && same ? 0 : 1;
}
