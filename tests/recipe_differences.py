"""List the recipes that do not give transformers' result with one of our imports, and why."""

from typing import Any, NamedTuple

from recipe_variants import IMPORTS


class Difference(NamedTuple):
    """How a recipe's outcome differs from that with transformers' names.

    Attributes:
        kind: The name of the exception, or `values` if the result differs.
        reason: Why, in one line for `docs/recipes.md`.
        result: What our import gives, where that is better than what transformers gives.
        since: The first transformers with which the outcomes differ.
    """

    kind: str
    reason: str
    result: Any = None
    since: str = "0"


PADDING = "transformers writes letters for padded frames; ours are blanks for certain"
# what the model reads in each recording alone
ALONE = ["STOP", "MOVE FORWARD ELEVEN STEPS", "SWITCH ON THE OFFICE TEN", "OPEN THE KITCHEN WHINDOW"]

DIFFERENCES: dict[tuple[str, str], Difference] = {
    **{("inference_batch", name): Difference("values", PADDING, ALONE) for name in IMPORTS},
    **{("decode_beam_search", name): Difference("values", PADDING, ["STOP", "OPEN THE KITCHEN HINDOW"]) for name in IMPORTS},
    ("head_sequence_encoder_decoder", "hubert_fast"): Difference(
        "AttributeError", "SpeechEncoderDecoderModel takes transformers' own classes only"
    ),
    **{
        (name, "hubert_fast"): Difference(kind, "our attention is PyTorch's fused one, which has no such derivative on a CPU")
        for name, kind in (("inference_forward_mode", "NotImplementedError"), ("train_second_order", "RuntimeError"))
    },
    ("surgery_attention_class", "hubert_fast"): Difference("TypeError", "the arguments of modules inside the encoder are ours"),
    ("outputs_isinstance", "hubert_fast"): Difference("values", "our classes are not derived from transformers'"),
    ("train_trainer_checkpointing", "hubert_fast"): Difference(
        "values",
        "transformers 5 does not divide the loss of its own model under gradient accumulation; ours is divided, as in 4.57",
        since="5",
    ),
    **{
        (name, "hubert_fast"): Difference("FileAbsentError", "Trainer saves only the weights of foreign classes")
        for name in ("train_resume_trainer", "train_save_model")
    },
    ("tokenizer_skip_special", "hubert_fast"): Difference(
        "values", "transformers drops blanks first and so loses doubled letters; ours keeps them", ["HELLO W", "HELLO W"]
    ),
    ("train_regression", "hubert_fast"): Difference(
        "values", "the loss of one label is the squared error, as documented; transformers' is a cross entropy, and always 0"
    ),
}

# recipe -> the first transformers whose API it uses, and that API
ATTENTION = ("4.46", "attn_implementation")
DRAWS = ("5.23", "inference that draws no random numbers")
SAFETENSORS = ("4.35", "safetensors by default")
TRAINER = ("4.46", "checkpoints and logs of Trainer")
NEEDS = {
    "export_flop_counter": ATTENTION,
    "features_attentions": ATTENTION,
    "inference_attention_implementations": ATTENTION,
    "inference_forward_mode": ATTENTION,
    "inference_mc_dropout": DRAWS,
    "inference_vmap": DRAWS,
    "save_loading_options": SAFETENSORS,
    "save_safetensors_by_hand": SAFETENSORS,
    "save_sharded": SAFETENSORS,
    "surgery_empty_weights": SAFETENSORS,
    "train_best_model": TRAINER,
    "train_classification_trainer": ("5", "outputs of Trainer.predict without hidden states"),
    "train_resume_trainer": TRAINER,
    "train_second_order": ATTENTION,
    "train_trainer_checkpointing": TRAINER,
    "train_trainer_peft": TRAINER,
}

COMPILED = {"export_compile"}  # recipes that take many seconds and a C++ compiler
