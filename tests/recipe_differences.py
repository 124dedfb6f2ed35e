"""List the recipes that do not give transformers' result with one of our imports, and why."""

from typing import Any, NamedTuple

from recipe_variants import IMPORTS


class Difference(NamedTuple):
    """How a recipe's outcome differs from that with transformers' names.

    Attributes:
        kind: The name of the exception, or `values` if the result differs.
        reason: Why, in one line for `docs/recipes.md`.
        result: What our import gives, where that is better than what transformers gives.
    """

    kind: str
    reason: str
    result: Any = None


PADDING = "transformers writes letters for padded frames; ours are blanks for certain"
# what the model reads in each recording alone
ALONE = ["STOP", "MOVE FORWARD ELEVEN STEPS", "SWITCH ON THE OFFICE TEN", "OPEN THE KITCHEN WHINDOW"]

DIFFERENCES: dict[tuple[str, str], Difference] = {
    **{("inference_batch", name): Difference("values", PADDING, ALONE) for name in IMPORTS},
    **{("decode_beam_search", name): Difference("values", PADDING, ["STOP", "OPEN THE KITCHEN HINDOW"]) for name in IMPORTS},
    ("head_sequence_encoder_decoder", "hubert_fast"): Difference(
        "AttributeError", "SpeechEncoderDecoderModel takes transformers' own classes only"
    ),
    ("train_resume_trainer", "hubert_fast"): Difference(
        "FileAbsentError", "Trainer saves the weights of foreign classes, and not their configuration"
    ),
}

# recipe -> the first transformers whose API it uses, and that API
NEEDS: dict[str, tuple[str, str]] = {}

COMPILED = {"export_compile"}  # recipes that take many seconds and a C++ compiler

# recipes whose outcome with our own classes is about to change
PENDING = {
    "decode_beam_search",
    "decode_by_hand",
    "decode_forced_alignment",
    "features_layer",
    "features_masked_time",
    "features_mean_pooling",
    "features_units",
    "head_emotion",
    "inference_base_model",
    "inference_batch_sliced",
    "inference_no_mask_group_norm",
    "save_keyword_spellings",
    "save_options",
    "surgery_activation_and_scaling",
    "surgery_parts_by_hand",
    "train_accelerate",
    "train_classification",
    "train_classification_trainer",
    "train_ctc_loop",
    "train_ctc_loss_by_hand",
    "train_ctc_trainer",
    "train_gradient_accumulation",
}
