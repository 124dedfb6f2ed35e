// The grouped convolution of positions by Fourier transforms of overlapping blocks, with the bias, GELU and the residual addition.
//
// A block of L = `points` frames yields L - K + 1 frames of a convolution of K taps (overlap-save). Two blocks of an utterance
// are the real and the imaginary part of one complex signal z: the taps are real, so the convolution of z holds those of both.
// With W, the spectrum of the taps, and Z, that of z, the product at frequency f needs W(f), and that at L - f its conjugate.
// Frequencies f and L - f are therefore two rows of one product with W(f): Z(f) and the conjugate of Z(L - f). Utterances share
// no signal, so that none depends on its neighbours.
//
// The three steps are transforms of 16 channels at a time, a product `[rows, C/G] x [C/G, C/G]` for each frequency and group,
// and transforms back. The spectrum of the taps is the most memory that is read, once for every `PAIRS` pairs of blocks.

#include "cpu.h"
#include "gelu_cpu.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

namespace hubert_fast {

#ifndef HUBERT_FAST_HAS_AVX512

void positions(const Positions&) { throw std::runtime_error("compiled without AVX-512"); }

#else

namespace {

constexpr int64_t PAIRS = POSITION_PAIRS, ROWS = 2 * PAIRS;
constexpr int64_t MAX_WIDTH = MAX_POSITION_CHANNELS;

struct Pair {  // two blocks of an utterance
    int64_t start, count;  // the utterance's first row, and its frames
    int64_t frame;         // the first frame of the first block's result
};

struct Signal {  // 16 channels at each point
    alignas(64) float real[MAX_POSITION_POINTS * LANES], imaginary[MAX_POSITION_POINTS * LANES];
};

// The discrete Fourier transform of `points` complex numbers, a power of two.
class Transform {
public:
    explicit Transform(int64_t points) : points_(points), cosines_(points / 2), sines_(points / 2), reversed_(points) {
        for (int64_t i = 0; i < points / 2; ++i) {
            const double angle = -2 * 3.14159265358979323846 * static_cast<double>(i) / static_cast<double>(points);
            cosines_[i] = static_cast<float>(std::cos(angle));
            sines_[i] = static_cast<float>(std::sin(angle));
        }
        for (int64_t i = 1; i < points; ++i) reversed_[i] = reversed_[i / 2] / 2 + (i % 2 ? points / 2 : 0);
    }

    // The place at which number i of the signal is to be stored: with its bits reversed.
    int64_t place(int64_t i) const { return reversed_[i] * LANES; }

    // Transforms a signal in place (Cooley and Tukey 1965).
    HUBERT_FAST_AVX512 void operator()(float* real, float* imaginary) const {
        for (int64_t half = 1; half < points_; half *= 2) {
            const int64_t turn = points_ / (2 * half), distance = half * LANES;
            for (int64_t i = 0; i < half; ++i) {
                const __m512 cosine = _mm512_set1_ps(cosines_[i * turn]), sine = _mm512_set1_ps(sines_[i * turn]);
                for (int64_t first = i * LANES; first < points_ * LANES; first += 2 * distance) {
                    float *re = real + first, *im = imaginary + first;
                    const __m512 a = _mm512_load_ps(re + distance), b = _mm512_load_ps(im + distance);
                    const __m512 c = _mm512_load_ps(re), d = _mm512_load_ps(im);
                    const __m512 turned_re = _mm512_fmsub_ps(a, cosine, _mm512_mul_ps(b, sine));
                    const __m512 turned_im = _mm512_fmadd_ps(a, sine, _mm512_mul_ps(b, cosine));
                    _mm512_store_ps(re, _mm512_add_ps(c, turned_re));
                    _mm512_store_ps(im, _mm512_add_ps(d, turned_im));
                    _mm512_store_ps(re + distance, _mm512_sub_ps(c, turned_re));
                    _mm512_store_ps(im + distance, _mm512_sub_ps(d, turned_im));
                }
            }
        }
    }

private:
    int64_t points_;
    std::vector<float> cosines_, sines_;
    std::vector<int64_t> reversed_;
};

class Convolution {
public:
    explicit Convolution(const Positions& arguments)
        : arguments_(arguments),
          transform_(arguments.points),
          hop_(arguments.points - arguments.kernel + 1),
          width_(arguments.channels / arguments.groups) {
        int64_t start = 0;
        for (int64_t count : arguments.counts) {
            for (int64_t frame = 0; frame < count; frame += 2 * hop_) pairs_.push_back({start, count, frame});
            start += count;
        }
    }

