"""Turn files into units in several ways: with this package, its command, and loops over transformers and scikit-learn.

Each provider returns the units of each file by the file's name. `Reference` has what transformers and scikit-learn compute in
float32 for each file alone, and judges the units of all others.
"""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import torch
import transformers
from sklearn.cluster import MiniBatchKMeans

from hubert_fast import HubertConfig, HubertFeatureExtractor, HubertModel
from hubert_fast.benchmark.rows import ROOT
from hubert_fast.benchmark.subject import CONFIGS
from hubert_fast.benchmark.work import Work
from hubert_fast.jobs import job as jobs
from hubert_fast.jobs.inputs import Inputs
from hubert_fast.jobs.options import Options
from hubert_fast.jobs.progress import Progress
from hubert_fast.jobs.sinks import Rows
from hubert_fast.jobs.summary import Summary
from hubert_fast.jobs.target import Paths, open_journal
from hubert_fast.tolerances import MODEL_TOLERANCES, TEST_TOLERANCES
from hubert_fast.units import Centroids, Encoder
from hubert_fast.units.formats import UNITS

Units = dict[str, np.ndarray]  # int [T] by the name of a file

OURS, FULL = "hubert_fast", "hubert_fast, all layers"
JOB, COMMAND = "hubert_fast, job with journal", "hubert-fast units, whole process"
LOOP = "transformers + scikit-learn, file by file"
CUT = "transformers, cut off + scikit-learn, file by file"
PADDED = "transformers, cut off + scikit-learn, batches of 8"
BATCH_FILES = 8
# The error of a frame as a share of its length, by which the float32 states of two graphs may differ; for other dtypes that of
# a whole model.
FRAME_ERROR = {torch.float32: TEST_TOLERANCES["other graph"].value}
DISTANCE_ERROR = TEST_TOLERANCES["squared distance"].value

# Runs the command in a process of its own, and writes the peak of its memory. The `ru_maxrss` of a child would not do: it is at
# least what the parent held when it started the child.
CHILD = f"""
import sys
sys.path.append({str(ROOT)!r})  # hubert_fast, where it is not installed
peak_file = sys.argv.pop(1)
from hubert_fast.__main__ import main
try:
    status = main()
finally:
    fields = dict(line.split(":", 1) for line in open("/proc/self/status"))
    open(peak_file, "w").write(str(1024 * int(fields["VmHWM"].split()[0])))
sys.exit(status)
"""


def child_command(peak_file: Path, *arguments: object) -> list[str]:
    """Return the command line that runs `hubert-fast` with these arguments, and writes its peak memory in bytes to a file."""
    return [sys.executable, "-c", CHILD, str(peak_file), *map(str, arguments)]


class Scene(NamedTuple):
    """What providers work on.

    Attributes:
        model: The folder of the checkpoint.
        files: The audio files, all in one folder.
        folder: A folder for the outputs of the command.
        dtype: The dtype of the model, by its name.
    """

    model: Path
    files: list[str]
    folder: Path
    dtype: str


def write_checkpoint(folder: Path, name: str) -> Path:
    """Write a model with random weights (seed 0), which both libraries can load."""
    torch.manual_seed(0)
    HubertModel(HubertConfig(**CONFIGS[name])).save_pretrained(folder)
    HubertFeatureExtractor(do_normalize=True).save_pretrained(folder)
    return folder


def read(path: str) -> np.ndarray:
    return soundfile.read(path, dtype="float32")[0]


def name_of(path: str) -> str:
    return Path(path).name


