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
SENTENCES = ["STOP", "MOVE FORWARD ELEVEN STEPS", "SWITCH ON THE OFFICE FAN", "OPEN THE KITCHEN WINDOW"]

DIFFERENCES: dict[tuple[str, str], Difference] = {
    **{("inference_batch", name): Difference("values", PADDING, SENTENCES) for name in IMPORTS},
    **{("decode_beam_search", name): Difference("values", PADDING, [SENTENCES[0], SENTENCES[3]]) for name in IMPORTS},
}

# recipe -> the first transformers whose API it uses, and that API
NEEDS: dict[str, tuple[str, str]] = {}

SLOW = {"export_compile"}  # recipes that take seconds