    void run() {
        const int64_t columns = arguments_.channels / LANES, frequencies = arguments_.points / 2 + 1;
        for (first_ = 0; first_ < static_cast<int64_t>(pairs_.size()); first_ += PAIRS) {
            present_ = std::min(PAIRS, static_cast<int64_t>(pairs_.size()) - first_);
            for_each_task(present_ * columns, arguments_.threads, [&](int64_t task) { forward(task / columns, task % columns); });
            for_each_task(frequencies, arguments_.threads, [&](int64_t task) {
                for (int64_t group = 0; group < arguments_.groups; ++group) multiply(task, group);
            });
            for_each_task(present_ * columns, arguments_.threads, [&](int64_t task) { back(task / columns, task % columns); });
        }
    }

private:
    // Row `row` of the real part of what is multiplied at a frequency; the imaginary part follows it.
    float* numbers(int64_t frequency, int64_t group, int64_t row) const {
        return arguments_.buffer + ((frequency * arguments_.groups + group) * 2 * present_ + row) * 2 * width_;
    }

    // Transforms 16 channels of a pair of blocks.
    HUBERT_FAST_AVX512 void forward(int64_t pair, int64_t column) const {
        Signal signal;
        const int64_t channel = column * LANES, group = channel / width_, within = channel % width_, points = arguments_.points;
        load_block(pairs_[first_ + pair], 0, channel, signal.real);
        load_block(pairs_[first_ + pair], hop_, channel, signal.imaginary);
        transform_(signal.real, signal.imaginary);
        for (int64_t f = 0; f <= points / 2; ++f) {
            const int64_t place = f * LANES, mirrored = f ? (points - f) * LANES : 0;
            float* row = numbers(f, group, 2 * pair) + within;
            _mm512_storeu_ps(row, _mm512_load_ps(signal.real + place));
            _mm512_storeu_ps(row + width_, _mm512_load_ps(signal.imaginary + place));
            _mm512_storeu_ps(row + 2 * width_, _mm512_load_ps(signal.real + mirrored));
            _mm512_storeu_ps(row + 3 * width_, _mm512_sub_ps(_mm512_setzero_ps(), _mm512_load_ps(signal.imaginary + mirrored)));
        }
    }

    // Loads the block whose results begin `offset` frames after those of the pair.
    HUBERT_FAST_AVX512 void load_block(const Pair& pair, int64_t offset, int64_t channel, float* target) const {
        const bool is_empty = pair.frame + offset >= pair.count;
        const int64_t first = pair.frame + offset - arguments_.kernel / 2;
        const __m512 padding = _mm512_loadu_ps(arguments_.padding + channel);
        for (int64_t i = 0; i < arguments_.points; ++i) {
            const int64_t frame = first + i;
            __m512 x = _mm512_setzero_ps();
            if (!is_empty && frame >= 0) {
                if (frame < pair.count)
                    x = _mm512_loadu_ps(arguments_.x + (pair.start + frame) * arguments_.channels + channel);
                else if (frame < arguments_.padded)
                    x = padding;
            }
            _mm512_store_ps(target + transform_.place(i), x);
        }
    }

    // Multiplies all rows of a group at a frequency by its spectrum, in place.
    HUBERT_FAST_AVX512 void multiply(int64_t frequency, int64_t group) const {
        alignas(64) float copy[ROWS * 2 * MAX_WIDTH];
        const int64_t rows = 2 * present_;
        float* target = numbers(frequency, group, 0);
        std::copy_n(target, rows * 2 * width_, copy);
        const float* spectrum = arguments_.spectrum + (frequency * arguments_.groups + group) * width_ * 2 * width_;
        for (int64_t row = 0; row < rows; row += 2) {
            const float* x = copy + row * 2 * width_;
            float* y = target + row * 2 * width_;
            int64_t column = 0;
            for (; column + 4 * LANES <= width_; column += 4 * LANES) multiply_panel<4>(x, spectrum + column, y + column);
            switch ((width_ - column) / LANES) {
                case 3: multiply_panel<3>(x, spectrum + column, y + column); break;
                case 2: multiply_panel<2>(x, spectrum + column, y + column); break;
                case 1: multiply_panel<1>(x, spectrum + column, y + column); break;
            }
        }
    }

