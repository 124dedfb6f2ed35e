// Operations on each row of a matrix in one pass over memory: addition, LayerNorm, GELU.
//
// A row of up to a few thousand numbers stays in the L1 cache between the passes over it: the sum, the deviations from the mean,
// and the result. All arithmetic is float32.

#include "cpu.h"

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

// Q(a) = P(X > a) of a normal variable, for a >= 0: minimax polynomials of degree 5 in 2a - n, n the nearest integer, 0 to 14.
// Their error is below 2.4e-8, and below 1e-5 Q(a). From a = 7.25 on, where Q is below 3e-13, they are zero.
alignas(64) constexpr float NORMAL_TAIL[6][LANES] = {
    {0.5f, 0.308537573f, 0.158655271f, 0.0668071955f, 0.0227501225f, 0.00620966125f, 0.00134989887f, 0.000232630453f,
     3.16718724e-05f, 3.39784515e-06f, 2.86683047e-07f, 1.89936404e-08f, 9.86972282e-10f, 4.01868469e-11f, 1.28121353e-12f, 0.0f},
    {-0.199471131f, -0.176032662f, -0.120985381f, -0.0647588074f, -0.0269954801f, -0.00876414403f, -0.00221592234f, -0.000436341827f,
     -6.69156943e-05f, -7.99209374e-06f, -7.43410396e-07f, -5.38565104e-08f, -3.03877012e-09f, -1.33542455e-10f, -4.57107659e-12f, 0.0f},
    {-3.67803409e-07f, 0.0220024157f, 0.0302452408f, 0.0242848992f, 0.0134984767f, 0.00547787687f, 0.00166188506f, 0.000381700083f,
     6.68695866e-05f, 8.97848258e-06f, 9.26939094e-07f, 7.37494901e-08f, 4.52934401e-09f, 2.14979853e-10f, 7.89271079e-12f, 0.0f},
    {0.00831420999f, 0.00550083257f, 4.3900414e-07f, -0.00337253441f, -0.00337450113f, -0.00191730889f, -0.000738690433f, -0.000204523007f,
     -4.18072013e-05f, -6.40449798e-06f, -7.42079578e-07f, -6.5433575e-08f, -4.40943637e-09f, -2.27788025e-10f, -9.04129462e-12f, 0.0f},
    {-9.91277284e-06f, -0.0012428083f, -0.0012485066f, -0.000383215869f, 0.000273345126f, 0.000367860048f, 0.000208371886f, 7.46292571e-05f,
     1.86080033e-05f, 3.3626518e-06f, 4.49869788e-07f, 4.51319728e-08f, 3.42400663e-09f, 1.9760181e-10f, 8.71193048e-12f, 0.0f},
    {-0.000298515602f, -0.000141985773f, 0.000123057325f, 0.000181234311f, 7.07482614e-05f, -1.98064354e-05f, -3.42928724e-05f, -1.81629839e-05f,
     -5.78023491e-06f, -1.25158863e-06f, -1.9365342e-07f, -2.19604548e-08f, -1.8530697e-09f, -1.17514012e-10f, -5.63954959e-12f, 0.0f},
};

// Computes the exact GELU, x (1 - Q(x)) = max(x, 0) - |x| Q(|x|). NaN stays NaN; -inf becomes 0.
struct Gelu {
    __m512 coefficients[6];

    HUBERT_FAST_AVX512_INLINE Gelu() {
        for (int i = 0; i < 6; ++i) coefficients[i] = _mm512_load_ps(NORMAL_TAIL[i]);
    }

    HUBERT_FAST_AVX512_INLINE __m512 operator()(__m512 x) const {
        const __m512 two = _mm512_set1_ps(2.0f), magic = _mm512_set1_ps(12582912.0f);  // 1.5 * 2^23: ulp 1
        const __m512 a = _mm512_min_ps(_mm512_abs_ps(x), _mm512_set1_ps(7.5f));
        const __m512 shifted = _mm512_fmadd_ps(a, two, magic);  // n in the lowest bits
        const __m512i n = _mm512_castps_si512(shifted);
        const __m512 rest = _mm512_fmsub_ps(a, two, _mm512_sub_ps(shifted, magic));
        __m512 tail = _mm512_permutexvar_ps(n, coefficients[5]);
        for (int i = 4; i >= 0; --i) tail = _mm512_fmadd_ps(tail, rest, _mm512_permutexvar_ps(n, coefficients[i]));
        return _mm512_fnmadd_ps(a, tail, _mm512_max_ps(_mm512_setzero_ps(), x));  // in this order, max returns a NaN of x
    }
};

