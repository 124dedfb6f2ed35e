// Operations on each row of a matrix in one pass over memory: addition, LayerNorm, GELU.
//
// A row of up to a few thousand numbers stays in the L1 cache between three passes over it, for its sum, for the deviations from
// the mean, and for the result. All arithmetic is float32.

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
// Their error is below 4e-8, and below 1e-3 Q(a). From a = 7.25 on, where Q is below 3e-13, they are zero.
alignas(64) constexpr float NORMAL_TAIL[6][LANES] = {
    {0.5f, 0.308537573f, 0.158655271f, 0.0668071955f, 0.0227501225f, 0.00620966218f,
     0.00134989852f, 0.000232629929f, 3.16715887e-05f, 3.39775283e-06f, 2.86663351e-07f, 1.89907148e-08f,
     9.86660753e-10f, 4.0162651e-11f, 1.27982585e-12f, 0.0f},
    {-0.199471116f, -0.176032588f, -0.120985322f, -0.0647588372f, -0.0269955397f, -0.00876417104f,
     -0.00221591606f, -0.00043633004f, -6.69097208e-05f, -7.99033569e-06f, -7.43067119e-07f, -5.38095541e-08f,
     -3.03414271e-09f, -1.33208167e-10f, -4.55316861e-12f, 0.0f},
    {-3.90085148e-07f, 0.0220024399f, 0.0302452613f, 0.024284875f, 0.0134984264f, 0.00547785405f,
     0.00166189554f, 0.000381717633f, 6.68793073e-05f, 8.98165126e-06f, 9.2762474e-07f, 7.38530872e-08f,
     4.54058346e-09f, 2.15870891e-10f, 7.94494158e-12f, 0.0f},
    {0.00831433199f, 0.00549977738f, -4.80997301e-07f, -0.00337215327f, -0.00337354676f, -0.00191687804f,
     -0.000738796603f, -0.000204721538f, -4.19089702e-05f, -6.43485419e-06f, -7.48103105e-07f, -6.62723849e-08f,
     -4.49375959e-09f, -2.34013864e-10f, -9.38282351e-12f, 0.0f},
    {-1.01895921e-05f, -0.0012429062f, -0.0012485875f, -0.000383117556f, 0.000273546961f, 0.000367952714f,
     0.00020832906f, 7.45580182e-05f, 1.85683966e-05f, 3.34968149e-06f, 4.47049047e-07f, 4.47033237e-08f,
     3.3772074e-09f, 1.93866312e-10f, 8.4913309e-12f, 0.0f},
    {-0.000298296334f, -0.00013860561f, 0.000126005776f, 0.000179999144f, 6.76675554e-05f, -2.11991319e-05f,
     -3.39425969e-05f, -1.75113164e-05f, -5.44448267e-06f, -1.15078342e-06f, -1.73500325e-07f, -1.91304821e-08f,
     -1.56596347e-09f, -9.61047561e-11f, -4.45252168e-12f, 0.0f},
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
