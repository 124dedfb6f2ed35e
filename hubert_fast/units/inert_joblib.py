"""Read what `joblib.dump` and `pickle.dump` wrote, without importing, calling or modifying what a file names.

joblib replaces each array by an object that describes it. The array's bytes follow in the stream right after that object: since
joblib 1.2, one byte with the length of the padding and the padding come first. The whole stream may be compressed.
"""

from __future__ import annotations

import bz2
import io
import lzma
import pickle
import zlib
from collections.abc import Callable
from importlib import import_module
from typing import Any, ClassVar

from ..hub import first_line
from ..inert_pickle import Inert
from .codebook import CentroidsError
from .inert_arrays import StoredArray, dtype_of, items_in, shaped

MAX_BYTES = 1 << 31  # of a decompressed file: 2,000 times the size of 500 centroids of 768 channels
COMPRESSIONS: tuple[tuple[str, bytes, Callable[[], Any]], ...] = (  # name, first bytes, decompressor
    ("gzip", b"\x1f\x8b", lambda: zlib.decompressobj(31)),
    ("bzip2", b"BZh", bz2.BZ2Decompressor),
    ("xz", b"\xfd7zXZ\0", lzma.LZMADecompressor),
    ("lzma", b"\x5d\0\0", lzma.LZMADecompressor),
    ("lz4", b"\x04\x22\x4d\x18", lambda: import_module("lz4.frame").LZ4FrameDecompressor()),
    ("zlib", b"\x78\x01", zlib.decompressobj),
    ("zlib", b"\x78\x5e", zlib.decompressobj),
    ("zlib", b"\x78\x9c", zlib.decompressobj),
    ("zlib", b"\x78\xda", zlib.decompressobj),
)
OLD_PREFIX = b"ZF0x"  # of compressed files by joblib before 0.10
TOO_OLD = "a version of joblib before 0.10 wrote it: load it with that version, and dump it with a current one"


def is_compressed(head: bytes) -> bool:
    """Return whether a file begins as a compressed file of joblib does."""
    return any(head.startswith(start) for _, start, _ in COMPRESSIONS) or head.startswith(OLD_PREFIX)


def decompress(data: bytes) -> bytes:
    """Return the decompressed content of a file for which `is_compressed` holds.

    Raises:
        CentroidsError: The data are cut off, damaged or too large, or the package that decompresses them is missing.
    """
    if data.startswith(OLD_PREFIX):
        raise CentroidsError(TOO_OLD)
    name, _, construct = next(entry for entry in COMPRESSIONS if data.startswith(entry[1]))
    try:
        decompressor = construct()
        content = decompressor.decompress(data, MAX_BYTES)
    except ImportError:
        raise CentroidsError(f"it is compressed with {name}, which Python cannot read: pip install {name}") from None
    except (OSError, ValueError, EOFError, RuntimeError, zlib.error, lzma.LZMAError) as error:
        raise CentroidsError(f"its {name} data are damaged ({first_line(error)}): download it again") from None
    if len(content) >= MAX_BYTES:
        raise CentroidsError(f"it holds more than {MAX_BYTES >> 30} GiB when decompressed: expected centroids alone")
    if not decompressor.eof:
        raise CentroidsError(f"its {name} data are cut off: download it again")
    return content


def load_inert_joblib(data: bytes) -> Any:
    """Return the content of a decompressed file; objects other than plain containers become `Inert`, arrays too.

    Raises:
        CentroidsError: The data are not a pickle, cut off, or an array of them has an unexpected size or dtype.
    """
    file = io.BytesIO(data)
    try:
        return _Unpickler(file, encoding="latin-1").load()
    except CentroidsError:
        raise
    except Exception as error:  # damaged pickles raise many unrelated exceptions
        reason = "it ends too early" if isinstance(error, EOFError) else first_line(error)
        raise CentroidsError(f"its pickle is cut off or damaged ({reason}): download it again") from None


class _Reconstructor(Inert):
    """Construct an object of an inert class, as `copyreg._reconstructor` does for protocols 0 and 1."""

    def __new__(cls, *arguments: Any, **named: Any) -> Inert:  # type: ignore[misc]
        if arguments and isinstance(arguments[0], type) and issubclass(arguments[0], Inert):
            return arguments[0].__new__(arguments[0])
        return super().__new__(cls, *arguments, **named)


class _Unpickler(pickle._Unpickler):  # in Python, not C: after an opcode, the file's position is known
    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(pickle._Unpickler.dispatch)

    def __init__(self, file: io.BytesIO, **options: Any):
        super().__init__(file, **options)
        self._file = file

    def find_class(self, module: str, name: str) -> Any:
        is_joblib = "joblib" in module.split(".")
        if is_joblib and name in ("NDArrayWrapper", "ZNDArrayWrapper"):
            raise CentroidsError(TOO_OLD)
        base: type[Inert] = Inert
        if is_joblib and name == "NumpyArrayWrapper":
            base = StoredArray
        elif module in ("copyreg", "copy_reg") and name == "_reconstructor":
            base = _Reconstructor
        return type(base.__name__, (base,), {"kind": f"{module}.{name}"})

    def get_extension(self, code: int) -> None:
        raise pickle.UnpicklingError("it refers to the registry of extensions")

    def load_build(self) -> None:
        super().load_build()  # type: ignore[misc]
        described = self.stack[-1]  # type: ignore[attr-defined]
        if isinstance(described, StoredArray):
            self._read_array(described)

    dispatch[pickle.BUILD[0]] = load_build

    def _read_array(self, stored: StoredArray) -> None:
        """Read the array whose bytes follow the object that describes it."""
        state = stored.state if isinstance(stored.state, dict) else {}
        dtype, shape = dtype_of(state.get("dtype")), state.get("shape")
        if dtype is None:
            _Unpickler(self._file, encoding="latin-1").load()  # a pickle of its own
            return
        size = items_in(shape) * dtype.itemsize
        if state.get("numpy_array_alignment_bytes") is not None:
            self._file.read(self._file.read(1)[0])
        stored.values = shaped(self._file.read(size), dtype, shape, state.get("order") == "F")  # type: ignore[arg-type]
