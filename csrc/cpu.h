// What the CPU kernels share: the choice of instructions, loads and stores, and threads.
//
// Nothing is compiled with -march: functions marked HUBERT_FAST_AVX512 use AVX-512, and cpu.cpp checks at run time that the CPU
// has it. Where the compiler or the architecture lacks it, HUBERT_FAST_HAS_AVX512 is not defined and cpu.cpp reports why.

#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#if defined(__x86_64__) && ((defined(__clang__) && __clang_major__ >= 11) || (!defined(__clang__) && __GNUC__ >= 11))
#define HUBERT_FAST_HAS_AVX512
#endif

namespace hubert_fast {

using Bfloat16 = uint16_t;

// Has OpenMP's threads call body(task) for each task from 0 to tasks - 1, in any order. The body must not throw.
// The threads are those of PyTorch, whose entry point GOMP_parallel Python passes to set_parallel.
using Parallel = void (*)(void (*)(void*), void*, unsigned, unsigned);
extern Parallel gomp_parallel;

template <class Body>
void for_each_task(int64_t tasks, int threads, const Body& body) {
    struct Work {
        const Body& body;
        int64_t tasks;
        std::atomic<int64_t> next{0};

        static void run(void* argument) {
            Work& work = *static_cast<Work*>(argument);
            for (int64_t task; (task = work.next.fetch_add(1)) < work.tasks;) work.body(task);
        }
    } work{body, tasks};
    if (threads > 1 && tasks > 1 && gomp_parallel)
        gomp_parallel(&Work::run, &work, static_cast<unsigned>(threads), 0);
    else
        Work::run(&work);
}

// All addresses are of elements of the dtype; strides count elements.
struct Attention {
    const void *q, *k, *v;
    void* out;
    int64_t q_stride, k_stride, v_stride, out_stride;  // between rows
    std::vector<int64_t> counts;                       // frames of each utterance
    int64_t heads, head_dim;
    bool is_bfloat16, dot_bfloat16;  // the dtype; multiply queries and keys with vdpbf16ps
    int threads;
};

// Applies, row by row: x += y (if there is a y), LayerNorm (if there is a weight), GELU (if asked), and stores the result in
// out, which may be x. x keeps the sum or, with post, also gets the result.
struct Rows {
    void* x;
    const void* y;
    void* out;
    const void *weight, *bias;
    bool x_is_bfloat16, y_is_bfloat16, out_is_bfloat16, weight_is_bfloat16;
    bool gelu, post;
    float eps;
    int64_t rows, channels;
    int threads;
};

// Convolves x within each utterance as conv1d(padding = kernel / 2) does, cut to the frames of the utterance, and adds the bias.
// If there is a stream, the result is stream + GELU(that). All tensors are float32 `[N, C]`.
struct Positions {
    const float *x, *stream;
    const float* padding;   // `[C]`, with which utterances are padded to `padded` frames
    const float* spectrum;  // of the taps, divided by L: `[L / 2 + 1, G, C/G (in), 2 (real, imaginary), C/G (out)]`
    const float* bias;      // `[C]`
    float* out;
    float* buffer;                // `[L / 2 + 1, at most 2 * POSITION_PAIRS, 2, C]`
    std::vector<int64_t> counts;  // frames of each utterance
    int64_t padded, channels, groups, kernel, points;
    int threads;
};
constexpr int64_t POSITION_PAIRS = 8;  // of blocks that are transformed at once: 40 s of audio
constexpr int64_t MAX_POSITION_POINTS = 512, MAX_POSITION_CHANNELS = 128;  // the latter of a group; a multiple of 16

// Convolves samples, then applies what `rows` says to each frame, from `rows.x`, which is not read, to `rows.out`.
struct FirstConvolution {
    const float* samples;
    const float* weight;  // `[C, kernel]`
    const float* mean;    // `[kernel]`, subtracted from each window, if there is one
    const float* bias;    // `[C]`, if there is one
    int64_t kernel, stride;
    Rows rows;
};
constexpr int64_t MAX_FIRST_KERNEL = 32, MAX_FIRST_CHANNELS = 1024;  // channels must be a multiple of 16

void attention(const Attention& arguments);
void transform_rows(const Rows& arguments);
void positions(const Positions& arguments);
void first_convolution(const FirstConvolution& arguments);

// Transforms the rows from `first` to `last`, with the weight and bias of a norm in float32.
using RowFunction = void (*)(const Rows& arguments, const float* weight, const float* bias, int64_t first, int64_t last);
RowFunction row_function(const Rows& arguments);

struct NormWeights {  // in float32; empty without a norm
    explicit NormWeights(const Rows& arguments);
    std::vector<float> weight, bias;
};

}  // namespace hubert_fast

