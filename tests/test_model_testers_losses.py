"""Ask of every import what transformers' model tester asks of losses, and of what they are computed from."""

import math

import pytest
import torch
from conftest import assert_close
from model_tester_cases import FRAMES, HEADS, padded_batch, parametrize_cases, result, waveforms_of

CTC = ("HubertForCTC",)


def _log_likelihood(log_probs: torch.Tensor, labels: list[int], blank: int) -> float:
    """Return the log-probability of a text under `[T, V]` log-probabilities: the sum over alignments (Graves 2006, 4.1)."""
    symbols = [blank, *(symbol for label in labels for symbol in (label, blank))]
    ending = {0: log_probs[0, blank].item(), 1: log_probs[0, symbols[1]].item()}  # by the symbol that the alignment has reached
    for frame in log_probs[1:].tolist():
        reached = {}
        for place, symbol in enumerate(symbols):
            steps = (0, 1, 2) if symbol != blank and place > 1 and symbol != symbols[place - 2] else (0, 1)
            sources = [ending[place - step] for step in steps if place - step in ending]
            if sources:
                reached[place] = torch.tensor(sources, dtype=torch.float64).logsumexp(0).item() + frame[symbol]
        ending = reached
    last = [ending[place] for place in (len(symbols) - 1, len(symbols) - 2) if place in ending]
    return torch.tensor(last, dtype=torch.float64).logsumexp(0).item() if last else -math.inf


@parametrize_cases(CTC)
@pytest.mark.parametrize("blank", [0, 31])
def test_ctc_loss_is_the_likelihood_of_all_alignments(case, blank):
    model, labels = case.model(pad_token_id=blank), case.labels()
    waveforms, mask = padded_batch()
    with torch.no_grad():
        output = model(waveforms, attention_mask=mask, labels=labels)
        losses = []
        for row, frames, text in ((0, FRAMES, [3, 5, 5]), (1, 6, [7, 1, 2, 4])):
            losses.append(-_log_likelihood(output.logits[row, :frames].double().log_softmax(-1), text, blank))
        assert output.loss.item() == pytest.approx(sum(losses), rel=1e-5), "the default reduction is a sum"
        model.config.ctc_loss_reduction = "mean"
        mean = model(waveforms, attention_mask=mask, labels=labels).loss.item()
    assert mean == pytest.approx((losses[0] / 3 + losses[1] / 4) / 2, rel=1e-5), "the mean of losses per label"


@parametrize_cases(CTC)
def test_ctc_padding_of_labels_is_ignored(case):
    model, waveforms = case.model(), waveforms_of(1)
    with torch.no_grad():
        losses = [
            model(waveforms, labels=torch.tensor([labels])).loss.item()
            for labels in ([4, 6], [4, 6, -100], [4, 6, -100, -100, -100], [4, 7])
        ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-6) and losses[2] == pytest.approx(losses[0], rel=1e-6)
    assert losses[3] != pytest.approx(losses[0], rel=1e-4)


@parametrize_cases(CTC)
def test_ctc_losses_without_an_alignment(case):
    model, waveforms = case.model(), waveforms_of()
    labels = torch.full((2, FRAMES + 1), 5)
    labels[0, 3:] = -100
    with torch.no_grad():
        assert model(waveforms, labels=labels).loss.item() == math.inf
        model.config.ctc_zero_infinity = True
        loss = model(waveforms, labels=labels).loss.item()
        assert loss == pytest.approx(model(waveforms[:1], labels=labels[:1]).loss.item(), rel=1e-5)


@parametrize_cases(CTC)
def test_ctc_labels_outside_of_the_vocabulary_are_refused(case):
    model = case.model()
    for label in (32, 1000):
        with pytest.raises(ValueError, match="vocab_size"):
            model(waveforms_of(1), labels=torch.tensor([[1, label]]))
    assert model(waveforms_of(1), labels=torch.tensor([[1, 31]])).loss.isfinite()


@parametrize_cases(HEADS)
def test_labels_change_no_logits(case):
    model, waveforms = case.model(), waveforms_of()
    with torch.no_grad():
        with_labels, without = model(waveforms, labels=case.labels()), model(waveforms)
    assert without.loss is None and torch.equal(with_labels.logits, without.logits)


@parametrize_cases(("HubertForSequenceClassification",))
@pytest.mark.parametrize("problem_type", [None, "single_label_classification", "multi_label_classification"])
def test_classification_loss_is_cross_entropy(case, problem_type):
    """The problem type of the configuration has no effect on this model."""
    model = case.model(problem_type=problem_type)
    waveforms, mask = padded_batch()
    with torch.no_grad():
        padded = model(waveforms, attention_mask=mask, labels=case.labels())
        plain = model(waveforms, labels=case.labels())
    for output in (padded, plain):
        expected = -output.logits.double().log_softmax(-1)[torch.arange(2), case.labels()].mean()
        assert output.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert padded.loss.item() != pytest.approx(plain.loss.item(), rel=1e-4), "the mask changes the pooling"


@parametrize_cases(("HubertForSequenceClassification",))
def test_classes_are_pooled_over_the_real_frames(case):
    model = case.model()
    waveforms, mask = padded_batch()
    with torch.no_grad():
        states = model.projector(model.hubert(waveforms, attention_mask=mask).last_hidden_state)
        expected = model.classifier(torch.stack((states[0].mean(0), states[1, :6].mean(0))))
    assert_close(result(model, waveforms, attention_mask=mask), expected, "same graph")
