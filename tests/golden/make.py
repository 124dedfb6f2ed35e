"""Make the golden checkpoints with transformers 4.34.1: ``python tests/golden/make.py`` in an environment that has it.

Needs transformers==4.34.1, torch and numpy<2. ``post_ln``, ``pre_ln`` and ``weighted`` get what ``save_pretrained`` writes
(post-LN as a pickle, pre-LN as safetensors), and ``expected.npz`` with inputs, a mask and the model's answers. ``cases`` gets
the answers alone: cases.py makes the weights.
"""

from pathlib import Path

import numpy as np
import torch
import transformers
from cases import CASES, SIZES, answers, fill
from transformers import HubertConfig, HubertForCTC, HubertForSequenceClassification

ARCHITECTURES = {
    "post_ln": dict(SIZES, do_stable_layer_norm=False, feat_extract_norm="group"),
    "pre_ln": dict(SIZES, do_stable_layer_norm=True, feat_extract_norm="layer", conv_bias=True),
}
WEIGHTED = dict(ARCHITECTURES["pre_ln"], use_weighted_layer_sum=True, num_labels=5, classifier_proj_size=12)


def main() -> None:
    assert transformers.__version__ == "4.34.1", transformers.__version__
    for name, values in ARCHITECTURES.items():
        make(name, HubertForCTC, values, output_hidden_states=True, output_attentions=True)
    make("weighted", HubertForSequenceClassification, WEIGHTED)
    folder = Path(__file__).parent / "cases"
    folder.mkdir(exist_ok=True)
    for name, values in CASES.items():
        models = [fill(cls(HubertConfig(**values))).eval() for cls in (HubertForCTC, HubertForSequenceClassification)]
        np.savez_compressed(folder / f"{name}.npz", **{key: tensor.numpy() for key, tensor in answers(*models).items()})


def make(name: str, cls: type, values: dict, **asked: bool) -> None:
    torch.manual_seed(0)
    model = cls(HubertConfig(**values)).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # away from ones and zeros, so that every parameter matters
            parameter.add_(0.1 * torch.randn_like(parameter))
    mask = torch.ones(3, 4000, dtype=torch.long)
    mask[1, 2500:] = 0
    mask[2, 700:] = 0
    waveforms = torch.randn(3, 4000) * mask
    folder = Path(__file__).parent / name
    model.save_pretrained(folder, safe_serialization=name != "post_ln")
    with torch.no_grad():
        outputs = {"plain": model(waveforms, **asked), "masked": model(waveforms, attention_mask=mask, **asked)}
    answers = {"waveforms": waveforms, "mask": mask}
    for kind, output in outputs.items():
        answers[f"{kind}.logits"] = output.logits
        if asked:
            for index, state in enumerate(output.hidden_states):
                answers[f"{kind}.hidden_states.{index}"] = state
            for index, attention in enumerate(output.attentions):
                answers[f"{kind}.attentions.{index}"] = attention
    np.savez_compressed(folder / "expected.npz", **{key: tensor.numpy() for key, tensor in answers.items()})


if __name__ == "__main__":
    main()
