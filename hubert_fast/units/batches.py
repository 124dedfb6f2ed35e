"""Encode the batches of Ray Data's `map_batches` and of Hugging Face's `datasets.map`: paths, bytes or waveforms."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from ..jobs.options import Options
from ..jobs.utterances import Utterance
from .encoder import Encoder

MOST_CHANNELS = 1024  # of libsndfile


class EncodeBatch:
    """Computes the units or frames of each row's audio in a batch, which is a dictionary of columns.

        dataset.map_batches(EncodeBatch, fn_constructor_args=("facebook/hubert-base-ls960",),
                            fn_constructor_kwargs={"kmeans": "km.safetensors"}, batch_size=64, concurrency=2)  # Ray Data
        dataset.map(EncodeBatch("facebook/hubert-base-ls960", layers=[9]), batched=True, batch_size=64)  # datasets

    The new columns are `units`, and `durations` if units are merged; or `layer9` and so on. A row whose audio cannot be encoded
    has `None` there, and the reason in the column `error`, which is `None` in all other rows. A pickle holds the arguments
    alone, so that another process loads the model anew; with an `Encoder`, there is no pickle.

    Args:
        model: As for `Encoder.from_pretrained`, or an `Encoder`.
        column: The column with the audio. Its values are paths or URLs; the bytes of files; waveforms `[S]`, or `[S, channels]`
            and `[channels, S]`, which are mixed down, at the model's sampling rate; or dictionaries as of the `Audio` feature:
            `{"array", "sampling_rate"}` or `{"bytes", "path"}`.
        options: Options of the job, fields of `Options`.
        encoder_options: Passed on to `Encoder.from_pretrained`.
    """

    def __init__(
        self, model: str | Path | Encoder, column: str = "audio", options: Options | None = None, **encoder_options: Any
    ):
        if isinstance(model, Encoder) and encoder_options:
            raise TypeError(f"options of an encoder that exists already cannot change: {', '.join(encoder_options)}")
        self.encoder = model if isinstance(model, Encoder) else Encoder.from_pretrained(model, **encoder_options)
        self._arguments = model, column, options, encoder_options
        self.column, self.options = column, Options() if options is None else options
        if self.options.channels != "mix":
            raise ValueError("channels must be 'mix', since a row of a batch has one encoding")

    def __reduce__(self) -> Any:
        *arguments, encoder_options = self._arguments
        if isinstance(arguments[0], Encoder):
            raise TypeError("an EncodeBatch with an Encoder cannot be pickled: pass the name or folder of the model instead")
        return partial(type(self), **encoder_options), tuple(arguments)

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Return the new columns of a batch; before them, if its columns are arrays, also those that it has.

        `datasets.map`, whose columns are lists, keeps the others by itself.

        Raises:
            KeyError: If the batch has no such column.
            TypeError: If the batch is no dictionary, as those of pandas and pyarrow.
        """
        if not isinstance(batch, Mapping):
            raise TypeError(
                f"a batch must be a dictionary of columns, but is a {type(batch).__name__}: leave the batch_format of "
                "map_batches as it is"
            )
        if self.column not in batch:
            raise KeyError(f"the batch has no column {self.column!r}, only {', '.join(map(repr, batch))}")
        items = batch[self.column]
        columns: dict[str, list[Any]] = {name: [None] * len(items) for name in (*self._names(), "error")}
        with tempfile.TemporaryDirectory() as folder:
            utterances = []
            for row, item in enumerate(items):
                try:
                    utterances.append(Utterance(str(row), self._path(item, os.path.join(folder, f"row {row}"))))
                except (TypeError, ValueError, soundfile.SoundFileError) as error:
                    columns["error"][row] = str(error)
            for result in self.encoder.run(utterances, self.options).results():
                row = int(result.utterance.id)
                columns["error"][row] = None if result.error is None else result.error.replace(folder + os.sep, "")
                for encoding in result.encodings:
                    values = {f"layer{layer}": frames for layer, frames in encoding.frames.items()}
                    values |= {"units": encoding.units, "durations": encoding.durations}
                    for name in self._names():
                        columns[name][row] = values[name]
        new = {name: _like(values, items) for name, values in columns.items()}
        return {**batch, **new} if isinstance(items, np.ndarray) else new

    def _names(self) -> list[str]:
        if self.encoder.centroids is None:
            return [f"layer{layer}" for layer in self.encoder.layers]
        return ["units", "durations"] if self.encoder.merge else ["units"]

    def _path(self, item: Any, path: str) -> str:
        """Return the path of an item's audio, after writing it to `path` if it is in memory."""
        if isinstance(item, (str, os.PathLike)):
            return os.fspath(item)
        if isinstance(item, (bytes, bytearray, memoryview)):
            return _written(item, path)
        if hasattr(item, "get_all_samples"):  # the decoder that datasets 4 returns
            samples = item.get_all_samples()
            return _wave(np.asarray(samples.data).T, samples.sample_rate, path)
        if isinstance(item, Mapping):
            if item.get("array") is not None:
                return _wave(np.asarray(item["array"]), item.get("sampling_rate"), path)
            if item.get("bytes") is not None:
                return _written(item["bytes"], path)
            if item.get("path") is not None:
                return os.fspath(item["path"])
        elif isinstance(item, (np.ndarray, Sequence, torch.Tensor)):
            return _wave(np.asarray(item), self.encoder.sample_rate_hz, path)
        raise TypeError(
            "audio must be a path, the bytes of a file, a waveform [S], or a dictionary with array and sampling_rate, bytes or "
            f"path, but is a {type(item).__name__}" + (f" with {', '.join(item)}" if isinstance(item, Mapping) else "")
        )


def _written(content: bytes | bytearray | memoryview, path: str) -> str:
    Path(path).write_bytes(content)
    return path


def _wave(samples: np.ndarray, sample_rate_hz: Any, path: str) -> str:
    """Write a waveform to a WAV file without loss, so that it is mixed and resampled as any file.

    Args:
        samples: The waveform `[S]`, `[S, channels]` or `[channels, S]`: the shorter of two axes is that of the channels.
        sample_rate_hz: Its sampling rate.
        path: The file.
    """
    if not isinstance(sample_rate_hz, (int, float, np.integer)) or not sample_rate_hz >= 1 or sample_rate_hz % 1:
        raise ValueError(f"sampling_rate must be a number of Hz, but is {sample_rate_hz!r}")
    if samples.ndim not in (1, 2) or samples.dtype.kind not in "fi" or not samples.size:
        raise ValueError(f"a waveform must be numbers [S], but is {samples.dtype} {list(samples.shape)}")
    if samples.ndim == 2:
        samples = samples.T if samples.shape[0] < samples.shape[1] else samples
        if samples.shape[1] > MOST_CHANNELS:
            raise ValueError(f"a waveform must have at most {MOST_CHANNELS} channels, but has {samples.shape[1]}")
    if samples.dtype.kind == "i" and samples.dtype != np.int16:
        raise ValueError(f"a waveform of integers must be int16, but is {samples.dtype}")
    is_float = samples.dtype.kind == "f"
    soundfile.write(
        path, samples.astype(np.float32) if is_float else samples, int(sample_rate_hz), "FLOAT" if is_float else "PCM_16",
        format="WAV",
    )  # fmt: skip
    return path


def _like(values: list[Any], column: Any) -> Any:
    """Return values as a column of the same kind: an array of objects for Ray Data, a list for datasets."""
    if not isinstance(column, np.ndarray):
        return values
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array
