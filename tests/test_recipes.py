"""Run code of the kind that people publish with transformers' names and with each of our imports, and compare the results.

A recipe is a script in `recipes/`, which leaves its outcome in `result`. `recipe_variants.py` changes its imports,
`recipe_differences.py` lists the outcomes that differ, and `docs/recipes.md` shows them:
`python tests/test_recipes.py` writes the tables of that page.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import re
import shutil
from pathlib import Path

import pytest
from recipe_differences import COMPILED, DIFFERENCES, NEEDS
from recipe_variants import IMPORTS

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "recipes.md"
SOURCES = {path.stem: path.read_text(encoding="utf-8") for path in sorted((TESTS / "recipes").glob("*.py"))}


@functools.cache
def rewritten(name: str, variant: str) -> str | None:
    """Return the recipe with the variant's imports; `None` if the variant replaces nothing in it."""
    source = IMPORTS[variant](SOURCES[name])
    return None if source == SOURCES[name] else source


CASES = [
    pytest.param(name, variant, id=f"{name}-{variant}", marks=[pytest.mark.slow] if name in COMPILED else [])
    for name in SOURCES
    for variant in IMPORTS
    if rewritten(name, variant)
]


def packages(source: str) -> set[str]:
    """Return the packages that a recipe imports, and Accelerate if transformers does so for it."""
    nodes = list(ast.walk(ast.parse(source)))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    behind = {"accelerate"} if re.search("TrainingArguments|device_map|low_cpu_mem", source) else set()
    return {name.split(".")[0] for name in names} | behind


def transformers_has_reached(version: str) -> bool:
    import transformers
    from packaging.version import Version

    return Version(transformers.__version__) >= Version(version)


def skip_if_it_cannot_run(name: str) -> None:
    missing = sorted(package for package in packages(SOURCES[name]) if importlib.util.find_spec(package) is None)
    if missing:
        pytest.skip(f"the recipe needs {', '.join(missing)}")
    if name in COMPILED and shutil.which("g++") is None:
        pytest.skip("the recipe needs a C++ compiler")
    version, api = NEEDS.get(name, ("0", ""))
    if not transformers_has_reached(version):
        pytest.skip(f"the recipe needs transformers {version}, for {api}")


@pytest.fixture(scope="session")
def files(tmp_path_factory) -> Path:
    from recipe_checkpoints import make_folder

    return make_folder(tmp_path_factory.mktemp("recipes"))


@functools.cache
def with_transformers(name: str, files: Path):
    """Return the outcome with transformers' names."""
    from recipe_outcomes import run

    return run(SOURCES[name], name, files)


@pytest.mark.parametrize("name, variant", CASES)
def test_recipe(name, variant, files):
    from recipe_outcomes import difference, run

    skip_if_it_cannot_run(name)
    expected = with_transformers(name, files)
    if expected.error is not None:
        raise expected.error
    actual = run(rewritten(name, variant), name, files)
    listed = DIFFERENCES.get((name, variant))
    if listed is not None and not transformers_has_reached(listed.since):
        listed = None
    if actual.error is not None:
        if listed is None:
            raise actual.error
        assert type(actual.error).__name__ == listed.kind, f"{listed.kind} is listed, but got {actual.error!r}"
        return
    found = difference(actual.result, expected.result)
    if listed is None:
        assert found is None, found
    else:
        assert found is not None, f"{name} gives transformers' result with {variant}: remove it from DIFFERENCES"
        assert listed.kind == "values", f"{listed.kind} is listed, but there is no exception: {found}"
        assert listed.result is None or difference(actual.result, listed.result) is None, actual.result


def test_differences_name_recipes():
    assert set(DIFFERENCES) <= {(case.values[0], case.values[1]) for case in CASES}
    assert {*NEEDS, *COMPILED} <= set(SOURCES)


def title_of(name: str) -> str:
    docstring = ast.get_docstring(ast.parse(SOURCES[name]))
    assert docstring and docstring.endswith("."), f"{name}.py needs a docstring of one sentence"
    return docstring.removesuffix(".")


def outcome(name: str, variant: str) -> str:
    """Return the entry of the table: `same`, `corrected`, `other values`, an exception, or a dash if nothing is replaced."""
    if rewritten(name, variant) is None:
        return "-"
    listed = DIFFERENCES.get((name, variant))
    if listed is None:
        return "same"
    if listed.kind == "values":
        return "other values" if listed.result is None else "corrected"
    return f"`{listed.kind}`"


def tables() -> dict[str, str]:
    """Return the tables of `docs/recipes.md`."""
    names = list(IMPORTS)
    rows = [f"| recipe | what it does | {' | '.join(f'`{name}`' for name in names)} |", "|---|---|" + "---|" * len(names)]
    for name in SOURCES:
        rows.append(f"| `{name}` | {title_of(name)} | {' | '.join(outcome(name, variant) for variant in names)} |")
    cases = {variant: [name for name in SOURCES if rewritten(name, variant)] for variant in names}
    counts = ["| import | recipes | same result |", "|---|---|---|"]
    for variant, run in cases.items():
        same = sum(outcome(name, variant) == "same" for name in run)
        counts.append(f"| `{variant}` | {len(run)} | {same} |")
    reasons = ["| recipe | with | outcome | why |", "|---|---|---|---|"]
    by_reason: dict[tuple[str, str, str], list[str]] = {}
    for (name, variant), listed in sorted(DIFFERENCES.items()):
        by_reason.setdefault((name, outcome(name, variant), listed.reason), []).append(f"`{variant}`")
    for (name, result, reason), variants in by_reason.items():
        reasons.append(f"| `{name}` | {', '.join(variants)} | {result} | {reason} |")
    return {"counts": _lines(counts), "outcomes": _lines(rows), "differences": _lines(reasons)}


def _lines(rows: list[str]) -> str:
    return "".join(f"{row}\n" for row in rows)


def filled(page: str) -> str:
    """Return the page with its tables written anew."""
    written = tables()
    return re.sub(
        r"(<!-- recipes: (\w+) -->\n).*?(<!-- end of recipes -->)",
        lambda match: f"{match[1]}{written[match[2]]}{match[3]}",
        page,
        flags=re.DOTALL,
    )


@pytest.mark.skipif(not PAGE.exists(), reason="the package under test is not a checkout")
def test_the_page_shows_the_outcomes():
    page = PAGE.read_text(encoding="utf-8")
    assert set(re.findall(r"<!-- recipes: (\w+) -->", page)) == set(tables())
    assert page == filled(page), "run python tests/test_recipes.py"


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
