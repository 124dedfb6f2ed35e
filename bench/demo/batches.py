"""Create training batches: join utterances into rows of fixed length, then distort them as rooms and microphones would."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

SAMPLE_RATE_HZ = 16000
FRAME_SAMPLES = 320
RECEPTIVE_SAMPLES = 400
NO_PHONE = -100  # frames with an unknown phone, which cross entropy ignores

# (rows, seconds): a few fixed shapes, because PyTorch's CPU kernels need set-up time for every new one
SHAPES = ((64, 2.4), (32, 4.8), (16, 9.6))


@dataclass
class Batch:
    """A batch for training."""

    waveforms: torch.Tensor  # [B, S] float32, zero mean and unit variance
    labels: torch.Tensor  # [sum of lengths] token ids
    label_lengths: torch.Tensor  # [B]
    phones: torch.Tensor  # [B, T] phone ids or NO_PHONE


class Corpus:
    """The output of `corpus.py` in one or more folders, as memory-mapped audio and arrays of token and phone ids."""

    def __init__(self, folders: list[Path], vocabulary: dict[str, int]):
        phone_ids: dict[str, int] = {}
        self.utterances = []
        self.seconds = 0.0
        for folder in folders:
            audio = np.memmap(folder / "audio.i16", dtype=np.int16, mode="r")
            self.seconds += len(audio) / SAMPLE_RATE_HZ
            for line in (folder / "utterances.jsonl").read_text().splitlines():
                row = json.loads(line)
                engine = row["voice"].partition(":")[0]
                names = [phone_ids.setdefault(f"{engine}:{name}", len(phone_ids)) for _, name in row["phones"]]
                starts = np.array([start for start, _ in row["phones"]], dtype=np.float32)
                labels = [vocabulary[letter] for letter in row["text"].upper().replace(" ", "|")]
                samples = audio[row["first_sample"] : row["first_sample"] + row["samples"]]
                self.utterances.append((samples, labels, starts, np.array(names, dtype=np.int64)))
        self.phone_count = len(phone_ids)


class Batches:
    """An endless source of batches, drawn with replacement."""

    def __init__(self, corpus: Corpus, word_delimiter_id: int, seed: int):
        self.corpus = corpus
        self.word_delimiter_id = word_delimiter_id
        self.rng = np.random.default_rng(seed)

    def draw(self, shape_weights: tuple[float, ...]) -> Batch:
        rows, seconds = SHAPES[self.rng.choice(len(SHAPES), p=np.array(shape_weights) / sum(shape_weights))]
        samples = int(seconds * SAMPLE_RATE_HZ)
        frames = (samples - RECEPTIVE_SAMPLES) // FRAME_SAMPLES + 1
        waveforms = np.zeros((rows, samples), np.float32)
        phones = np.full((rows, frames), NO_PHONE)
        labels, lengths = [], []
        for row in range(rows):
            text = self._fill(waveforms[row], phones[row])
            labels += text
            lengths.append(len(text))
        return Batch(
            distort(torch.from_numpy(waveforms), self.rng),
            torch.tensor(labels),
            torch.tensor(lengths),
            torch.from_numpy(phones),
        )

    def _fill(self, waveform: np.ndarray, phones: np.ndarray) -> list[int]:
        """Fill one row with utterances until the next does not fit, and return their token ids."""
        rng, text = self.rng, []
        position = int(rng.integers(0, SAMPLE_RATE_HZ // 3))
        for _ in range(50):
            samples, labels, starts, names = self.corpus.utterances[rng.integers(len(self.corpus.utterances))]
            count = len(samples)
            factor = rng.uniform(0.82, 1.22)  # changes speed and formants, as different speakers do
            length = int(count / factor)
            if position + length > len(waveform):
                if text:
                    break
                position = 0
                continue
            speech = samples.astype(np.float32) / 32768
            speech = np.interp(np.arange(length) * factor, np.arange(count), speech)
            waveform[position : position + length] = speech * 10 ** rng.uniform(-0.4, 0)
            centres = (np.arange(len(phones)) * FRAME_SAMPLES + RECEPTIVE_SAMPLES / 2 - position) / SAMPLE_RATE_HZ * factor
            inside = (centres >= 0) & (centres < count / SAMPLE_RATE_HZ)
            if len(starts):
                index = np.searchsorted(starts, centres[inside], side="right") - 1
                phones[inside] = np.where(index >= 0, names[index], NO_PHONE)
            text += ([self.word_delimiter_id] if text else []) + labels
            position += length + int(rng.uniform(0, 0.5) * SAMPLE_RATE_HZ)
        return text


def distort(waveforms: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Apply random filters, reverberation and noise to each row of `[B, S]`, then normalise the row."""
    rows, samples = waveforms.shape
    size = samples + SAMPLE_RATE_HZ // 2  # room for the reverberation's tail: no wrap-around
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))

    def uniform(low: float, high: float, *shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=generator) * (high - low) + low

    frequencies = torch.linspace(0, 1, size // 2 + 1)
    # a smooth random gain of +-6 dB over frequency, and for a fifth of the rows a telephone's bandwidth
    bands = uniform(-6, 6, rows, 1, 8)
    gain_db = torch.nn.functional.interpolate(bands, len(frequencies), mode="linear", align_corners=True)[:, 0]
    telephone = (uniform(0, 1, rows, 1) < 0.2) & ((frequencies < 0.03) | (frequencies > 0.45))
    gain = 10 ** (gain_db / 20) * torch.where(telephone, 0.03, 1.0)
    spectrum = torch.fft.rfft(waveforms, size) * gain

    seconds = torch.arange(SAMPLE_RATE_HZ // 2) / SAMPLE_RATE_HZ
    decay_seconds = uniform(0.02, 0.12, rows, 1)
    tail = torch.randn(rows, len(seconds), generator=generator) * torch.exp(-seconds / decay_seconds)
    tail *= uniform(0, 0.06, rows, 1) * (uniform(0, 1, rows, 1) < 0.4)
    tail[:, 0] = 1
    clean = torch.fft.irfft(spectrum * torch.fft.rfft(tail, size), size)[:, :samples]

    # noise between white and brown, 6 to 45 dB below the speech
    colour = uniform(0, 1, rows, 1)
    noise = torch.fft.rfft(torch.randn(rows, samples, generator=generator))
    noise *= (1 + 200 * torch.linspace(0, 1, noise.shape[1])) ** -colour
    noise = torch.fft.irfft(noise, samples)
    snr_db = uniform(6, 45, rows, 1)
    scale = clean.std(-1, keepdim=True) / noise.std(-1, keepdim=True) * 10 ** (-snr_db / 20)
    mixed = clean + scale * noise
    return (mixed - mixed.mean(-1, keepdim=True)) / torch.sqrt(mixed.var(-1, keepdim=True, unbiased=False) + 1e-7)
