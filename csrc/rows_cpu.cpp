// Operations on each row of a matrix in one pass over memory: addition, LayerNorm, GELU.
//
// A row of up to a few thousand numbers stays in the L1 cache between three passes over it, for its sum, for the deviations from
// the mean, and for the result. All arithmetic is float32.

#include "cpu.h"
#include "gelu_cpu.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <type_traits>

namespace hubert_fast {

#ifndef HUBERT_FAST_HAS_AVX512

void transform_rows(const Rows&) { throw std::runtime_error("compiled without AVX-512"); }

#else

namespace {

constexpr int64_t NUMBERS_PER_TASK = 1 << 15;  // starting threads takes about as long as 2^13 numbers

// Calls body for each register of a row, with its first channel, the channels present, and the number of an accumulator.
template <class Body>
HUBERT_FAST_AVX512_INLINE void for_each_register(int64_t channels, const Body& body) {
    int64_t c = 0;
    for (; c + 4 * LANES <= channels; c += 4 * LANES) {
        body(c, 0xffff, 0);
        body(c + LANES, 0xffff, 1);
        body(c + 2 * LANES, 0xffff, 2);
        body(c + 3 * LANES, 0xffff, 3);
    }
    for (; c < channels; c += LANES) body(c, lanes(channels - c), 0);
}

struct Accumulators {  // four, since an addition takes several cycles
    __m512 sums[4];

    HUBERT_FAST_AVX512_INLINE Accumulators() {
        for (int i = 0; i < 4; ++i) sums[i] = _mm512_setzero_ps();
    }

    HUBERT_FAST_AVX512_INLINE float total() const {
        return _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(sums[0], sums[1]), _mm512_add_ps(sums[2], sums[3])));
    }
};

template <class X, class Y, class Out, bool NORM, bool GELU>
HUBERT_FAST_AVX512 void transform(const Rows& arguments, const float* weight, const float* bias, int64_t first, int64_t last) {
    const int64_t channels = arguments.channels;
    const Gelu gelu;
    for (int64_t row = first; row < last; ++row) {
        X* x = static_cast<X*>(arguments.x) + row * channels;
        Out* out = static_cast<Out*>(arguments.out) + row * channels;
        float mean = 0, scale = 1, shift = 0;
        if constexpr (NORM) {
            Accumulators sum, deviations, squares;
            for_each_register(channels, [&](int64_t c, __mmask16 mask, int i) HUBERT_FAST_AVX512_ALWAYS {
                __m512 value = load(x + c, mask);
                if constexpr (!std::is_void_v<Y>) {
                    value = _mm512_add_ps(value, load(static_cast<const Y*>(arguments.y) + row * channels + c, mask));
                    store(x + c, value, mask);
                }
                sum.sums[i] = _mm512_add_ps(sum.sums[i], value);
            });
            mean = sum.total() / channels;
            for_each_register(channels, [&](int64_t c, __mmask16 mask, int i) HUBERT_FAST_AVX512_ALWAYS {
                const __m512 deviation = _mm512_maskz_sub_ps(mask, load(x + c, mask), _mm512_set1_ps(mean));
                deviations.sums[i] = _mm512_add_ps(deviations.sums[i], deviation);
                squares.sums[i] = _mm512_fmadd_ps(deviation, deviation, squares.sums[i]);
            });
            const float error = deviations.total() / channels;  // of the mean, from rounding
            const float variance = std::max(squares.total() / channels - error * error, 0.0f);
            scale = 1 / std::sqrt(variance + arguments.eps);
            shift = -error * scale;
        }
        for_each_register(channels, [&](int64_t c, __mmask16 mask, int) HUBERT_FAST_AVX512_ALWAYS {
            __m512 value = load(x + c, mask);
            if constexpr (NORM) {
                value = _mm512_sub_ps(value, _mm512_set1_ps(mean));
                value = _mm512_fmadd_ps(value, _mm512_set1_ps(scale), _mm512_set1_ps(shift));
                value = _mm512_fmadd_ps(value, load(weight + c, mask), load(bias + c, mask));
            }
            if constexpr (GELU) value = gelu(value);
            if (arguments.post) store(x + c, value, mask);
            store(out + c, value, mask);
        });
    }
}

// Return the function for the dtypes of x, y and out.
template <class X, class Out>
RowFunction gelu_after(bool norm) {
    return norm ? transform<X, void, Out, true, true> : transform<X, void, Out, false, true>;
}

template <class Y>
RowFunction add_layer_norm(bool to_bfloat16) {
    return to_bfloat16 ? transform<float, Y, Bfloat16, true, false> : transform<float, Y, float, true, false>;
}

// Converts a weight or bias to float32.
std::vector<float> converted(const void* source, int64_t count, bool is_bfloat16) {
    std::vector<float> result(count);
    for (int64_t i = 0; i < count; ++i) {
        const uint32_t bits = is_bfloat16 ? uint32_t{static_cast<const Bfloat16*>(source)[i]} << 16
                                          : static_cast<const uint32_t*>(source)[i];
        std::memcpy(&result[i], &bits, sizeof bits);
    }
    return result;
}

}  // namespace

NormWeights::NormWeights(const Rows& arguments) {
    if (!arguments.weight) return;
    weight = converted(arguments.weight, arguments.channels, arguments.weight_is_bfloat16);
    bias = converted(arguments.bias, arguments.channels, arguments.weight_is_bfloat16);
}

RowFunction row_function(const Rows& arguments) {
    const bool norm = arguments.weight, to_bfloat16 = arguments.out_is_bfloat16;
    if (arguments.gelu && !arguments.y && (!arguments.x_is_bfloat16 || to_bfloat16)) {
        if (arguments.x_is_bfloat16) return gelu_after<Bfloat16, Bfloat16>(norm);
        return to_bfloat16 ? gelu_after<float, Bfloat16>(norm) : gelu_after<float, float>(norm);
    }
    if (arguments.gelu || !norm || arguments.x_is_bfloat16)
        throw std::invalid_argument("expected GELU without an addition, or LayerNorm of float32 rows");
    if (!arguments.y) return add_layer_norm<void>(to_bfloat16);
    return arguments.y_is_bfloat16 ? add_layer_norm<Bfloat16>(to_bfloat16) : add_layer_norm<float>(to_bfloat16);
}

void transform_rows(const Rows& arguments) {
    const RowFunction run = row_function(arguments);
    const NormWeights norm(arguments);
    const int64_t step = std::max<int64_t>(NUMBERS_PER_TASK / std::max<int64_t>(arguments.channels, 1), 1);
    for_each_task((arguments.rows + step - 1) / step, arguments.threads, [&](int64_t task) {
        run(arguments, norm.weight.data(), norm.bias.data(), task * step, std::min((task + 1) * step, arguments.rows));
    });
}

#endif

}  // namespace hubert_fast
