#include "semoe/backend/cpu/cpu.hpp"

struct Zero {
    float* out;
    void operator()(semoe::index_t i) const { out[i] = 0; }
};
struct Large {
    char bytes[1 << 16];
    void operator()(semoe::index_t) const {}
};

inline void use(semoe::CpuBackend b, semoe::MatrixView<float, semoe::HostSpace> rows) {
#if defined(CASE_mutable_functor)
    // must print: parallel_for calls the functor from several threads; it needs `void operator()
    b.parallel_for(rows.rows, [&](semoe::index_t i) mutable { rows.data[i] = 0; });
#elif defined(CASE_large_functor)
    // must print: the functor is larger than max_functor_bytes; keep the data in backend memory
    b.parallel_for(rows.rows, Large{});
#elif defined(CASE_task_without_scratch)
    // must print: parallel_tasks calls the task from several threads; it needs `void operator()
    b.parallel_tasks(rows.rows, Zero{rows.data});
#elif defined(CASE_device_view)
    // must print: DeviceSpace
    semoe::MatrixView<float, semoe::DeviceSpace> elsewhere;
    semoe::MatrixView<float, semoe::HostSpace> here = elsewhere;
#elif defined(CASE_mutable_from_const)
    // must print: const
    semoe::MatrixView<float const, semoe::HostSpace> constant = rows;
    semoe::MatrixView<float, semoe::HostSpace> mutable_rows = constant;
#else
    b.parallel_for(rows.rows, Zero{rows.data});
    semoe::MatrixView<float const, semoe::HostSpace> constant = rows;
    static_cast<void>(constant);
#endif
}
