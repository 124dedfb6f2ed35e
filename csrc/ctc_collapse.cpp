// Greedy CTC decoding of whole batches: from the most probable id of each frame to tokens, words and text.
//
// Graves et al. 2006, "Connectionist Temporal Classification": runs of equal ids are merged, then blanks are dropped, so that
// doubled letters need a blank between them. The Python interface, hubert_fast.ctc, documents the meaning of every number; its
// fallback does the same in Python. Utterances are independent: each thread decodes a range of them into buffers of its own.
// These are joined in order, so that the result does not depend on the number of threads.

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstdint>
#include <exception>
#include <limits>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <vector>

namespace py = pybind11;

namespace {

enum Kind : uint8_t { kText = 0, kDropped = 1, kDelimiter = 2, kUnnamed = 3 };

// The tokens of a vocabulary as one block of UTF-8, with the kind of each.
struct Table {
    std::string bytes;
    std::vector<int64_t> ends;  // end of each token in bytes; it begins where the previous one ends
    std::vector<uint8_t> kinds;

    Table(const std::vector<std::string>& tokens, const std::vector<int>& token_kinds) {
        if (tokens.size() != token_kinds.size())
            throw std::invalid_argument("expected as many kinds as tokens, " + std::to_string(tokens.size()) + ", but got " +
                                        std::to_string(token_kinds.size()));
        for (size_t id = 0; id < tokens.size(); ++id) {
            if (token_kinds[id] < kText || token_kinds[id] > kUnnamed)
                throw std::invalid_argument("the kind of token " + std::to_string(id) + " must be 0 to 3, but is " +
                                            std::to_string(token_kinds[id]));
            bytes += tokens[id];
            ends.push_back(static_cast<int64_t>(bytes.size()));
            kinds.push_back(static_cast<uint8_t>(token_kinds[id]));
        }
    }

    std::string_view text(int64_t id) const {
        const int64_t begin = id == 0 ? 0 : ends[id - 1];
        return std::string_view(bytes).substr(begin, ends[id] - begin);
    }
};

// The results of one thread. Frames are counted from the first of the utterance; ends are exclusive.
struct Decoded {
    std::vector<int32_t> token_ids, token_begins, token_ends;
    std::vector<float> token_means;
    std::vector<int64_t> token_counts;  // per utterance
    std::string word_bytes;
    std::vector<int64_t> word_lengths;  // in bytes
    std::vector<int32_t> word_begins, word_ends;
    std::vector<float> word_means;
    std::vector<int64_t> word_counts;  // per utterance
    std::string text_bytes;
    std::vector<int64_t> text_lengths;  // in bytes, per utterance
    std::vector<float> text_means;
    std::string error;           // of the first utterance with an error
    std::exception_ptr failure;  // any other exception, such as a lack of memory
};

struct Options {
    int64_t blank;
    bool group, tokens, words;
};

class Mean {
  public:
    void add(double sum, int64_t frames) { sum_ += sum, frames_ += frames; }
    float value() const {
        return frames_ ? static_cast<float>(sum_ / static_cast<double>(frames_)) : std::numeric_limits<float>::quiet_NaN();
    }
    void clear() { sum_ = 0, frames_ = 0; }

