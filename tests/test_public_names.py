"""Check that names loaded on first use, names that type checkers see and names in the API reference agree."""

import ast
import inspect
import re
from dataclasses import fields
from pathlib import Path

import pytest

import hubert_fast
import hubert_fast.ops
import hubert_fast.transcribe
import hubert_fast.units

PACKAGE = Path(hubert_fast.__file__).parent
REFERENCE = PACKAGE.parent / "docs" / "api.md"


def test_type_checkers_see_what_loads_on_first_use():
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING")
    seen = {alias.asname: (node.module, alias.name) for node in block.body for alias in node.names}
    assert seen == {name: (module, name) for name, module in hubert_fast._HOMES.items()}
    assert (PACKAGE / "py.typed").is_file()


@pytest.mark.skipif(not REFERENCE.exists(), reason="docs/ is not beside the package under test")
def test_public_names_and_the_reference_agree():
    listed = re.findall(r"^::: hubert_fast\.(\w+)$", REFERENCE.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(listed) == sorted(hubert_fast.__all__)
    of_transcribe = re.findall(r"^::: hubert_fast\.transcribe\.(\w+)$", REFERENCE.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(of_transcribe) == sorted(hubert_fast.transcribe.__all__)
    of_units = re.findall(r"^::: hubert_fast\.units\.(\w+)$", REFERENCE.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(of_units) == sorted(hubert_fast.units.__all__)
    ops = re.findall(r"^::: hubert_fast\.ops\.(\w+)$", REFERENCE.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(ops) == sorted(name for name in hubert_fast.ops.__all__ if not name.endswith("_eager"))


def test_each_field_of_the_configuration_is_documented_with_its_default():
    attributes = inspect.getdoc(hubert_fast.HubertConfig).partition("Attributes:\n")[2].partition("\n\nRaises:")[0]
    entries = re.findall(r"^    (\w+): (.+?)\.$(?=\n    \w|\Z)", attributes, flags=re.MULTILINE | re.DOTALL)
    defaults = {name: ast.literal_eval(text.partition("Default: ")[2]) for name, text in entries[:-2]}
    assert defaults == {field.name: field.default for field in fields(hubert_fast.HubertConfig)}
    assert [*defaults] == [field.name for field in fields(hubert_fast.HubertConfig)]
    assert [name for name, _ in entries[-2:]] == ["id2label", "label2id"]