template <class X, class Y, class Out, bool NORM, bool GELU>
HUBERT_FAST_AVX512 void transform(const Rows& arguments, const float* weight, const float* bias, int64_t first, int64_t last) {
    constexpr bool ADD = !std::is_void_v<Y>;
    const int64_t channels = arguments.channels;
    const Gelu gelu;
    for (int64_t row = first; row < last; ++row) {
        X* x = static_cast<X*>(arguments.x) + row * channels;
        Out* out = static_cast<Out*>(arguments.out) + row * channels;
        float mean = 0, scale = 1;
        if constexpr (NORM || ADD) {
            __m512 sum = _mm512_setzero_ps();
            for (int64_t c = 0; c < channels; c += LANES) {
                const __mmask16 mask = lanes(channels - c);
                __m512 value = load(x + c, mask);
                if constexpr (ADD) {
                    value = _mm512_add_ps(value, load(static_cast<const Y*>(arguments.y) + row * channels + c, mask));
                    store(x + c, value, mask);
                }
                sum = _mm512_add_ps(sum, value);
            }
            mean = _mm512_reduce_add_ps(sum) / channels;
        }
        if constexpr (NORM) {
            __m512 sum = _mm512_setzero_ps(), squares = _mm512_setzero_ps();
            for (int64_t c = 0; c < channels; c += LANES) {
                const __mmask16 mask = lanes(channels - c);
                const __m512 deviation = _mm512_maskz_sub_ps(mask, load(x + c, mask), _mm512_set1_ps(mean));
                sum = _mm512_add_ps(sum, deviation);
                squares = _mm512_fmadd_ps(deviation, deviation, squares);
            }
            const float error = _mm512_reduce_add_ps(sum) / channels;  // of the mean, from rounding
            const float variance = std::max(_mm512_reduce_add_ps(squares) / channels - error * error, 0.0f);
            mean += error;
            scale = 1 / std::sqrt(variance + arguments.eps);
        }
        for (int64_t c = 0; c < channels; c += LANES) {
            const __mmask16 mask = lanes(channels - c);
            __m512 value = load(x + c, mask);
            if constexpr (NORM) {
                value = _mm512_mul_ps(_mm512_sub_ps(value, _mm512_set1_ps(mean)), _mm512_set1_ps(scale));
                value = _mm512_fmadd_ps(value, load(weight + c, mask), load(bias + c, mask));
            }
            if constexpr (GELU) value = gelu(value);
            store(out + c, value, mask);
        }
    }
}

using Transform = void (*)(const Rows&, const float*, const float*, int64_t, int64_t);

// Return the function for a dtype of x, or of y and out.
template <bool NORM>
Transform in_place_gelu(bool is_bfloat16) {
    return is_bfloat16 ? transform<Bfloat16, void, Bfloat16, NORM, true> : transform<float, void, float, NORM, true>;
}

template <class Y>
Transform add_layer_norm(bool to_bfloat16) {
    return to_bfloat16 ? transform<float, Y, Bfloat16, true, false> : transform<float, Y, float, true, false>;
}

Transform choose(const Rows& arguments) {
    const bool in_place = arguments.x == arguments.out && arguments.x_is_bfloat16 == arguments.out_is_bfloat16;
    if (arguments.gelu && in_place && !arguments.y)
        return arguments.weight ? in_place_gelu<true>(arguments.x_is_bfloat16) : in_place_gelu<false>(arguments.x_is_bfloat16);
    if (arguments.gelu || !arguments.weight || arguments.x_is_bfloat16)
        throw std::invalid_argument("expected GELU in place, or LayerNorm of float32 rows");
    if (!arguments.y) return add_layer_norm<void>(arguments.out_is_bfloat16);
    return arguments.y_is_bfloat16 ? add_layer_norm<Bfloat16>(arguments.out_is_bfloat16)
                                   : add_layer_norm<float>(arguments.out_is_bfloat16);
}

// Converts a weight or bias to float32; zeros if there is none.
std::vector<float> converted(const void* source, int64_t count, bool is_bfloat16) {
    std::vector<float> result(count);
    for (int64_t i = 0; source && i < count; ++i) {
        const uint32_t bits = is_bfloat16 ? uint32_t{static_cast<const Bfloat16*>(source)[i]} << 16
                                          : static_cast<const uint32_t*>(source)[i];
        std::memcpy(&result[i], &bits, sizeof bits);
    }
    return result;
}

}  // namespace

void transform_rows(const Rows& arguments) {
    const Transform run = choose(arguments);
    const int64_t numbers = arguments.weight ? arguments.channels : 0;
    const std::vector<float> weight = converted(arguments.weight, numbers, arguments.weight_is_bfloat16);
    const std::vector<float> bias = converted(arguments.bias, numbers, arguments.weight_is_bfloat16);
    const int64_t step = std::max<int64_t>(NUMBERS_PER_TASK / std::max<int64_t>(arguments.channels, 1), 1);
    for_each_task((arguments.rows + step - 1) / step, arguments.threads, [&](int64_t task) {
        run(arguments, weight.data(), bias.data(), task * step, std::min((task + 1) * step, arguments.rows));
    });
}

#endif

}  // namespace hubert_fast
