"""Train the demo recogniser: `python bench/demo/train.py --corpus build/demo --out build/model --minutes 80`.

The loss is CTC on the letters plus a cross entropy whose weight falls to zero: from the second layer, the model predicts the
phone that the synthesiser reports for each frame. This is HuBERT's recipe (predict a unit for every frame) with units that need
no clustering; without it, CTC alone predicts only blanks. The schedule depends only on the share of `--minutes` that has
passed, so a run takes equally long on any machine.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import sys
import time
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2]))  # hubert_fast, where it is not installed

import torch
import torch.nn.functional as F
from batches import SAMPLE_RATE_HZ, Batch, Batches, Corpus
from torch import nn

from hubert_fast import HubertConfig, HubertForCTC
from hubert_fast.processing import HubertProcessor

TOKENS = "<pad> <s> </s> <unk> | E T A O N I H S R D L U M W C F G Y P B V K ' X J Q Z".split()
PEAK_LEARNING_RATE = 7e-4
WARM_UP = 0.02  # share of the run
FREEZE_ENCODER = 0.5  # from this share on the convolutions are frozen, which more than halves the cost of a step
PHONE_LAYER = 2

CONFIG = HubertConfig(
    vocab_size=len(TOKENS),
    hidden_size=256,
    num_hidden_layers=4,
    num_attention_heads=4,
    intermediate_size=1024,
    conv_dim=(32, 64, 96, 128, 160, 192, 192),
    conv_bias=True,
    feat_extract_norm="layer",
    do_stable_layer_norm=True,
    num_conv_pos_embeddings=32,
    num_conv_pos_embedding_groups=16,  # 16 channels each: below that, torch 2.13's bfloat16 grouped convolution is wrong
    hidden_dropout=0.0,
    activation_dropout=0.0,
    attention_dropout=0.0,
    final_dropout=0.0,
    layerdrop=0.0,
    mask_time_prob=0.2,
    mask_time_length=8,
    mask_feature_prob=0.1,
    mask_feature_length=16,
    ctc_zero_infinity=True,
    pad_token_id=TOKENS.index("<pad>"),
    bos_token_id=TOKENS.index("<s>"),
    eos_token_id=TOKENS.index("</s>"),
)


def learning_rate(share: float) -> float:
    if share < WARM_UP:
        return PEAK_LEARNING_RATE * share / WARM_UP
    return PEAK_LEARNING_RATE * max(0.5 * (1 + math.cos(math.pi * (share - WARM_UP) / (1 - WARM_UP))), 0.002)


def phone_weight(share: float) -> float:
    return max(0.0, 1 - share / 0.6)


def shape_weights(share: float) -> tuple[float, ...]:
    """Return the weights of SHAPES, short rows first."""
    return (1.0, 0.0, 0.0) if share < 0.05 else (1.0, 0.3, 0.0) if share < 0.12 else (1.0, 1.0, 0.4)


def losses(model: HubertForCTC, phone_head: nn.Linear, batch: Batch, low_precision: bool = True):
    with torch.autocast("cpu", torch.bfloat16, enabled=low_precision):
        output = model(batch.waveforms, output_hidden_states=True)
        phone_logits = phone_head(output.hidden_states[PHONE_LAYER])
    logits = output.logits
    rows, frames, _ = logits.shape
    ctc = F.ctc_loss(
        logits.float().log_softmax(-1).transpose(0, 1),
        batch.labels,
        torch.full((rows,), frames),
        batch.label_lengths,
        blank=model.config.pad_token_id,
        reduction="sum",
        zero_infinity=True,
    )
    phones = F.cross_entropy(phone_logits.float().flatten(0, 1), batch.phones.flatten())
    return ctc / batch.label_lengths.sum(), phones


def check_low_precision(model: HubertForCTC, phone_head: nn.Linear, batch: Batch) -> None:
    """Raise `RuntimeError` if bfloat16 gradients do not point in the direction of float32 ones."""
    parameter = model.hubert.encoder.pos_conv_embed.conv.parametrizations.weight.original1
    gradients = []
    model.eval()  # without SpecAugment, so that both see the same input
    for low_precision in (False, True):
        loss = sum(losses(model, phone_head, batch, low_precision))
        gradients.append(torch.autograd.grad(loss, parameter)[0].flatten())
    model.train()
    cosine = F.cosine_similarity(*gradients, dim=0).item()
    print(f"bfloat16 against float32, gradient of the positional convolution: cosine {cosine:.4f}", flush=True)
    if cosine < 0.95:
        raise RuntimeError(f"bfloat16 training is not sound on this machine: gradient cosine {cosine:.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, nargs="+", required=True, help="one or more folders from corpus.py")
    parser.add_argument("--start", type=Path, help="checkpoint whose weights to start from (default: random weights)")
    parser.add_argument("--out", type=Path, required=True, help="folder to write the model to")
    parser.add_argument("--minutes", type=float, default=80, help="length of the run (default: 80)")
    parser.add_argument("--seed", type=int, default=0, help="random seed (default: 0)")
    arguments = parser.parse_args()

    torch.manual_seed(arguments.seed)
    processor = HubertProcessor.from_tokens(TOKENS)
    corpus = Corpus(arguments.corpus, processor.tokenizer.vocabulary)
    batches = Batches(corpus, processor.tokenizer.vocabulary["|"], arguments.seed)
    model = HubertForCTC.from_pretrained(arguments.start, config=CONFIG) if arguments.start else HubertForCTC(CONFIG)
    model.train()
    phone_head = nn.Linear(CONFIG.hidden_size, corpus.phone_count)
    average = copy.deepcopy(model)
    parameters = [*model.parameters(), *phone_head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=0.0, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    check_low_precision(model, phone_head, batches.draw((1, 0, 0)))
    size = sum(parameter.numel() for parameter in model.parameters())
    print(f"{size / 1e6:.2f} M parameters, {corpus.seconds / 3600:.1f} h, {corpus.phone_count} phones", flush=True)

    begin = time.monotonic()
    step, heard_seconds, next_report = 0, 0.0, 0.0
    while (share := (time.monotonic() - begin) / (60 * arguments.minutes)) < 1:
        if share >= FREEZE_ENCODER:
            model.freeze_feature_encoder()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(share)
        batch = batches.draw(shape_weights(share))
        ctc, phones = losses(model, phone_head, batch)
        loss = ctc + phone_weight(share) * phones
        if not math.isfinite(loss.item()):
            raise RuntimeError(f"the loss is {loss.item()} at step {step}")
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        step += 1
        heard_seconds += batch.waveforms.numel() / SAMPLE_RATE_HZ
        with torch.no_grad():
            decay = min(0.995, step / (step + 20))
            torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
        if share * arguments.minutes >= next_report:
            next_report += 1
            row = {
                "minutes": round(share * arguments.minutes, 1),
                "step": step,
                "hours_heard": round(heard_seconds / 3600, 2),
                "ctc_per_letter": round(ctc.item(), 4),
                "phone_cross_entropy": round(phones.item(), 4),
            }
            print(json.dumps(row), flush=True)
            if round(next_report) % 5 == 0:
                save(average, processor, arguments.out)
    save(average, processor, arguments.out)


def save(model: HubertForCTC, processor: HubertProcessor, folder: Path) -> None:
    """Write the averaged weights in float16, with the processor's files."""
    copy.deepcopy(model).half().save_pretrained(folder)
    processor.save_pretrained(folder)


if __name__ == "__main__":
    main()
