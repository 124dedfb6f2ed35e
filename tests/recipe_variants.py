"""Rewrite a recipe for each of our imports, as its author would by hand.

`IMPORTS` maps a variant's name to the function that rewrites the source. A variant that leaves a recipe as it is, because
the recipe imports nothing that the variant replaces, does not apply to it.
"""

import ast
from collections.abc import Callable

MODELS = ("HubertModel", "HubertForCTC", "HubertForSequenceClassification")
OUR_NAMES = {
    **{name: name for name in (*MODELS, "HubertConfig", "HubertPreTrainedModel")},
    "Wav2Vec2Processor": "HubertProcessor",
    "Wav2Vec2FeatureExtractor": "HubertFeatureExtractor",
    "Wav2Vec2CTCTokenizer": "CTCTokenizer",
}
AUTO_MODELS = ("AutoModel", "AutoModelForCTC", "AutoModelForAudioClassification", "SpeechEncoderDecoderModel")


def drop_in(source: str) -> str:
    """Import the models from `hubert_fast.transformers`, and everything else from transformers."""
    return _with_imports(source, "hubert_fast.transformers", {name: name for name in MODELS})


def own_classes(source: str) -> str:
    """Import models, configuration and processor from `hubert_fast`."""
    return _with_imports(source, "hubert_fast", OUR_NAMES)


def accelerated(source: str) -> str:
    """Call `accelerate` after each statement that makes a model of transformers."""
    tree = _Accelerated().visit(ast.parse(source))
    rewritten = ast.unparse(ast.fix_missing_locations(tree))
    return source if "accelerate_hubert(" not in rewritten else _after_docstring(tree, "hubert_fast")


IMPORTS: dict[str, Callable[[str], str]] = {
    "hubert_fast.transformers": drop_in,
    "hubert_fast": own_classes,
    "accelerate": accelerated,
}


def _with_imports(source: str, module: str, names: dict[str, str]) -> str:
    lines = source.splitlines()
    for node in reversed([node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)]):
        ours = [alias for alias in node.names if alias.name in names]
        if (node.module or "").split(".")[0] == "transformers" and ours:
            theirs = [alias for alias in node.names if alias.name not in names]
            imports = [ast.ImportFrom(node.module, theirs, 0)] if theirs else []
            renamed = [ast.alias(names[alias.name], alias.asname or alias.name) for alias in ours]
            statements = [*imports, ast.ImportFrom(module, renamed, 0)]
            indent = " " * node.col_offset
            lines[node.lineno - 1 : node.end_lineno] = [indent + ast.unparse(statement) for statement in statements]
    return "\n".join(lines) + "\n"


class _Accelerated(ast.NodeTransformer):
    def visit_Assign(self, node: ast.Assign) -> list[ast.stmt] | ast.Assign:
        maker = _maker(node.value)
        if maker not in (*MODELS, *AUTO_MODELS, "pipeline"):
            return node
        target = node.targets[0]
        model = ast.unparse(target.elts[0] if isinstance(target, ast.Tuple) else target)
        model = f"{model}.model" if maker == "pipeline" else model
        return [node, *ast.parse(f"accelerate_hubert({model})").body]


def _maker(value: ast.expr) -> str | None:
    """Return `HubertModel` for `HubertModel(...)`, `HubertModel.from_pretrained(...).eval()` and the like."""
    while isinstance(value, (ast.Call, ast.Attribute)):
        value = value.func if isinstance(value, ast.Call) else value.value
        if isinstance(value, ast.Name):
            return value.id
    return None


def _after_docstring(tree: ast.Module, module: str) -> str:
    statement = ast.parse(f"from {module} import accelerate as accelerate_hubert").body
    tree.body[1:1] = statement
    return ast.unparse(ast.fix_missing_locations(tree)) + "\n"