  private:
    double sum_ = 0;
    int64_t frames_ = 0;
};

// If log_probs is null, every mean is NaN.
template <typename Id>
bool decode_utterance(const Id* ids, const float* log_probs, int64_t frames, int64_t utterance, const Table& table,
                      const Options& options, Decoded& out) {
    const auto vocabulary = static_cast<int64_t>(table.kinds.size());
    const size_t text_begin = out.text_bytes.size(), tokens_begin = out.token_ids.size();
    const size_t words_begin = out.word_begins.size();
    size_t word_text_begin = out.word_bytes.size();
    bool in_word = false;
    int64_t word_begin = 0, word_end = 0;
    Mean word_mean, text_mean;
    const auto finish_word = [&] {
        if (!in_word) return;
        out.word_lengths.push_back(static_cast<int64_t>(out.word_bytes.size() - word_text_begin));
        out.word_begins.push_back(static_cast<int32_t>(word_begin));
        out.word_ends.push_back(static_cast<int32_t>(word_end));
        out.word_means.push_back(word_mean.value());
        in_word = false;
    };
    for (int64_t begin = 0, end; begin < frames; begin = end) {
        const auto id = static_cast<int64_t>(ids[begin]);
        end = begin + 1;
        if (options.group)
            while (end < frames && ids[end] == ids[begin]) ++end;
        if (id == options.blank) continue;
        if (id < 0 || id >= vocabulary || table.kinds[id] == kUnnamed) {
            out.error = "frame " + std::to_string(begin) + " of utterance " + std::to_string(utterance) + " has token id " +
                        std::to_string(id) + ", which is not in the vocabulary of " + std::to_string(vocabulary) + " tokens";
            return false;
        }
        const uint8_t kind = table.kinds[id];
        if (kind == kDropped) continue;
        double sum = std::numeric_limits<double>::quiet_NaN();
        if (log_probs) {
            sum = 0;
            for (int64_t frame = begin; frame < end; ++frame) sum += log_probs[frame];
        }
        text_mean.add(sum, end - begin);
        const std::string_view text = table.text(id);
        out.text_bytes += text;
        if (options.tokens) {
            out.token_ids.push_back(static_cast<int32_t>(id));
            out.token_begins.push_back(static_cast<int32_t>(begin));
            out.token_ends.push_back(static_cast<int32_t>(end));
            out.token_means.push_back(static_cast<float>(sum / static_cast<double>(end - begin)));
        }
        if (!options.words) continue;
        if (kind == kDelimiter) {
            finish_word();
            continue;
        }
        if (!in_word) {
            in_word = true;
            word_begin = begin;
            word_text_begin = out.word_bytes.size();
            word_mean.clear();
        }
        word_end = end;
        word_mean.add(sum, end - begin);
        out.word_bytes += text;
    }
    finish_word();
    out.token_counts.push_back(static_cast<int64_t>(out.token_ids.size() - tokens_begin));
    out.word_counts.push_back(static_cast<int64_t>(out.word_begins.size() - words_begin));
    out.text_lengths.push_back(static_cast<int64_t>(out.text_bytes.size() - text_begin));
    out.text_means.push_back(text_mean.value());
    return true;
}

template <typename Id>
void decode_range(const Id* ids, const float* log_probs, const int64_t* begins, const int64_t* lengths, int64_t first,
                  int64_t last, const Table& table, const Options& options, Decoded& out) {
    int64_t frames = 0;
    for (int64_t utterance = first; utterance < last; ++utterance) frames += lengths[utterance];
    out.text_bytes.reserve(frames / 2);  // most frames are blanks and repetitions, most tokens have one byte
    if (options.words) out.word_bytes.reserve(frames / 2);
    for (int64_t utterance = first; utterance < last; ++utterance) {
        const int64_t begin = begins[utterance];
        if (!decode_utterance(ids + begin, log_probs ? log_probs + begin : nullptr, lengths[utterance], utterance, table, options,
                              out))
            return;
    }
}

// Divide utterances into ranges with about equally many frames.
std::vector<int64_t> split(const int64_t* lengths, int64_t utterances, int64_t threads) {
    int64_t total = 0;
    for (int64_t i = 0; i < utterances; ++i) total += lengths[i] + 1;  // even an utterance without frames takes time
    std::vector<int64_t> bounds{0};
    int64_t seen = 0;
    for (int64_t i = 0; i < utterances; ++i) {
        seen += lengths[i] + 1;
        if (seen * threads >= total * static_cast<int64_t>(bounds.size()) && i + 1 < utterances) bounds.push_back(i + 1);
    }
    bounds.push_back(utterances);
    return bounds;
}

template <typename T>
py::array_t<T> joined(const std::vector<Decoded>& parts, std::vector<T> Decoded::*field) {
    size_t size = 0;
    for (const Decoded& part : parts) size += (part.*field).size();
    py::array_t<T> array(static_cast<py::ssize_t>(size));
    T* target = array.mutable_data();
    for (const Decoded& part : parts) target = std::copy((part.*field).begin(), (part.*field).end(), target);
    return array;
}

py::list texts(const std::vector<Decoded>& parts, std::string Decoded::*bytes, std::vector<int64_t> Decoded::*lengths) {
    size_t size = 0;
    for (const Decoded& part : parts) size += (part.*lengths).size();
    py::list list(size);
    size_t index = 0;
    for (const Decoded& part : parts) {
        const char* data = (part.*bytes).data();
        for (const int64_t length : part.*lengths) {
            PyObject* text = PyUnicode_DecodeUTF8(data, static_cast<py::ssize_t>(length), nullptr);
            if (!text) throw py::error_already_set();
            PyList_SET_ITEM(list.ptr(), static_cast<py::ssize_t>(index++), text);
            data += length;
        }
    }
    return list;
}

template <typename Id>
py::dict decode_as(const py::array& ids, const py::object& log_probs, const int64_t* begins, const int64_t* lengths,
                   int64_t utterances, const Table& table, const Options& options, int64_t threads) {
    const auto* id_data = static_cast<const Id*>(ids.data());
    const float* log_prob_data = log_probs.is_none() ? nullptr : static_cast<const float*>(py::cast<py::array>(log_probs).data());
    std::vector<Decoded> parts;
    {
        py::gil_scoped_release release;
        const std::vector<int64_t> bounds = split(lengths, utterances, std::max<int64_t>(1, std::min(threads, utterances)));
        const size_t ranges = bounds.size() - 1;
        parts.resize(ranges);
        std::vector<std::thread> workers;
        workers.reserve(ranges);  // growing later could throw while threads are running
        const auto run = [&](size_t range) {
            try {
                decode_range(id_data, log_prob_data, begins, lengths, bounds[range], bounds[range + 1], table, options,
                             parts[range]);
            } catch (...) {  // an exception must not leave a thread
                parts[range].failure = std::current_exception();
            }
        };
        for (size_t range = 1; range < ranges; ++range) {
            try {
                workers.emplace_back(run, range);
            } catch (const std::system_error&) {  // the system has no more threads
                run(range);
            }
        }
        run(0);
        for (std::thread& worker : workers) worker.join();
    }
    for (const Decoded& part : parts) {
        if (part.failure) std::rethrow_exception(part.failure);
        if (!part.error.empty()) throw py::value_error(part.error);
    }
    py::dict result;
    result["texts"] = texts(parts, &Decoded::text_bytes, &Decoded::text_lengths);
    result["text_means"] = joined(parts, &Decoded::text_means);
    if (options.tokens) {
        result["token_counts"] = joined(parts, &Decoded::token_counts);
        result["token_ids"] = joined(parts, &Decoded::token_ids);
        result["token_begins"] = joined(parts, &Decoded::token_begins);
        result["token_ends"] = joined(parts, &Decoded::token_ends);
        result["token_means"] = joined(parts, &Decoded::token_means);
    }
    if (options.words) {
        result["word_counts"] = joined(parts, &Decoded::word_counts);
        result["words"] = texts(parts, &Decoded::word_bytes, &Decoded::word_lengths);
        result["word_begins"] = joined(parts, &Decoded::word_begins);
        result["word_ends"] = joined(parts, &Decoded::word_ends);
        result["word_means"] = joined(parts, &Decoded::word_means);
    }
    return result;
}

std::string describe(const py::array& array) {
    std::string text = py::str(array.dtype()).cast<std::string>() + " [";
    for (py::ssize_t axis = 0; axis < array.ndim(); ++axis)
        text += (axis ? ", " : "") + std::to_string(array.shape(axis));
    return text + "]";
}

// Memory safety does not depend on the caller: all arguments that could lead to accesses outside the buffers are checked.
void check_flat(const py::array& array, const std::string& name) {
    if (array.ndim() != 1 || !(array.flags() & py::array::c_style) || !(array.flags() & py::detail::npy_api::NPY_ARRAY_ALIGNED_))
        throw py::value_error(name + " must be one-dimensional, contiguous and aligned, but is " + describe(array));
}

// Table.__new__(Table) creates a Python object that contains no C++ object.
const Table& table_in(const py::object& object) {
    if (!py::isinstance<Table>(object)) throw py::type_error("table must be a Table");
    if (!reinterpret_cast<py::detail::instance*>(object.ptr())->get_value_and_holder().holder_constructed())
        throw py::type_error("the table was never initialised");
    return object.cast<const Table&>();
}

py::dict decode(const py::array& ids, const py::array& begins, const py::array& lengths, const py::object& table_object,
                int64_t blank, const py::object& log_probs, bool group, bool tokens, bool words, int64_t threads) {
    const Table& table = table_in(table_object);
    check_flat(ids, "ids");
    check_flat(begins, "begins");
    check_flat(lengths, "lengths");
    if (!py::isinstance<py::array_t<int64_t>>(begins) || !py::isinstance<py::array_t<int64_t>>(lengths) ||
        begins.size() != lengths.size())
        throw py::value_error("begins and lengths must be int64 and equally long, but are " + describe(begins) + " and " +
                              describe(lengths));
    if (!log_probs.is_none()) {
        if (!py::isinstance<py::array_t<float>>(log_probs))
            throw py::value_error("log_probs must be a float32 array or None");
        const auto array = py::cast<py::array>(log_probs);
        check_flat(array, "log_probs");
        if (array.size() != ids.size())
            throw py::value_error("log_probs must have as many entries as ids, " + std::to_string(ids.size()) + ", but is " +
                                  describe(array));
    }
    if (blank < 0 || blank >= static_cast<int64_t>(table.kinds.size()))
        throw py::value_error("the blank must be a token id below " + std::to_string(table.kinds.size()) + ", but is " +
                              std::to_string(blank));
    if (threads < 1) throw py::value_error("threads must be at least 1, but is " + std::to_string(threads));
    if (ids.size() > std::numeric_limits<int32_t>::max())
        throw py::value_error("at most 2147483647 frames can be decoded at once, but got " + std::to_string(ids.size()));
    // copy them, so that they cannot change between this check and their use
    const auto* begin_data = static_cast<const int64_t*>(begins.data());
    const auto* length_data = static_cast<const int64_t*>(lengths.data());
    const std::vector<int64_t> checked_begins(begin_data, begin_data + begins.size());
    const std::vector<int64_t> checked_lengths(length_data, length_data + lengths.size());
    for (size_t i = 0; i < checked_begins.size(); ++i)
        if (checked_begins[i] < 0 || checked_lengths[i] < 0 || checked_begins[i] > ids.size() ||
            checked_lengths[i] > ids.size() - checked_begins[i])
            throw py::value_error("utterance " + std::to_string(i) + " has " + std::to_string(checked_lengths[i]) +
                                  " frames from frame " + std::to_string(checked_begins[i]) + " on, but there are " +
                                  std::to_string(ids.size()) + " frames");
    const Options options{blank, group, tokens, words};
    const auto run = [&](auto zero) {
        return decode_as<decltype(zero)>(ids, log_probs, checked_begins.data(), checked_lengths.data(),
                                         static_cast<int64_t>(checked_begins.size()), table, options, threads);
    };
    if (py::isinstance<py::array_t<int64_t>>(ids)) return run(int64_t{});
    if (py::isinstance<py::array_t<int32_t>>(ids)) return run(int32_t{});
    if (py::isinstance<py::array_t<int16_t>>(ids)) return run(int16_t{});
    if (py::isinstance<py::array_t<uint8_t>>(ids)) return run(uint8_t{});
    throw py::value_error("ids must be int64, int32, int16 or uint8, but are " + describe(ids));
}

// One column of rows(): Python objects, or numbers from which objects are created.
struct Column {
    PyObject* list = nullptr;
    const double* reals = nullptr;
    const int32_t* integers = nullptr;

