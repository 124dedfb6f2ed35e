// The Python module hubert_fast._cpu: kernels for CPUs with AVX-512. hubert_fast.packed.cpu_kernels checks all arguments.

#include "cpu.h"

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace py = pybind11;

namespace hubert_fast {

Parallel gomp_parallel = nullptr;

namespace {

constexpr int INTERFACE = 2;  // as in cpu_kernels.py; to be increased when a signature changes

void* pointer(uintptr_t address) { return reinterpret_cast<void*>(address); }

void set_parallel(uintptr_t address) { gomp_parallel = reinterpret_cast<Parallel>(address); }

// Why the kernels cannot run on this machine; empty if they can.
const char* unsupported() {
#ifdef HUBERT_FAST_HAS_AVX512
    __builtin_cpu_init();
    const bool all = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                     __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    return all ? "" : "this CPU lacks AVX-512 (F, BW, DQ and VL)";
#elif defined(__x86_64__)
    return "the compiler of the extension is too old for AVX-512: it takes GCC 11, Clang 11, or newer";
#else
    return "this CPU is not an x86-64";
#endif
}

bool has_bfloat16_dot() {
#ifdef HUBERT_FAST_HAS_AVX512
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512bf16");
#else
    return false;
#endif
}

bool has_bfloat16_tiles() {  // AMX-BF16
#if defined(__x86_64__)
    unsigned eax, ebx, ecx, edx;
    return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) && (edx >> 22 & 1);
#else
    return false;
#endif
}

void call_attention(uintptr_t q, uintptr_t k, uintptr_t v, uintptr_t out, int64_t q_stride, int64_t k_stride, int64_t v_stride,
                    int64_t out_stride, const std::vector<int64_t>& counts, int64_t heads, int64_t head_dim, bool is_bfloat16,
                    bool dot_bfloat16, int threads) {
    const Attention arguments{pointer(q), pointer(k), pointer(v), pointer(out), q_stride,    k_stride,     v_stride,
                              out_stride, counts,     heads,      head_dim,     is_bfloat16, dot_bfloat16, threads};
    py::gil_scoped_release release;
    attention(arguments);
}

const float* numbers(uintptr_t address) { return static_cast<const float*>(pointer(address)); }

void call_rows(uintptr_t x, uintptr_t y, uintptr_t out, uintptr_t weight, uintptr_t bias, bool x_is_bfloat16,
               bool y_is_bfloat16, bool out_is_bfloat16, bool weight_is_bfloat16, bool gelu, bool post, float eps, int64_t rows,
               int64_t channels, int threads) {
    const Rows arguments{pointer(x),      pointer(y),    pointer(out),    pointer(weight),    pointer(bias),
                         x_is_bfloat16,   y_is_bfloat16, out_is_bfloat16, weight_is_bfloat16, gelu,
                         post,            eps,           rows,            channels,           threads};
    py::gil_scoped_release release;
    transform_rows(arguments);
}

void call_positions(uintptr_t x, uintptr_t stream, uintptr_t padding, uintptr_t spectrum, uintptr_t bias, uintptr_t out,
                    uintptr_t buffer, const std::vector<int64_t>& counts, int64_t padded, int64_t channels, int64_t groups,
                    int64_t kernel, int64_t points, int threads) {
    const Positions arguments{numbers(x),
                              numbers(stream),
                              numbers(padding),
                              numbers(spectrum),
                              numbers(bias),
                              static_cast<float*>(pointer(out)),
                              static_cast<float*>(pointer(buffer)),
                              counts,
                              padded,
                              channels,
                              groups,
                              kernel,
                              points,
                              threads};
    py::gil_scoped_release release;
    positions(arguments);
}

void call_first_convolution(uintptr_t samples, uintptr_t weight, uintptr_t mean, uintptr_t bias, int64_t kernel, int64_t stride,
                            uintptr_t out, bool out_is_bfloat16, uintptr_t norm_weight, uintptr_t norm_bias,
                            bool norm_is_bfloat16, float eps, int64_t frames, int64_t channels, int threads) {
    Rows rows{};
    rows.out = pointer(out);
    rows.out_is_bfloat16 = out_is_bfloat16;
    rows.weight = pointer(norm_weight);
    rows.bias = pointer(norm_bias);
    rows.weight_is_bfloat16 = norm_is_bfloat16;
    rows.gelu = true;
    rows.eps = eps;
    rows.rows = frames;
    rows.channels = channels;
    rows.threads = threads;
    const FirstConvolution arguments{numbers(samples), numbers(weight), numbers(mean), numbers(bias), kernel, stride, rows};
    py::gil_scoped_release release;
    first_convolution(arguments);
}

}  // namespace
}  // namespace hubert_fast

PYBIND11_MODULE(_cpu, module) {
    using namespace hubert_fast;
    module.doc() = "Attention, two convolutions and row-wise operations for CPUs with AVX-512; hubert_fast.packed.cpu_kernels is the interface.";
    module.attr("interface") = INTERFACE;
    module.def("unsupported", &unsupported);
    module.def("has_bfloat16_dot", &has_bfloat16_dot);
    module.def("has_bfloat16_tiles", &has_bfloat16_tiles);
    module.def("set_parallel", &set_parallel);
    module.def("attention", &call_attention);
    module.def("transform_rows", &call_rows);
    module.def("positions", &call_positions);
    module.def("first_convolution", &call_first_convolution);
    module.attr("POSITION_PAIRS") = POSITION_PAIRS;
    module.attr("MAX_POSITION_POINTS") = MAX_POSITION_POINTS;
    module.attr("MAX_POSITION_CHANNELS") = MAX_POSITION_CHANNELS;
    module.attr("MAX_FIRST_KERNEL") = MAX_FIRST_KERNEL;
    module.attr("MAX_FIRST_CHANNELS") = MAX_FIRST_CHANNELS;
}
