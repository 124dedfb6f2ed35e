"""Which files of a folder, a pattern or an archive are audio, and what is said about those that are not."""

from __future__ import annotations

import os
import stat
from collections import Counter

from ..audio import AUDIO_SUFFIXES
from ..first_bytes import head_of, identify

# Files that go with audio or lie beside it, by their names: they are counted without being opened.
OTHER_SUFFIXES = frozenset(
    ".7z .ark .ass .aup .aup3 .bak .bmp .bz2 .c .cfg .conf .cpp .css .csv .ctm .cue .cuts .db .doc .docx .download "
    ".crdownload .eaf .gif .gz .h .h5 .hdf5 .htm .html .ini .ipynb .jpeg .jpg .js .json .jsonl .journal .km .lab .list .lnk "
    ".log .lrc .lst .ltr .m3u .m3u8 .md .md5 .ndjson .nfo .npy .npz .old .onnx .orig .parquet .part .partial .pdf .phn .pkl "
    ".pls .png .pt .pth .py .pyc .rar .rttm .safetensors .scp .seg .sfv .sh .sha1 .sha256 .srt .ssa .stm .sub .svg .tar "
    ".temp .textgrid .tgz .tif .tiff .tmp .toml .torrent .trn .tsv .txt .url .vtt .webp .wrd .xls .xlsx .xml .xz .yaml .yml "
    ".zip .zst".split()
)
RESOURCE_NAMES = frozenset((".ds_store", "thumbs.db", "ehthumbs.db", "desktop.ini", ".localized", ".directory", "icon\r"))
RESOURCE_FOLDERS = frozenset(
    "__macosx .appledouble .trashes .spotlight-v100 .fseventsd .temporaryitems @eadir $recycle.bin #recycle .git .hg .svn .dvc "
    ".ipynb_checkpoints __pycache__".split()
) | {"system volume information"}
APPLE_DOUBLE = "appledouble"
MOST_KINDS, MOST_SUFFIX_CHARACTERS = 8, 12


def is_resource_folder(name: str) -> bool:
    """Return whether a folder holds what an operating system or a version control keeps for itself."""
    return name.lower() in RESOURCE_FOLDERS


def is_resource(name: str) -> bool:
    """Return whether a file, by its name, is what an operating system, or Emacs, keeps beside files."""
    return name.startswith(("._", ".#")) or name.lower() in RESOURCE_NAMES


def is_within_resources(path: str) -> bool:
    """Return whether a path within an archive is of such a folder or file."""
    *folders, name = path.split("/")
    return is_resource(name) or any(map(is_resource_folder, folders))


def suffix_of(name: str) -> str:
    """Return a name's suffix in small letters; what is too long for one, or has a space in it, is none."""
    suffix = os.path.splitext(name)[1].lower()
    return suffix if 1 < len(suffix) <= MOST_SUFFIX_CHARACTERS and " " not in suffix else ""


class Sieve:
    """Tells audio from other files, and counts the others by kind.

    reads: whether a file whose suffix says nothing is opened, so that its first bytes decide.
    """

    def __init__(self, reads: bool = True):
        self._reads = reads
        self._others: Counter[str] = Counter()

    def takes(self, path: str) -> bool:
        """Return whether a file is audio, and count it if not. Resource files of operating systems are not counted."""
        if self.is_audio(path):
            return True
        name = os.path.basename(path)
        if not is_resource(name):
            self._others[suffix_of(name)] += 1
        return False

    def is_audio(self, path: str) -> bool:
        """Return whether a file is audio: by its suffix or, where that says nothing, by its bytes."""
        name = os.path.basename(path)
        suffix = suffix_of(name)
        if is_resource(name):
            # a file may be called so and be audio: its bytes decide, unless it lies where reading takes long
            return self._reads and suffix in AUDIO_SUFFIXES and not _is_apple_double(path)
        return suffix in AUDIO_SUFFIXES or (self._reads and suffix not in OTHER_SUFFIXES and is_audio_file(path))

    def others(self) -> str | None:
        """Return what was left out, such as ``"3 files that are not audio by their names: 2 .txt, 1 .json"``, or ``None``."""
        count = self._others.total()
        if not count:
            return None
        kinds = sorted(self._others.items(), key=lambda kind: (-kind[1], not kind[0], kind[0]))
        parts = [f"{number} {suffix or 'without a suffix'}" for suffix, number in kinds[:MOST_KINDS]]
        if len(kinds) > MOST_KINDS:
            parts.append(f"{sum(number for _, number in kinds[MOST_KINDS:])} of {len(kinds) - MOST_KINDS} other kinds")
        what = "1 file that is not audio by its name" if count == 1 else f"{count} files that are not audio by their names"
        return f"{what}: {', '.join(parts)}"


def _is_apple_double(path: str) -> bool:
    try:
        identity = identify(head_of(path))
    except OSError:
        return True
    return identity is not None and identity.kind in (APPLE_DOUBLE, "empty", "zeros")


def is_audio_file(path: str) -> bool:
    """Return whether a regular file is audio by its first bytes; one that cannot be read is not."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode) and is_audio(head_of(path))
    except OSError:
        return False


def is_audio(head: bytes) -> bool:
    """Return whether what begins with ``head`` is audio."""
    from ..audio.probing import looks_like_audio

    identity = identify(head)  # a UTF-16 mark looks like MPEG audio's
    return (identity is None or identity.kind not in ("utf-16", "utf-32")) and looks_like_audio(head)