#ifdef HUBERT_FAST_HAS_AVX512
#include <immintrin.h>

#define HUBERT_FAST_AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma,avx2")))
#define HUBERT_FAST_AVX512_ALWAYS HUBERT_FAST_AVX512 __attribute__((always_inline))  // of a lambda: inline it
#define HUBERT_FAST_AVX512_INLINE HUBERT_FAST_AVX512_ALWAYS inline

namespace hubert_fast {

constexpr int64_t LANES = 16;  // of float32 in a register

HUBERT_FAST_AVX512_INLINE __mmask16 lanes(int64_t count) {  // the first `count` lanes
    return count >= LANES ? 0xffff : static_cast<__mmask16>((1u << count) - 1);
}

// Computes 2 ** (x * factor) within 1.5 ulp, 0 far below the smallest float32. NaN stays NaN.
HUBERT_FAST_AVX512_INLINE __m512 exp2_of_product(__m512 x, float factor) {
    const __m512 scale = _mm512_set1_ps(factor);
    x = _mm512_max_ps(_mm512_set1_ps(-160 / factor), x);  // in this order, max returns a NaN of x
    const __m512 whole = _mm512_roundscale_ps(_mm512_mul_ps(x, scale), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const __m512 rest = _mm512_fmsub_ps(x, scale, whole);  // -0.5 to 0.5
    __m512 power = _mm512_set1_ps(1.53533620e-4f);         // a minimax polynomial of 2 ** rest, relative error 2e-9
    power = _mm512_fmadd_ps(power, rest, _mm512_set1_ps(1.33988739e-3f));
    power = _mm512_fmadd_ps(power, rest, _mm512_set1_ps(9.61843692e-3f));
    power = _mm512_fmadd_ps(power, rest, _mm512_set1_ps(5.55033237e-2f));
    power = _mm512_fmadd_ps(power, rest, _mm512_set1_ps(0.240226477f));
    power = _mm512_fmadd_ps(power, rest, _mm512_set1_ps(0.693147182f));
    power = _mm512_fmadd_ps(power, rest, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(power, whole);
}

// Loads 16 numbers as float32; lanes outside the mask are zero and not read.
HUBERT_FAST_AVX512_INLINE __m512 load(const float* source, __mmask16 mask) { return _mm512_maskz_loadu_ps(mask, source); }

HUBERT_FAST_AVX512_INLINE __m512 load(const Bfloat16* source, __mmask16 mask) {
    const __m512i bits = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, source));
    return _mm512_castsi512_ps(_mm512_slli_epi32(bits, 16));
}

HUBERT_FAST_AVX512_INLINE void store(float* target, __m512 x, __mmask16 mask) { _mm512_mask_storeu_ps(target, mask, x); }

// Rounds to the nearest, ties to even, as PyTorch does. A NaN is cut off, and stays one, since x results from arithmetic.
HUBERT_FAST_AVX512_INLINE void store(Bfloat16* target, __m512 x, __mmask16 mask) {
    const __m512i bits = _mm512_castps_si512(x);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i half = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
    const __m512i rounded = _mm512_mask_add_epi32(bits, _mm512_cmp_ps_mask(x, x, _CMP_ORD_Q), bits, half);
    const __m512i upper = _mm512_set_epi32(0, 0, 0, 0, 0, 0, 0, 0, 0x1f001d, 0x1b0019, 0x170015, 0x130011, 0xf000d, 0xb0009,
                                           0x70005, 0x30001);  // the upper half of each number
    _mm256_mask_storeu_epi16(target, mask, _mm512_castsi512_si256(_mm512_permutexvar_epi16(upper, rounded)));
}

}  // namespace hubert_fast
#endif