    PyObject* at(py::ssize_t index) const {
        if (reals) return PyFloat_FromDouble(reals[index]);
        if (integers) return PyLong_FromLong(integers[index]);
        if (index >= PyList_GET_SIZE(list)) return nullptr;  // the list shrank in code that the garbage collector ran
        PyObject* value = PyList_GET_ITEM(list, index);
        Py_INCREF(value);
        return value;
    }
};

Column column_of(const py::handle& values, py::ssize_t size) {
    Column column;
    py::ssize_t found = -1;
    if (py::isinstance<py::list>(values)) {
        column.list = values.ptr();
        found = PyList_GET_SIZE(values.ptr());
    } else if (py::isinstance<py::array>(values)) {
        const auto array = py::reinterpret_borrow<py::array>(values);
        check_flat(array, "a column");
        found = array.size();
        if (py::isinstance<py::array_t<double>>(array))
            column.reals = static_cast<const double*>(array.data());
        else if (py::isinstance<py::array_t<int32_t>>(array))
            column.integers = static_cast<const int32_t*>(array.data());
        else
            throw py::value_error("a column must be a list, float64 or int32, but is " + describe(array));
    }
    if (found != size)
        throw py::value_error("a column must be a list or an array of " + std::to_string(size) + " entries, but has " +
                              std::to_string(found));
    return column;
}

// Turn columns into lists of rows of a named tuple, counts[i] of them in the i-th list, several times as fast as kind._make.
// The collector does not track these rows, which is most of the gain: word times 54 to 58 times as fast as transformers', where
// building the rows in Python reaches 39 times.
py::list rows(const py::type& kind, const py::array& counts, const py::args& columns) {
    // a direct heap subclass without fields of its own has the layout of a tuple; struct sequences do not
    auto* type = reinterpret_cast<PyTypeObject*>(kind.ptr());
    if (type->tp_base != &PyTuple_Type || !PyType_HasFeature(type, Py_TPFLAGS_HEAPTYPE) ||
        type->tp_basicsize != PyTuple_Type.tp_basicsize || !py::hasattr(kind, "_fields") ||
        !py::isinstance<py::tuple>(kind.attr("_fields")))
        throw py::value_error("the type of rows must be a named tuple");
    if (py::len(kind.attr("_fields")) != columns.size())
        throw py::value_error("rows need a column for each of their " + std::to_string(py::len(kind.attr("_fields"))) +
                              " fields, but got " + std::to_string(columns.size()));
    check_flat(counts, "counts");
    if (!py::isinstance<py::array_t<int64_t>>(counts)) throw py::value_error("counts must be int64, but are " + describe(counts));
    const auto* count_data = static_cast<const int64_t*>(counts.data());
    const std::vector<int64_t> checked(count_data, count_data + counts.size());
    int64_t total = 0;
    for (const int64_t count : checked) {
        if (count < 0 || count > std::numeric_limits<int32_t>::max())
            throw py::value_error("a count must be 0 to 2147483647, but is " + std::to_string(count));
        total += count;
    }
    std::vector<Column> sources;
    for (const py::handle& values : columns) sources.push_back(column_of(values, total));
    py::list lists(checked.size());
    py::ssize_t index = 0;
    for (size_t part = 0; part < checked.size(); ++part) {
        py::list list(static_cast<size_t>(checked[part]));
        for (py::ssize_t i = 0; i < checked[part]; ++i, ++index) {
            auto row = py::reinterpret_steal<py::object>(type->tp_alloc(type, static_cast<py::ssize_t>(sources.size())));
            if (!row) throw py::error_already_set();
            bool simple = true;
            for (size_t field = 0; field < sources.size(); ++field) {
                PyObject* value = sources[field].at(index);
                simple = simple && value && !PyObject_IS_GC(value);
                if (!value && PyErr_Occurred()) throw py::error_already_set();
                if (!value) throw py::value_error("a column became shorter while its rows were built");
                PyTuple_SET_ITEM(row.ptr(), static_cast<py::ssize_t>(field), value);
            }
            // as the collector does with tuples of text and numbers: they cannot be part of a cycle
            if (simple) PyObject_GC_UnTrack(row.ptr());
            PyList_SET_ITEM(list.ptr(), i, row.release().ptr());
        }
        PyList_SET_ITEM(lists.ptr(), static_cast<py::ssize_t>(part), list.release().ptr());
    }
    return lists;
}

}  // namespace

PYBIND11_MODULE(_ctc, module) {
    module.doc() = "Greedy CTC decoding in C++; hubert_fast.ctc is the interface.";
    py::class_<Table>(module, "Table").def(py::init<const std::vector<std::string>&, const std::vector<int>&>());
    module.def("decode", &decode, py::arg("ids"), py::arg("begins"), py::arg("lengths"), py::arg("table"), py::arg("blank"),
               py::arg("log_probs") = py::none(), py::arg("group") = true, py::arg("tokens") = false, py::arg("words") = false,
               py::arg("threads") = 1);
    module.def("rows", &rows);
}
