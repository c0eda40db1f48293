#include <semoe/backend/buffer.hpp>
#include <semoe/backend/cpu/cpu.hpp>

int main() {
    semoe::CpuBackend backend;
    semoe::Buffer<float, semoe::CpuBackend> buffer(backend, 16);
    return buffer.size() == 16 ? 0 : 1;
}