    // Computes two complex rows of a product for COLUMNS registers of columns.
    template <int COLUMNS>
    HUBERT_FAST_AVX512_INLINE void multiply_panel(const float* x, const float* spectrum, float* y) const {
        __m512 real[2][COLUMNS], imaginary[2][COLUMNS];
#pragma GCC unroll 2
        for (int row = 0; row < 2; ++row)
#pragma GCC unroll 4
            for (int c = 0; c < COLUMNS; ++c) real[row][c] = imaginary[row][c] = _mm512_setzero_ps();
        for (int64_t i = 0; i < width_; ++i, spectrum += 2 * width_) {
#pragma GCC unroll 2
            for (int row = 0; row < 2; ++row) {
                const __m512 re = _mm512_set1_ps(x[row * 2 * width_ + i]), im = _mm512_set1_ps(x[(row * 2 + 1) * width_ + i]);
#pragma GCC unroll 4
                for (int c = 0; c < COLUMNS; ++c) {
                    const __m512 w_re = _mm512_loadu_ps(spectrum + c * LANES);
                    const __m512 w_im = _mm512_loadu_ps(spectrum + width_ + c * LANES);
                    real[row][c] = _mm512_fmadd_ps(re, w_re, real[row][c]);
                    imaginary[row][c] = _mm512_fmadd_ps(re, w_im, imaginary[row][c]);
                    real[row][c] = _mm512_fnmadd_ps(im, w_im, real[row][c]);
                    imaginary[row][c] = _mm512_fmadd_ps(im, w_re, imaginary[row][c]);
                }
            }
        }
#pragma GCC unroll 2
        for (int row = 0; row < 2; ++row)
#pragma GCC unroll 4
            for (int c = 0; c < COLUMNS; ++c) {
                _mm512_storeu_ps(y + row * 2 * width_ + c * LANES, real[row][c]);
                _mm512_storeu_ps(y + (row * 2 + 1) * width_ + c * LANES, imaginary[row][c]);
            }
    }

    // Transforms 16 channels of a pair back, and finishes their frames. With real and imaginary parts exchanged before and
    // after it, the transform is its own inverse but for the factor L, which the spectrum contains.
    HUBERT_FAST_AVX512 void back(int64_t pair, int64_t column) const {
        Signal signal;
        const int64_t channel = column * LANES, group = channel / width_, within = channel % width_, points = arguments_.points;
        for (int64_t f = 0; f <= points / 2; ++f) {
            const float* row = numbers(f, group, 2 * pair) + within;
            const int64_t place = transform_.place(f);
            _mm512_store_ps(signal.imaginary + place, _mm512_loadu_ps(row));
            _mm512_store_ps(signal.real + place, _mm512_loadu_ps(row + width_));
            if (f == 0 || f == points / 2) continue;
            const int64_t mirrored = transform_.place(points - f);
            _mm512_store_ps(signal.imaginary + mirrored, _mm512_loadu_ps(row + 2 * width_));
            _mm512_store_ps(signal.real + mirrored, _mm512_sub_ps(_mm512_setzero_ps(), _mm512_loadu_ps(row + 3 * width_)));
        }
        transform_(signal.real, signal.imaginary);
        store_block(pairs_[first_ + pair], 0, channel, signal.imaginary);
        store_block(pairs_[first_ + pair], hop_, channel, signal.real);
    }

    HUBERT_FAST_AVX512 void store_block(const Pair& pair, int64_t offset, int64_t channel, const float* result) const {
        const Gelu gelu;
        const int64_t frames = std::min(hop_, pair.count - pair.frame - offset), start = pair.start + pair.frame + offset;
        const __m512 bias = _mm512_loadu_ps(arguments_.bias + channel);
        for (int64_t i = 0; i < frames; ++i) {
            const int64_t index = (start + i) * arguments_.channels + channel;
            __m512 y = _mm512_add_ps(_mm512_load_ps(result + i * LANES), bias);
            if (arguments_.stream) y = _mm512_add_ps(_mm512_loadu_ps(arguments_.stream + index), gelu(y));
            _mm512_storeu_ps(arguments_.out + index, y);
        }
    }

    const Positions& arguments_;
    const Transform transform_;
    const int64_t hop_, width_;
    std::vector<Pair> pairs_;
    int64_t first_ = 0, present_ = 0;  // the pairs that are in the buffer
};

}  // namespace

void positions(const Positions& arguments) { Convolution(arguments).run(); }

#endif

}  // namespace hubert_fast
