"""Test that padding decodes to nothing, greedily and by beam search, and that frame counts come with the logits."""

import copy
import pickle
from collections import defaultdict

import pytest
import torch
from conftest import masked_batch
from small_models import model_of

from hubert_fast import HubertForCTC
from hubert_fast.outputs import CausalLMOutput

LENGTHS = (8000, 400, 100)
FRAMES = torch.tensor([24, 1, 0])


def logits_of(model: HubertForCTC, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the logits of a padded batch and a mask of its padded frames, `[B, T]`."""
    waveforms, mask = masked_batch(LENGTHS)
    with torch.no_grad():
        logits = model.to(dtype)(waveforms.to(dtype), attention_mask=mask).logits
    return logits, torch.arange(logits.shape[1]) >= FRAMES[:, None]


def beam_search(log_probs: torch.Tensor, blank: int, beams: int = 8) -> list[tuple[tuple[int, ...], float]]:
    """Return the best labellings and their probabilities by CTC prefix beam search (Hannun et al. 2014).

    Args:
        log_probs: `[T, V]`.
    """
    prefixes = {(): (1.0, 0.0)}  # labelling -> probability of its paths that end in the blank, and in its last token
    for frame in log_probs.double().exp().tolist():
        following: dict[tuple[int, ...], list[float]] = defaultdict(lambda: [0.0, 0.0])
        for prefix, (ends_blank, ends_token) in prefixes.items():
            following[prefix][0] += (ends_blank + ends_token) * frame[blank]
            if prefix:
                following[prefix][1] += ends_token * frame[prefix[-1]]
            for token, probability in enumerate(frame):
                if token != blank:
                    repeated = prefix and token == prefix[-1]
                    following[(*prefix, token)][1] += probability * (ends_blank if repeated else ends_blank + ends_token)
        best = sorted(following.items(), key=lambda entry: -sum(entry[1]))[:beams]
        prefixes = {prefix: tuple(probabilities) for prefix, probabilities in best}
    return [(prefix, sum(probabilities)) for prefix, probabilities in prefixes.items() if sum(probabilities) > 1e-30]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("blank", [0, 7, 31])
def test_the_blank_is_certain_in_padding(blank, dtype):
    logits, padding = logits_of(model_of(pad_token_id=blank), dtype)
    assert logits.isfinite().all() and logits.dtype == dtype
    expected = torch.full((32,), -100.0, dtype=dtype)
    expected[blank] = 100
    assert (logits[padding] == expected).all()
    assert (logits[padding].softmax(-1)[:, blank] == 1).all()
    assert (logits[~padding].argmax(-1) != blank).any()


@pytest.mark.parametrize("blank", [0, 7])
def test_beam_search_writes_nothing_in_padding(blank):
    logits, padding = logits_of(model_of(pad_token_id=blank))
    for row, frames in zip(logits.log_softmax(-1), FRAMES.tolist()):
        alone, padded = (beam_search(part, blank) for part in (row[:frames], row))
        assert [prefix for prefix, _ in padded] == [prefix for prefix, _ in alone]
        for (_, probability), (_, expected) in zip(padded, alone):
            assert probability == pytest.approx(expected, rel=1e-6)
    assert beam_search(logits[0].log_softmax(-1), blank)[0][0] != ()
    assert padding[2].all() and beam_search(logits[2].log_softmax(-1), blank)[0] == ((), pytest.approx(1))


@pytest.mark.parametrize("pad", [None, 32, -1])
def test_padding_is_zero_if_the_blank_is_no_token(pad):
    logits, padding = logits_of(model_of(pad_token_id=pad))
    assert not logits[padding].any() and logits[~padding].any()


def test_padding_is_left_alone_where_a_gradient_is_recorded():
    model = model_of()
    waveforms, mask = masked_batch(LENGTHS)
    output = model(waveforms, attention_mask=mask)
    assert output.logits.abs().max() < 100 and output.logits.requires_grad
    assert output.frame_counts.tolist() == FRAMES.tolist()


def test_frame_counts_come_with_the_logits():
    model = model_of()
    waveforms, mask = masked_batch(LENGTHS)
    with torch.no_grad():
        masked, plain = model(waveforms, attention_mask=mask), model(waveforms)
        as_tuple = model(waveforms, attention_mask=mask, return_dict=False)
    assert masked.frame_counts.dtype == plain.frame_counts.dtype == torch.int64
    assert masked.frame_counts.tolist() == [24, 1, 0] and plain.frame_counts.tolist() == [24, 24, 24]
    assert list(masked) == ["logits"] and len(masked.to_tuple()) == 1
    assert len(as_tuple) == 1 and torch.equal(as_tuple[0], masked.logits)
    for copied in (copy.deepcopy(masked), pickle.loads(pickle.dumps(masked))):
        assert copied.frame_counts.tolist() == [24, 1, 0] and torch.equal(copied.logits, masked.logits)
    assert CausalLMOutput(logits=masked.logits).frame_counts is None