class Theirs:
    """A loop of transformers and scikit-learn over files.

    Args:
        scene: What to work on.
        layer: The layer whose units are computed.
        predictor: The centroids in scikit-learn.
        cut: Whether the layers above are removed from the model, as a skilled user would do. Otherwise all hidden states are
            computed, and one is taken, as published scripts do.
        padded: Whether files run in batches of 8, sorted by length, with an attention mask; otherwise each runs alone.
    """

    def __init__(self, scene: Scene, layer: int, predictor: MiniBatchKMeans, cut: bool = True, padded: bool = False):
        self.scene, self.layer, self.predictor, self.cut, self.padded = scene, layer, predictor, cut, padded
        self.extractor = transformers.Wav2Vec2FeatureExtractor.from_pretrained(scene.model)
        # scaled_dot_product_attention is also transformers' default here
        self.model = transformers.HubertModel.from_pretrained(
            scene.model, dtype=getattr(torch, scene.dtype), attn_implementation="sdpa"
        ).eval()
        if cut:
            self.model.encoder.layers = self.model.encoder.layers[:layer]

    @torch.inference_mode()
    def units(self) -> Units:
        if self.padded:
            return self._padded_units()
        units = {}
        for path in self.scene.files:
            inputs = self.extractor(read(path), sampling_rate=16000, return_tensors="pt").input_values.to(self.model.dtype)
            if self.cut:
                frames = self.model(inputs).last_hidden_state
            else:
                frames = self.model(inputs, output_hidden_states=True).hidden_states[self.layer]
            units[name_of(path)] = self.predictor.predict(frames[0].float().numpy())
        return units

    def _padded_units(self) -> Units:
        paths = sorted(self.scene.files, key=lambda path: soundfile.info(path).frames)
        units: Units = {}
        for start in range(0, len(paths), BATCH_FILES):
            batch = paths[start : start + BATCH_FILES]
            waveforms = [read(path) for path in batch]
            inputs = self.extractor(
                waveforms, sampling_rate=16000, padding=True, return_attention_mask=True, return_tensors="pt"
            )
            values, mask = inputs.input_values.to(self.model.dtype), inputs.attention_mask
            rows = self.model(values, attention_mask=mask).last_hidden_state.float().numpy()
            counts = self.model._get_feat_extract_output_lengths(mask.sum(-1)).tolist()
            for path, row, count in zip(batch, rows, counts):
                units[name_of(path)] = self.predictor.predict(row[:count])
        return units


class Ours:
    """`Encoder.encode_many`, which computes no layer above that of the centroids."""

    def __init__(self, scene: Scene, centroids: Centroids):
        self.files = scene.files
        self.encoder = Encoder.from_pretrained(scene.model, kmeans=centroids, device="cpu", dtype=scene.dtype)

    def units(self) -> Units:
        units: Units = {}
        for result in self.encoder.encode_many(self.files):
            if result.error:
                raise RuntimeError(result.error)
            found = result.encodings[0].units
            assert found is not None
            units[name_of(result.utterance.audio)] = found
        return units


class Job(Ours):
    """The job of the command `hubert-fast units` with its journal, without the start of a process."""

    def __init__(self, scene: Scene, centroids: Centroids):
        super().__init__(scene, centroids)
        self.dtype, self.out = scene.dtype, scene.folder / "job.jsonl"

    def units(self) -> Units:
        self.run()
        return written_units(self.out)

    def run(self) -> None:
        summary = Summary(str(self.out), "", "cpu", self.dtype)
        journal = open_journal(Paths(self.out), {}, overwrite=True)
        output = Rows(self.out, UNITS.formats["jsonl"], journal)
        job = jobs.Job(Inputs(self.files), output, summary, Progress(quiet=True, most_failures=0), journal=journal)
        job.run(self.encoder.run(job.utterances(), Options()))
        output.close()
        journal.close()


class Command:
    """The command `hubert-fast units`, whose process starts anew at each call.

    Attributes:
        peak_bytes: The peak memory of the last process.
    """

    def __init__(self, scene: Scene, centroids: Centroids):
        self.scene, self.out, self.peak_file = scene, scene.folder / "command.jsonl", scene.folder / "peak"
        self.kmeans = scene.folder / "kmeans.safetensors"
        centroids.save(self.kmeans)
        self.peak_bytes = 0

    def units(self) -> Units:
        self.run()
        return written_units(self.out)

    def run(self) -> None:
        source, options = Path(self.scene.files[0]).parent, ["--device", "cpu", "--overwrite", "--quiet"]
        models = ["--model", self.scene.model, "--dtype", self.scene.dtype, "--kmeans", self.kmeans]
        subprocess.run(child_command(self.peak_file, "units", source, *models, "-o", self.out, *options), check=True)
        self.peak_bytes = int(self.peak_file.read_text())


