"""Read the centroids of a faiss index, whose units are the ids of its coarse clusters.

mHuBERT-147's labels come from an index `OPQ16_64,IVF1000_HNSW32,PQ16x4fsr`: its authors apply the index's first transform to
the frames, and take the nearest of the IVF's 1,000 coarse centroids (github.com/utter-project/mHuBERT-147-scripts,
03_faiss_indices/faiss_index_creation.py). The product quantiser plays no part. They search the centroids with HNSW, which is
approximate: an exact search gives another id where HNSW misses the nearest centroid.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from ..hub import first_line
from .codebook import CentroidsError, Codebook, Projection

FIRST_BYTES = re.compile(rb"I[xwvHNBm][A-Za-z0-9]{2}..\0\0", re.DOTALL)  # the class, and the channels as int32


def is_faiss(head: bytes) -> bool:
    """Return whether a file begins as a faiss index does."""
    return FIRST_BYTES.match(head) is not None


def read_faiss(path: Path) -> Codebook:
    """Read a faiss index: the coarse centroids of an IVF index or the vectors of a flat one, and the linear transforms before.

    faiss's reader is native code that is not hardened against hostile files: read only indices that you trust.

    Raises:
        CentroidsError: faiss is not installed or cannot read the file, or the index has no centroids for Euclidean distance.
    """
    try:
        import faiss
    except ImportError:
        raise CentroidsError("it is a faiss index, and faiss is not installed: pip install faiss-cpu") from None
    try:
        outer = faiss.read_index(str(path))  # owns all that follows
    except (RuntimeError, MemoryError) as error:
        raise CentroidsError(f"faiss cannot read it ({first_line(error)}): download it again") from None
    index, projection = outer, None
    if isinstance(outer, faiss.IndexPreTransform):
        chain: Any = outer.chain  # a vector of C++, whatever the annotations of faiss say
        projection = _projection([faiss.downcast_VectorTransform(chain.at(i)) for i in range(chain.size())])
        index = faiss.downcast_index(outer.index)
    if index.metric_type != faiss.METRIC_L2:
        raise CentroidsError("the faiss index must use Euclidean distance (METRIC_L2), but uses another metric")
    if isinstance(index, faiss.IndexIVF):
        vectors = faiss.downcast_index(index.quantizer)
    elif isinstance(index, faiss.IndexFlat):
        vectors = index
    else:
        raise CentroidsError(
            f"expected an IVF or flat faiss index, whose coarse clusters are the units, but it is a {type(index).__name__}"
        )
    try:
        values = vectors.reconstruct_n(0, vectors.ntotal)
    except (RuntimeError, MemoryError) as error:
        raise CentroidsError(f"the centroids of its {type(vectors).__name__} cannot be read: {first_line(error)}") from None
    return Codebook(np.array(values), projection, {"training.algorithm": f"faiss {type(index).__name__}"})


def _projection(chain: list[Any]) -> Projection | None:
    """Return a chain of linear transforms as one. The product is in float64, so that it rounds only once."""
    import faiss

    weight: np.ndarray | None = None
    bias: np.ndarray | None = None
    for transform in chain:
        if not isinstance(transform, faiss.LinearTransform):
            raise CentroidsError(f"expected only linear transforms before the index, but it has a {type(transform).__name__}")
        a = faiss.vector_to_array(transform.A).astype(np.float64).reshape(transform.d_out, transform.d_in)
        b = faiss.vector_to_array(transform.b).astype(np.float64) if transform.have_bias else np.zeros(transform.d_out)
        weight = a if weight is None else a @ weight
        bias = b if bias is None else a @ bias + b
    if weight is None or bias is None:
        return None
    return Projection(weight.astype(np.float32), bias.astype(np.float32) if bias.any() else None)
