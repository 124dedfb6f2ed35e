"""Say why a checkpoint writes no text, and warn where its output layer and its tokenizer differ."""

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

ADVICE = "fine-tune it, or name a fine-tuned checkpoint such as facebook/hubert-large-ls960-ft"


def read_processor(name_or_path: str | Path, config: HubertConfig, hub_options: dict[str, Any]) -> HubertProcessor:
    """Read the processor of a checkpoint that transcribes.

    Raises :class:`CheckpointError` when the checkpoint has no CTC head, by its weights where it is a folder and by its
    configuration where weights would have to be fetched, or no ``vocab.json``.
    """
    named = [str(name) for name in getattr(config, "architectures", None) or []]
    claims_head = not named or any("CTC" in name for name in named)
    is_folder = Path(name_or_path).is_dir()
    if not claims_head and not (is_folder and has_ctc_head(name_or_path, **hub_options)):
        raise without_head(name_or_path, named)
    try:
        return HubertProcessor.from_pretrained(name_or_path, **hub_options)
    except FileAbsentError as error:
        if is_folder and not has_ctc_head(name_or_path, **hub_options):
            raise without_head(name_or_path, named) from None
        raise CheckpointError(
            f"{error}: expected it beside the CTC head, whose outputs it names; copy it, and tokenizer_config.json, from where "
            f"the model was fine-tuned"
        ) from None


def without_head(name_or_path: str | Path, architectures: list[str]) -> CheckpointError:
    """Return the error to raise for a checkpoint without a CTC head."""
    if any("Classification" in name for name in architectures):
        return CheckpointError(f"{name_or_path} is a classifier ({listed(architectures)}) without a CTC head: {ADVICE}")
    return CheckpointError(f"{name_or_path} is a pre-trained encoder without a CTC head: {ADVICE}")


def check_complete(name_or_path: str | Path, model: HubertForCTC, info: LoadingInfo) -> None:
    """Raise :class:`CheckpointError` when weights are missing; warn of a head that looks as it was initialised."""
    # SpecAugment's embedding plays no part in inference; anything else that is missing would be noise in the text
    missing = [key for key in info.missing_keys if not key.endswith("masked_spec_embed")]
    if missing and all(key.startswith("lm_head.") for key in missing):
        heads = {key.partition(".")[0] for key in info.unexpected_keys}
        raise without_head(name_or_path, ["HubertForSequenceClassification"] if {"projector", "classifier"} <= heads else [])
    if missing:
        others = f"; it has others instead: {listed(info.unexpected_keys, 2)}" if info.unexpected_keys else ""
        raise CheckpointError(
            f"{name_or_path} is not a complete HuBERT-CTC checkpoint: {len(missing)} of {len(model.state_dict())} weights are "
            f"missing: {listed(missing, 2)}{others}"
        )
    if _looks_untrained(model):
        logger.warning(
            "%s: the CTC head looks as it was initialised and never trained: the text will be noise; %s", name_or_path, ADVICE
        )


def _looks_untrained(model: HubertForCTC) -> bool:
    """Return whether the output layer is untrained: its biases are all zero and its weights as spread as initial ones."""
    head = model.lm_head
    if head.bias is None or head.bias.any():
        return False
    weight, expected = head.weight.detach().float(), model.config.initializer_range
    sampling = 4 / (2 * weight.numel()) ** 0.5  # four standard errors of a standard deviation, as a share of it
    return bool(abs(weight.std() / expected - 1) < max(sampling, 0.01)) and bool(abs(weight.mean()) < sampling * expected)


def check_tokens(config: HubertConfig, tokenizer: CTCTokenizer) -> None:
    """Warn where outputs have no token, or another blank than the configuration's: decoding follows the tokenizer.

    transformers does the same: it reads an output without a token as ``unk_token``, and uses the configuration's
    ``pad_token_id`` for the loss alone. Raises ``ValueError`` for outputs without a token when there is no ``unk_token``.
    """
    size, blank = config.vocab_size, tokenizer.pad_token_id
    nameless = [str(id) for id in range(size) if id not in tokenizer.tokens]
    if nameless and tokenizer.unk_token is None:
        raise ValueError(
            f"the model has {size} outputs, but the vocabulary no token for {listed(nameless)}, nor an unk_token for them"
        )
    if nameless:
        logger.warning(
            "the model has %d outputs, but the vocabulary no token for %s: they are read as %s, as transformers does",
            size,
            listed(nameless),
            tokenizer.unk_token,
        )
    if config.pad_token_id != blank:
        logger.warning(
            "pad_token_id is %s in config.json, but the tokenizer's %s is %d: CTC's blank is %d, as in transformers",
            "null" if config.pad_token_id is None else config.pad_token_id,
            tokenizer.pad_token,
            blank,
            blank,
        )
    if blank >= size:
        logger.warning(
            "CTC's blank, %s, has the id %d, but the model only %d outputs: it is never written, so the text will be noise",
            tokenizer.pad_token,
            blank,
            size,
        )