def written_units(path: Path) -> Units:
    """Return the units in an output of the command."""
    with open(path, encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return {name_of(row["audio"]): np.array(row["units"]) for row in rows}


class Judgement(NamedTuple):
    """How units compare with those of the reference.

    Attributes:
        frames: The number of units.
        other: How many differ.
        beyond_rounding: How many of these are not ties: in float64, the reference's frame is farther from the centroid than
            from that of the reference by more than rounding explains.
    """

    frames: int
    other: int
    beyond_rounding: int


class Reference:
    """The frames and units of some layers by transformers and scikit-learn in float32, for each file alone.

    Args:
        scene: What to work on; its dtype does not matter.
        layers: The layers.
        clusters: The number of centroids, which are frames drawn at random (seed 0).
    """

    def __init__(self, scene: Scene, layers: Sequence[int], clusters: int):
        loop = Theirs(scene._replace(dtype="float32"), 0, MiniBatchKMeans(), cut=False)
        self.frames: dict[int, dict[str, np.ndarray]] = {layer: {} for layer in layers}
        with torch.inference_mode():
            for path in scene.files:
                inputs = loop.extractor(read(path), sampling_rate=16000, return_tensors="pt").input_values
                states = loop.model(inputs, output_hidden_states=True).hidden_states
                for layer in layers:
                    self.frames[layer][name_of(path)] = states[layer][0].numpy().copy()
        sources = Encoder.from_pretrained(scene.model, layers=layers, device="cpu", dtype="float32").sources
        self.centroids, self.predictors, self.units = {}, {}, {}
        for layer, source in zip(layers, sources):
            frames = np.concatenate([*self.frames[layer].values()])
            if len(frames) < clusters:
                raise SystemExit(f"{clusters} clusters need as many frames, but there are {len(frames)}: use more audio")
            chosen = np.random.default_rng(0).choice(len(frames), clusters, replace=False)
            self.centroids[layer] = Centroids(frames[chosen], source)
            self.predictors[layer] = fitted(self.centroids[layer].values)
            self.units[layer] = {name: self.predictors[layer].predict(frames) for name, frames in self.frames[layer].items()}

    def judge(self, layer: int, units: Units, dtype: torch.dtype) -> Judgement:
        """Compare units with those of the reference. Raises `RuntimeError` if files or frames are missing."""
        expected = self.units[layer]
        lengths = {name: len(values) for name, values in expected.items()}
        if {name: len(values) for name, values in units.items()} != lengths:
            raise RuntimeError("the files, or the numbers of their units, differ from those of transformers")
        found, nearest, frames = (
            np.concatenate([values[name] for name in expected]) for values in (units, expected, self.frames[layer])
        )
        different = np.flatnonzero(found != nearest)
        x, values = frames[different].astype(np.float64), self.centroids[layer].values.astype(np.float64)
        ours, theirs = values[found[different]], values[nearest[different]]
        margin = np.square(x - ours).sum(-1) - np.square(x - theirs).sum(-1)
        error = FRAME_ERROR.get(dtype, MODEL_TOLERANCES[dtype].value)
        norm = np.linalg.norm(x, axis=-1)
        # |x + e - a|^2 - |x + e - b|^2 changes by 2 e (b - a), and each distance is itself rounded
        allowed = 2 * error * norm * np.linalg.norm(ours - theirs, axis=-1)
        allowed += DISTANCE_ERROR * np.square(norm + np.linalg.norm(values, axis=-1).max())
        return Judgement(len(found), len(different), int((margin > allowed).sum()))


def fitted(values: np.ndarray) -> MiniBatchKMeans:
    """Return scikit-learn's estimator with these centroids, as fairseq and textlesslib load it from a file."""
    estimator = MiniBatchKMeans(len(values), init=values, n_init=1, reassignment_ratio=0.0, random_state=0)
    estimator.partial_fit(values)  # each centroid is its own mean
    estimator.cluster_centers_ = copy.deepcopy(values)
    return estimator


def work(audio_seconds: float, folder: Path) -> Work:
    """Write audio of LibriSpeech's lengths, cut from the demo's recordings, to 16-bit WAV files."""
    folder.mkdir()
    return Work.of("librispeech", audio_seconds).saved(folder)
