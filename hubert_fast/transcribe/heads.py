"""Check that a checkpoint can transcribe, and that its output layer and its tokenizer agree."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from ..checkpoints import LoadingInfo, has_ctc_head
from ..config import HubertConfig
from ..hub import CheckpointError, FileAbsentError, listed
from ..modeling import HubertForCTC
from ..processing import HubertProcessor
from ..tokenizer import CTCTokenizer

logger = logging.getLogger(__name__)

ADVICE = "fine-tune it, or use a fine-tuned checkpoint such as facebook/hubert-large-ls960-ft"


def read_processor(name_or_path: str | Path, config: HubertConfig, hub_options: dict[str, Any]) -> HubertProcessor:
    """Read the processor of a checkpoint with a CTC head.

    In a local folder, the weights also show whether there is a CTC head. On the hub, only the configuration is consulted,
    because the weights would have to be downloaded.

    Raises:
        CheckpointError: If the checkpoint has no CTC head or no `vocab.json`.
    """
    architectures = [str(name) for name in getattr(config, "architectures", None) or []]
    claims_head = not architectures or any("CTC" in name for name in architectures)
    is_folder = Path(name_or_path).is_dir()
    if not claims_head and not (is_folder and has_ctc_head(name_or_path, **hub_options)):
        raise missing_head(name_or_path, architectures)
    try:
        return HubertProcessor.from_pretrained(name_or_path, **hub_options)
    except FileAbsentError as error:
        if is_folder and not has_ctc_head(name_or_path, **hub_options):
            raise missing_head(name_or_path, architectures) from None
        raise CheckpointError(
            f"{error}: a CTC head needs it to map outputs to characters; copy it, and tokenizer_config.json, from the folder "
            f"that fine-tuning wrote"
        ) from None


def missing_head(name_or_path: str | Path, architectures: list[str]) -> CheckpointError:
    """Return the error for a checkpoint without a CTC head."""
    if any("Classification" in name for name in architectures):
        return CheckpointError(f"{name_or_path} is a classifier ({listed(architectures)}) without a CTC head: {ADVICE}")
    return CheckpointError(f"{name_or_path} is a pre-trained encoder without a CTC head: {ADVICE}")


def check_complete(name_or_path: str | Path, model: HubertForCTC, info: LoadingInfo) -> None:
    """Check that all weights were loaded, and warn about a head that appears to be untrained.

    Raises:
        CheckpointError: If weights are missing.
    """
    # inference does not use SpecAugment's embedding
    missing = [key for key in info.missing_keys if not key.endswith("masked_spec_embed")]
    if missing and all(key.startswith("lm_head.") for key in missing):
        heads = {key.partition(".")[0] for key in info.unexpected_keys}
        raise missing_head(name_or_path, ["HubertForSequenceClassification"] if {"projector", "classifier"} <= heads else [])
    if missing:
        unexpected = f"; unexpected weights: {listed(info.unexpected_keys, 2)}" if info.unexpected_keys else ""
        raise CheckpointError(
            f"{name_or_path} is not a complete HuBERT-CTC checkpoint: {len(missing)} of {len(model.state_dict())} weights are "
            f"missing: {listed(missing, 2)}{unexpected}"
        )
    if _looks_untrained(model):
        logger.warning("%s: the CTC head appears to be untrained, so the text will be meaningless: %s", name_or_path, ADVICE)


def _looks_untrained(model: HubertForCTC) -> bool:
    """Return whether the biases of the output layer are all zero and its weights are distributed as initialised."""
    head = model.lm_head
    if head.bias is None or head.bias.any():
        return False
    weight, expected = head.weight.detach().float(), model.config.initializer_range
    sampling = 4 / (2 * weight.numel()) ** 0.5  # four standard errors of the standard deviation, relative to it
    return bool(abs(weight.std() / expected - 1) < max(sampling, 0.01)) and bool(abs(weight.mean()) < sampling * expected)


def check_tokens(config: HubertConfig, tokenizer: CTCTokenizer) -> None:
    """Warn about outputs without a token, and about a blank that differs between configuration and tokenizer.

    Decoding follows the tokenizer, as in transformers, which decodes an output without a token as `unk_token` and uses the
    configuration's `pad_token_id` only for the loss.

    Raises:
        ValueError: If an output has no token, and there is no `unk_token`.
    """
    size, blank = config.vocab_size, tokenizer.pad_token_id
    unknown = [str(id) for id in range(size) if id not in tokenizer.tokens]
    if unknown and tokenizer.unk_token is None:
        raise ValueError(
            f"the model has {size} outputs, but the vocabulary has no token for {listed(unknown)}, and no unk_token"
        )
    if unknown:
        logger.warning(
            "the model has %d outputs, but the vocabulary has no token for %s: they are decoded as %s, as in transformers",
            size,
            listed(unknown),
            tokenizer.unk_token,
        )
    if config.pad_token_id != blank:
        logger.warning(
            "pad_token_id is %s in config.json, but the tokenizer's %s has the id %d: the CTC blank is %d, as in transformers",
            "null" if config.pad_token_id is None else config.pad_token_id,
            tokenizer.pad_token,
            blank,
            blank,
        )
    if blank >= size:
        logger.warning(
            "the CTC blank %s has the id %d, but the model has only %d outputs: the text will be wrong",
            tokenizer.pad_token,
            blank,
            size,
        )
