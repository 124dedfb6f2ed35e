// The first convolution of the feature encoder, from one channel of samples, with LayerNorm (if there is one) and GELU.
//
// It reads little and writes much: with 10 taps and 512 channels, a frame of five new samples gives 512 numbers. A few frames at a
// time are computed into the L1 cache, and normalised, activated and rounded from there, so that memory is passed over once.

#include "cpu.h"

#include <algorithm>
#include <stdexcept>

namespace hubert_fast {

#ifndef HUBERT_FAST_HAS_AVX512

void first_convolution(const FirstConvolution&) { throw std::runtime_error("compiled without AVX-512"); }

#else

namespace {

constexpr int64_t ROWS = 4;             // of the micro-kernel: with four registers of columns, 16 accumulate
constexpr int64_t FRAMES_PER_TASK = 64;  // about 32,000 numbers

// Computes four frames of COLUMNS registers of channels: the bias plus, tap by tap, sample times weight. Rows of weight and out
// are `stride` numbers apart.
template <int COLUMNS>
HUBERT_FAST_AVX512_INLINE void multiply_panel(const float* windows, int64_t kernel, const float* weight, const float* bias,
                                              int64_t stride, float* out) {
    __m512 sums[ROWS][COLUMNS];
#pragma GCC unroll 4
    for (int row = 0; row < ROWS; ++row)
#pragma GCC unroll 4
        for (int c = 0; c < COLUMNS; ++c) sums[row][c] = _mm512_loadu_ps(bias + c * LANES);
    for (int64_t tap = 0; tap < kernel; ++tap, weight += stride) {
#pragma GCC unroll 4
        for (int row = 0; row < ROWS; ++row) {
            const __m512 sample = _mm512_set1_ps(windows[row * kernel + tap]);
#pragma GCC unroll 4
            for (int c = 0; c < COLUMNS; ++c)
                sums[row][c] = _mm512_fmadd_ps(sample, _mm512_loadu_ps(weight + c * LANES), sums[row][c]);
        }
    }
#pragma GCC unroll 4
    for (int row = 0; row < ROWS; ++row)
#pragma GCC unroll 4
        for (int c = 0; c < COLUMNS; ++c) _mm512_storeu_ps(out + row * stride + c * LANES, sums[row][c]);
}

// Computes four frames of all channels, of which there are `stride`, a multiple of 16.
HUBERT_FAST_AVX512 void multiply(const float* windows, int64_t kernel, const float* weight, const float* bias, int64_t stride,
                                 float* out) {
    int64_t c = 0;
    for (; c + 4 * LANES <= stride; c += 4 * LANES) multiply_panel<4>(windows, kernel, weight + c, bias + c, stride, out + c);
    for (; c < stride; c += LANES) multiply_panel<1>(windows, kernel, weight + c, bias + c, stride, out + c);
}

}  // namespace

void first_convolution(const FirstConvolution& arguments) {
    const int64_t kernel = arguments.kernel, channels = arguments.rows.channels;
    std::vector<float> weight(kernel * channels);  // [kernel, C]
    for (int64_t c = 0; c < channels; ++c)
        for (int64_t tap = 0; tap < kernel; ++tap) weight[tap * channels + c] = arguments.weight[c * kernel + tap];
    std::vector<float> bias(channels), mean(kernel);
    if (arguments.bias) bias.assign(arguments.bias, arguments.bias + channels);
    if (arguments.mean) mean.assign(arguments.mean, arguments.mean + kernel);
    const NormWeights norm(arguments.rows);
    const RowFunction finish = row_function(arguments.rows);
    const int64_t frames = arguments.rows.rows, size = arguments.rows.out_is_bfloat16 ? sizeof(Bfloat16) : sizeof(float);
    for_each_task((frames + FRAMES_PER_TASK - 1) / FRAMES_PER_TASK, arguments.rows.threads, [&](int64_t task) {
        alignas(64) float convolved[ROWS * MAX_FIRST_CHANNELS], windows[ROWS * MAX_FIRST_KERNEL];
        const int64_t last = std::min((task + 1) * FRAMES_PER_TASK, frames);
        for (int64_t first = task * FRAMES_PER_TASK; first < last; first += ROWS) {
            Rows rows = arguments.rows;
            rows.rows = std::min(ROWS, last - first);
            for (int64_t row = 0; row < ROWS; ++row)
                for (int64_t tap = 0; tap < kernel; ++tap)
                    windows[row * kernel + tap] =
                        row < rows.rows ? arguments.samples[(first + row) * arguments.stride + tap] - mean[tap] : 0.0f;
            multiply(windows, kernel, weight.data(), bias.data(), channels, convolved);
            rows.x = convolved;
            rows.out = static_cast<char*>(arguments.rows.out) + first * channels * size;
            finish(rows, norm.weight.data(), norm.bias.data(), 0, rows.rows);
        }
    });
}

#endif

}  // namespace hubert_fast
