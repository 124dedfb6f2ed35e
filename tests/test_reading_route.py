"""Limit how many files a reader must open to follow one call of the definition or of the plain graph."""

import pytest
from reading_route import routes, trace

from hubert_fast.dispatch import BACKEND_VARIABLE

# Files, crossings from one file to another. Before packed/ was one package, the plain graph had 17 and 138. On a CPU, 50 of its
# crossings are oneDNN's products and kernels in C++: single steps in two files that a reader need not open.
LIMITS = {
    "base: forward, the definition": (6, 16),
    "large: forward, the definition": (6, 16),
    "base: forward, plain PyTorch": (18, 122),
    "large: forward, plain PyTorch": (16, 110),
}


@pytest.mark.parametrize("name", LIMITS)
def test_a_call_crosses_few_files(name, monkeypatch):
    monkeypatch.setenv(BACKEND_VARIABLE, "eager")
    route = trace(name, routes()[name])
    files, crossings = LIMITS[name]
    assert 1 < len(route.files) <= files, f"{len(route.files)} files, more than {files}: {sorted(route.files)}"
    assert 1 < route.crossings <= crossings, f"{route.crossings} crossings, more than {crossings}"
