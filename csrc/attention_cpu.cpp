// Self-attention within utterances in float32 arithmetic, for CPUs with AVX-512.
//
// A task is a range of at most 252 queries of one head of one utterance. It takes the keys in blocks of at most 256 and keeps,
// for each query, the running maximum and sum of the softmax and the unnormalised output (Milakov and Gimelshein 2018; Rabe and
// Staats 2021), so that memory does not grow with the audio. For a block of keys it packs K transposed and V into panels, then
// takes six queries at a time: scores = q K^T, softmax, output += p V.
//
// Both products are the same micro-kernel: six rows by up to four registers of columns are accumulated in registers, one outer
// product per step. The panels of a block, 64 + 64 kB at D = 64, stay in the L2 cache; six rows of scores stay in L1.

#include "cpu.h"

#include <algorithm>
#include <atomic>
#include <cfloat>
#include <cmath>
#include <memory>
#include <new>
#include <stdexcept>

namespace hubert_fast {

#ifndef HUBERT_FAST_HAS_AVX512

void attention(const Attention&) { throw std::runtime_error("compiled without AVX-512"); }

#else

namespace {

constexpr int64_t ROWS = 6;       // of the micro-kernel: 24 registers accumulate, four hold columns
constexpr int64_t COLUMNS = 4;    // registers of columns in a panel, at most
constexpr int64_t QUERIES = 252;  // of a task, at most: 42 times six
constexpr int64_t KEYS = 256;     // of a block, at most
constexpr int64_t MAX_HEAD_DIM = 128;
constexpr int64_t TASKS_PER_THREAD = 4;  // where queries suffice, so that all threads end at about the same time
constexpr int64_t FEWEST_QUERIES = 48;   // of a task: each packs the keys again

struct Buffers {  // of a thread
    alignas(64) float keys[KEYS * MAX_HEAD_DIM];
    alignas(64) float values[KEYS * MAX_HEAD_DIM];
    alignas(64) float outputs[QUERIES * MAX_HEAD_DIM];  // not yet divided by the sums
    alignas(64) float queries[ROWS * MAX_HEAD_DIM];
    alignas(64) float scores[ROWS * KEYS];
    float maxima[QUERIES], sums[QUERIES];
};

// Products of queries and keys run over units of 32 bits: a number in float32 or, with PAIRS, two numbers in bfloat16.
template <class Number, bool PAIRS>
HUBERT_FAST_AVX512_INLINE __m512 load_units(const Number* row, int64_t unit, __mmask16 mask) {
    if constexpr (PAIRS) return _mm512_castsi512_ps(_mm512_maskz_loadu_epi32(mask, row + 2 * unit));
    return load(row + unit, mask);
}

template <bool PAIRS>
HUBERT_FAST_AVX512_INLINE __m512 add_product(__m512 sum, __m512 a, __m512 b) {
    if constexpr (PAIRS) {
        // assembly, because the rest must run on CPUs without this instruction
        asm("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
        return sum;
    }
    return _mm512_fmadd_ps(a, b, sum);
}

// Returns the width of the next panel where `left` registers of columns are left: panels are about equally wide.
inline int64_t next_width(int64_t left) {
    const int64_t panels = (left + COLUMNS - 1) / COLUMNS;
    return (left + panels - 1) / panels;
}

// Computes six rows of a panel: c[row, :] = scale[row] * c[row, :] + sum over i of a[row, i] * b[i, :].
// Without scale, c is not read. b holds WIDTH registers for each i.
template <bool PAIRS, int WIDTH>
HUBERT_FAST_AVX512_INLINE void multiply_panel(const float* a, int64_t a_stride, const float* b, int64_t depth, float* c,
                                              int64_t c_stride, const float* scale) {
    __m512 sums[ROWS][WIDTH];
#pragma GCC unroll 8
    for (int row = 0; row < ROWS; ++row)
#pragma GCC unroll 8
        for (int column = 0; column < WIDTH; ++column) sums[row][column] = _mm512_setzero_ps();
    for (int64_t i = 0; i < depth; ++i, b += WIDTH * LANES) {
        __m512 columns[WIDTH];
#pragma GCC unroll 8
        for (int column = 0; column < WIDTH; ++column) columns[column] = _mm512_load_ps(b + column * LANES);
#pragma GCC unroll 8
        for (int row = 0; row < ROWS; ++row) {
            const __m512 factor = _mm512_set1_ps(a[row * a_stride + i]);
#pragma GCC unroll 8
            for (int column = 0; column < WIDTH; ++column)
                sums[row][column] = add_product<PAIRS>(sums[row][column], factor, columns[column]);
        }
    }
#pragma GCC unroll 8
    for (int row = 0; row < ROWS; ++row)
#pragma GCC unroll 8
        for (int column = 0; column < WIDTH; ++column) {
            float* target = c + row * c_stride + column * LANES;
            __m512 sum = sums[row][column];
            if (scale) sum = _mm512_fmadd_ps(_mm512_set1_ps(scale[row]), _mm512_load_ps(target), sum);
            _mm512_store_ps(target, sum);
        }
}

// Computes six rows of a product, panel after panel, with `registers` registers of columns in all.
template <bool PAIRS>
HUBERT_FAST_AVX512 void multiply(const float* a, int64_t a_stride, const float* b, int64_t depth, float* c, int64_t c_stride,
                                 int64_t registers, const float* scale) {
    for (int64_t left = registers, width; left > 0; left -= width, b += depth * width * LANES, c += width * LANES) {
        width = next_width(left);
        switch (width) {
            case 4: multiply_panel<PAIRS, 4>(a, a_stride, b, depth, c, c_stride, scale); break;
            case 3: multiply_panel<PAIRS, 3>(a, a_stride, b, depth, c, c_stride, scale); break;
            case 2: multiply_panel<PAIRS, 2>(a, a_stride, b, depth, c, c_stride, scale); break;
            default: multiply_panel<PAIRS, 1>(a, a_stride, b, depth, c, c_stride, scale);
        }
    }
}

HUBERT_FAST_AVX512_INLINE void transpose(__m512 (&x)[16]) {
    __m512 y[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; i += 2) {
        y[i] = _mm512_unpacklo_ps(x[i], x[i + 1]);
        y[i + 1] = _mm512_unpackhi_ps(x[i], x[i + 1]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < 16; i += 4) {  // quarter l of x[i + j] becomes column 4 l + j of rows i to i + 3
        x[i] = _mm512_shuffle_ps(y[i], y[i + 2], 0x44);
        x[i + 1] = _mm512_shuffle_ps(y[i], y[i + 2], 0xee);
        x[i + 2] = _mm512_shuffle_ps(y[i + 1], y[i + 3], 0x44);
        x[i + 3] = _mm512_shuffle_ps(y[i + 1], y[i + 3], 0xee);
    }
#pragma GCC unroll 16
    for (int j = 0; j < 4; ++j) {  // the quarters, a matrix of 4 by 4 for each j
        const __m512 even_0 = _mm512_shuffle_f32x4(x[j], x[j + 4], 0x88), odd_0 = _mm512_shuffle_f32x4(x[j], x[j + 4], 0xdd);
        const __m512 even_8 = _mm512_shuffle_f32x4(x[j + 8], x[j + 12], 0x88);
        const __m512 odd_8 = _mm512_shuffle_f32x4(x[j + 8], x[j + 12], 0xdd);
        x[j] = _mm512_shuffle_f32x4(even_0, even_8, 0x88);
        x[j + 4] = _mm512_shuffle_f32x4(odd_0, odd_8, 0x88);
        x[j + 8] = _mm512_shuffle_f32x4(even_0, even_8, 0xdd);
        x[j + 12] = _mm512_shuffle_f32x4(odd_0, odd_8, 0xdd);
    }
}

// Packs keys `[count, units]` into panels `[units, 16 width]`. Keys that fill up the last register are zero.
template <class Number, bool PAIRS>
HUBERT_FAST_AVX512 void pack_keys(const Number* keys, int64_t stride, int64_t count, int64_t units, float* packed) {
    const int64_t registers = (count + LANES - 1) / LANES;
    for (int64_t left = registers, width; left > 0; left -= width, packed += units * width * LANES) {
        width = next_width(left);
        for (int64_t column = 0; column < width; ++column) {
            const int64_t first = (registers - left + column) * LANES, rows = std::min(count - first, LANES);
            for (int64_t unit = 0; unit < units; unit += LANES) {
                const int64_t present = std::min(units - unit, LANES);
                __m512 tile[LANES];
                for (int64_t i = 0; i < LANES; ++i)
                    tile[i] = i < rows ? load_units<Number, PAIRS>(keys + (first + i) * stride, unit, lanes(present))
                                       : _mm512_setzero_ps();
                transpose(tile);
                for (int64_t i = 0; i < present; ++i)
                    _mm512_store_ps(packed + ((unit + i) * width + column) * LANES, tile[i]);
            }
        }
    }
}

// Packs values `[count, D]` into panels `[count, 16 width]`.
template <class Number>
HUBERT_FAST_AVX512 void pack_values(const Number* values, int64_t stride, int64_t count, int64_t head_dim, float* packed) {
    for (int64_t left = head_dim / LANES, width; left > 0; left -= width, values += width * LANES) {
        width = next_width(left);
        for (int64_t key = 0; key < count; ++key)
            for (int64_t column = 0; column < width; ++column, packed += LANES)
                _mm512_store_ps(packed, load(values + key * stride + column * LANES, 0xffff));
    }
}

// Replaces six rows of scores by exp(factor / log2(e) * (score - maximum)), where the maximum is that of all keys so far.
// Updates maxima and sums, and computes by what the sums and outputs so far are multiplied for the new maximum.
HUBERT_FAST_AVX512 void softmax(float* scores, int64_t count, float factor, float* maxima, float* sums, float* rescale) {
    const int64_t full = (count - 1) / LANES * LANES;  // the last register may be filled up
    const __mmask16 rest = lanes(count - full);
    for (int64_t row = 0; row < ROWS; ++row, scores += KEYS) {
        __m512 most = _mm512_mask_load_ps(_mm512_set1_ps(maxima[row]), rest, scores + full);
        for (int64_t key = 0; key < full; key += LANES) most = _mm512_max_ps(most, _mm512_load_ps(scores + key));
        const float maximum = std::max(maxima[row], _mm512_reduce_max_ps(most));
        const __m512 shift = _mm512_set1_ps(maximum);
        __m512 sum = _mm512_setzero_ps();
        for (int64_t key = 0; key < full; key += LANES) {
            const __m512 p = exp2_of_product(_mm512_sub_ps(_mm512_load_ps(scores + key), shift), factor);
            _mm512_store_ps(scores + key, p);
            sum = _mm512_add_ps(sum, p);
        }
        const __m512 p = exp2_of_product(_mm512_sub_ps(_mm512_load_ps(scores + full), shift), factor);
        _mm512_store_ps(scores + full, p);
        sum = _mm512_add_ps(sum, _mm512_maskz_mov_ps(rest, p));
        rescale[row] = _mm512_cvtss_f32(exp2_of_product(_mm512_set1_ps(maxima[row] - maximum), factor));
        sums[row] = sums[row] * rescale[row] + _mm512_reduce_add_ps(sum);
        maxima[row] = maximum;
    }
}

struct Range {  // of the queries of an utterance, which begins at row `start`
    int64_t start, count, first, last;
    int64_t work() const { return (last - first) * count; }
};

template <class Number, bool PAIRS>
HUBERT_FAST_AVX512 void attend(const Attention& arguments, const Range& range, int64_t head, Buffers& buffers) {
    const int64_t head_dim = arguments.head_dim, units = PAIRS ? head_dim / 2 : head_dim;
    const auto row_of = [&](const void* x, int64_t stride, int64_t row) {
        return static_cast<const Number*>(x) + (range.start + row) * stride + head * head_dim;
    };
    const float factor = static_cast<float>(1.4426950408889634 / std::sqrt(static_cast<double>(head_dim)));
    std::fill_n(buffers.maxima, QUERIES, -FLT_MAX);
    std::fill_n(buffers.sums, QUERIES, 0.0f);
    const int64_t blocks = (range.count + KEYS - 1) / KEYS;
    const int64_t step = ((range.count + blocks - 1) / blocks + LANES - 1) / LANES * LANES;
    for (int64_t begin = 0; begin < range.count; begin += step) {
        const int64_t keys = std::min(step, range.count - begin);
        pack_keys<Number, PAIRS>(row_of(arguments.k, arguments.k_stride, begin), arguments.k_stride, keys, units, buffers.keys);
        pack_values(row_of(arguments.v, arguments.v_stride, begin), arguments.v_stride, keys, head_dim, buffers.values);
        for (int64_t query = range.first; query < range.last; query += ROWS) {
            const int64_t rows = std::min(ROWS, range.last - query), place = query - range.first;
            for (int64_t row = 0; row < ROWS; ++row)
                for (int64_t unit = 0; unit < units; unit += LANES)
                    _mm512_storeu_ps(buffers.queries + row * MAX_HEAD_DIM + unit,
                                    row < rows ? load_units<Number, PAIRS>(row_of(arguments.q, arguments.q_stride, query + row),
                                                                           unit, lanes(units - unit))
                                               : _mm512_setzero_ps());
            multiply<PAIRS>(buffers.queries, MAX_HEAD_DIM, buffers.keys, units, buffers.scores, KEYS,
                            (keys + LANES - 1) / LANES, nullptr);
            float rescale[ROWS];
            softmax(buffers.scores, keys, factor, buffers.maxima + place, buffers.sums + place, rescale);
            float* outputs = buffers.outputs + place * head_dim;
            multiply<false>(buffers.scores, KEYS, buffers.values, keys, outputs, head_dim, head_dim / LANES,
                            begin ? rescale : nullptr);
            if (begin + step < range.count) continue;
            for (int64_t row = 0; row < rows; ++row, outputs += head_dim) {
                Number* out = const_cast<Number*>(row_of(arguments.out, arguments.out_stride, query + row));
                const __m512 scale = _mm512_set1_ps(1 / buffers.sums[place + row]);
                for (int64_t i = 0; i < head_dim; i += LANES)
                    store(out + i, _mm512_mul_ps(_mm512_load_ps(outputs + i), scale), 0xffff);
            }
        }
    }
}

// Cuts the queries of each utterance into equal ranges, those with the most work first.
std::vector<Range> ranges_of(const Attention& arguments) {
    int64_t fewest = 0;  // tasks, if they are as large as possible
    for (int64_t count : arguments.counts) fewest += (count + QUERIES - 1) / QUERIES * arguments.heads;
    const int64_t wanted = arguments.threads > 1 ? TASKS_PER_THREAD * arguments.threads : 1;
    const int64_t cuts = fewest ? (wanted + fewest - 1) / fewest : 1;
    std::vector<Range> ranges;
    int64_t start = 0;
    for (int64_t count : arguments.counts) {
        const int64_t least = (count + QUERIES - 1) / QUERIES;
        const int64_t parts = std::max(least, std::min(least * cuts, count / FEWEST_QUERIES));
        const int64_t step = parts ? ((count + parts - 1) / parts + ROWS - 1) / ROWS * ROWS : 1;
        for (int64_t first = 0; first < count; first += step)
            ranges.push_back({start, count, first, std::min(first + step, count)});
        start += count;
    }
    std::stable_sort(ranges.begin(), ranges.end(), [](const Range& a, const Range& b) { return a.work() > b.work(); });
    return ranges;
}

}  // namespace

void attention(const Attention& arguments) {
    const auto run = !arguments.is_bfloat16  ? attend<float, false>
                     : arguments.dot_bfloat16 ? attend<Bfloat16, true>
                                              : attend<Bfloat16, false>;
    const std::vector<Range> ranges = ranges_of(arguments);
    std::atomic<bool> out_of_memory{false};
    for_each_task(static_cast<int64_t>(ranges.size()) * arguments.heads, arguments.threads, [&](int64_t task) {
        static thread_local std::unique_ptr<Buffers> buffers;  // kept, since fresh memory costs page faults
        if (!buffers) buffers.reset(new (std::nothrow) Buffers);
        if (buffers)
            run(arguments, ranges[task / arguments.heads], task % arguments.heads, *buffers);
        else
            out_of_memory = true;
    });
    if (out_of_memory) throw std::bad_alloc();
}

#endif

}  // namespace hubert_fast
