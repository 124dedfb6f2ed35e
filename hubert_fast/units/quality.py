"""Measure how much units say about phones: phone purity, cluster purity and phone-normalised mutual information.

Source: Hsu et al. 2021, "HuBERT: Self-Supervised Speech Representation Learning by Masked Prediction of Hidden Units",
section IV-E, "Metrics of Target Quality". There, `p(y, z)` is the share of frames with phone `y` and unit `z`.

All three are computed from counts, and counts favour many units: with as many units as frames, phone purity and PNMI are 1.
Compare only values for the same frames and the same number of units, and with those of shuffled units.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def phone_purity(units: np.ndarray, phones: np.ndarray) -> float:
    """Return the share of frames whose phone is the most frequent one of their unit.

    The value is `sum_z max_y p(y, z)`, equation 8 of Hsu et al. 2021: the accuracy of naming each unit's most likely phone.

    Args:
        units: The unit of each frame, integers `[T]`.
        phones: The phone of each frame, integers `[T]`.

    Raises:
        ValueError: The arrays are not integers of the same shape `[T]`, or are empty.
    """
    counts = _counts(units, phones)
    return float(counts.max(axis=0).sum() / counts.sum())


def cluster_purity(units: np.ndarray, phones: np.ndarray) -> float:
    """Return the share of frames whose unit is the most frequent one of their phone.

    The value is `sum_y max_z p(y, z)`, equation 9 of Hsu et al. 2021. It falls as the number of units grows.

    Args:
        units: The unit of each frame, integers `[T]`.
        phones: The phone of each frame, integers `[T]`.

    Raises:
        ValueError: The arrays are not integers of the same shape `[T]`, or are empty.
    """
    counts = _counts(units, phones)
    return float(counts.max(axis=1).sum() / counts.sum())


def pnmi(units: np.ndarray, phones: np.ndarray) -> float:
    """Return phone-normalised mutual information: the share of the uncertainty about the phone that the unit removes.

    The value is `I(y; z) / H(y)`, equations 10 to 12 of Hsu et al. 2021. (The paper's equation 10 lacks a minus sign in its
    denominator.) It is 0 if units and phones are independent, and 1 if the unit determines the phone.

    Args:
        units: The unit of each frame, integers `[T]`.
        phones: The phone of each frame, integers `[T]`, with at least two different ones.

    Raises:
        ValueError: The arrays are not integers of the same shape `[T]`, are empty, or have one phone alone.
    """
    counts = _counts(units, phones)
    if len(counts) < 2:
        raise ValueError("PNMI needs at least 2 different phones, but all frames have the same one: its entropy is 0")
    joint = counts / counts.sum()
    phone, unit = joint.sum(axis=1), joint.sum(axis=0)
    entropy = -(phone * np.log(phone)).sum()
    y, z = np.nonzero(joint)
    information = (joint[y, z] * np.log(joint[y, z] / (phone[y] * unit[z]))).sum()
    return float(np.clip(information / entropy, 0, 1))


def labels_at_frames(
    starts_seconds: Sequence[float] | np.ndarray,
    labels: Sequence[int] | np.ndarray,
    frames: int,
    *,
    hop_seconds: float = 0.02,
    window_seconds: float = 0.025,
) -> np.ndarray:
    """Return the label at the centre of each frame, an array `[T]`.

    Frame `t` covers the audio from `t * hop_seconds` on for `window_seconds`.

    Args:
        starts_seconds: The time at which each label begins, ascending, `[L]`. A label lasts until the next one begins.
        labels: The labels, `[L]`.
        frames: The number of frames, T.
        hop_seconds: Seconds from one frame to the next; HuBERT's 0.02 by default.
        window_seconds: Seconds of audio that a frame covers; HuBERT's 0.025 by default.

    Raises:
        ValueError: There are not as many labels as times, times descend, or the first label begins after the first centre.
    """
    starts, values = np.asarray(starts_seconds, np.float64), np.asarray(labels)
    if starts.ndim != 1 or starts.shape != values.shape or not len(starts):
        raise ValueError(
            f"starts_seconds and labels must have the same shape [L], L >= 1, but have {list(starts.shape)} and "
            f"{list(values.shape)}"
        )
    if not np.isfinite(starts).all():
        raise ValueError("starts_seconds must be finite")
    if (np.diff(starts) < 0).any():
        raise ValueError("starts_seconds must ascend: sort the labels by time")
    if starts[0] > window_seconds / 2:
        raise ValueError(
            f"the first label begins at {starts[0]:g} s, after the centre of the first frame: label the silence too"
        )
    centres = hop_seconds * np.arange(frames) + window_seconds / 2
    return values[np.searchsorted(starts, centres, side="right") - 1]


def _counts(units: np.ndarray, phones: np.ndarray) -> np.ndarray:
    """Return the number of frames with each phone and unit that occur, int64 `[phones, units]`."""
    units, phones = np.asarray(units), np.asarray(phones)
    for name, array in (("units", units), ("phones", phones)):
        if array.ndim != 1 or array.dtype.kind not in "iu":
            raise ValueError(f"{name} must be integers of shape [T], but are {array.dtype} {list(array.shape)}")
    if len(units) != len(phones):
        raise ValueError(f"units and phones must be of the same frames, but there are {len(units)} and {len(phones)}")
    if not len(units):
        raise ValueError("units and phones are empty: measure at least one frame")
    unit_names, z = np.unique(units, return_inverse=True)
    phone_names, y = np.unique(phones, return_inverse=True)
    counts = np.bincount(y * len(unit_names) + z, minlength=len(phone_names) * len(unit_names))
    return counts.reshape(len(phone_names), len(unit_names))
