// The exact GELU of 16 numbers in float32, for CPUs with AVX-512.

#pragma once

#include "cpu.h"

#ifdef HUBERT_FAST_HAS_AVX512

namespace hubert_fast {

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

}  // namespace hubert_fast
#endif
