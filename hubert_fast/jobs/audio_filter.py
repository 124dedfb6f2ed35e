"""Select the audio among the files of a folder, a pattern or an archive, and count the rest by kind."""

from __future__ import annotations

import os
import stat
from collections import Counter

from ..audio import AUDIO_SUFFIXES
from ..first_bytes import head_of, identify

# Suffixes of files that accompany audio. Such files are never opened to see whether they are audio.
OTHER_SUFFIXES = frozenset(
    ".7z .ark .ass .aup .aup3 .bak .bmp .bz2 .c .cfg .conf .cpp .css .csv .ctm .cue .cuts .db .doc .docx .download "
    ".crdownload .eaf .gif .gz .h .h5 .hdf5 .htm .html .ini .ipynb .jpeg .jpg .js .json .jsonl .journal .km .lab .list .lnk "
    ".log .lrc .lst .ltr .m3u .m3u8 .md .md5 .ndjson .nfo .npy .npz .old .onnx .orig .parquet .part .partial .pdf .phn .pkl "
    ".pls .png .pt .pth .py .pyc .rar .rttm .safetensors .scp .seg .sfv .sh .sha1 .sha256 .srt .ssa .stm .sub .svg .tar "
    ".temp .textgrid .tgz .tif .tiff .tmp .toml .torrent .trn .tsv .txt .url .vtt .webp .wrd .xls .xlsx .xml .xz .yaml .yml "
    ".zip .zst".split()
)
SYSTEM_NAMES = frozenset((".ds_store", "thumbs.db", "ehthumbs.db", "desktop.ini", ".localized", ".directory", "icon\r"))
SYSTEM_FOLDERS = frozenset(
    "__macosx .appledouble .trashes .spotlight-v100 .fseventsd .temporaryitems @eadir $recycle.bin #recycle .git .hg .svn .dvc "
    ".ipynb_checkpoints __pycache__".split()
) | {"system volume information"}
MAX_KINDS, MAX_SUFFIX_CHARACTERS = 8, 12


def is_system_folder(name: str) -> bool:
    """Return whether a folder holds the private data of an operating system, a version control system or Python."""
    return name.lower() in SYSTEM_FOLDERS


def is_system_file(name: str) -> bool:
    """Return whether a file has a name that operating systems, or Emacs, use for metadata beside other files."""
    return name.startswith(("._", ".#")) or name.lower() in SYSTEM_NAMES


def is_system_path(path: str) -> bool:
    """Return whether a path within an archive is a system file or lies in a system folder."""
    *folders, name = path.split("/")
    return is_system_file(name) or any(map(is_system_folder, folders))


def kind_of(name: str) -> str:
    """Return the suffix of a name in lower case, or `""` if it is too long for one or has a space in it."""
    suffix = os.path.splitext(name)[1].lower()
    return suffix if 1 < len(suffix) <= MAX_SUFFIX_CHARACTERS and " " not in suffix else ""


class AudioFilter:
    """A filter that accepts audio files and counts the others by kind.

    Args:
        reads: Whether to open a file with an unknown suffix, and decide by its first bytes whether it is audio.
    """

    def __init__(self, reads: bool = True):
        self._reads = reads
        self._rejected: Counter[str] = Counter()

    def accepts(self, path: str) -> bool:
        """Return whether a file is audio. Count it if not, unless it is a system file."""
        if self.is_audio(path):
            return True
        name = os.path.basename(path)
        if not is_system_file(name):
            self._rejected[kind_of(name)] += 1
        return False

    def is_audio(self, path: str) -> bool:
        """Return whether a file is audio, by its suffix or, if that is unknown, by its first bytes."""
        name = os.path.basename(path)
        suffix = kind_of(name)
        if is_system_file(name):
            # audio may have such a name, which only its bytes reveal; reading them would be slow for remote files
            return self._reads and suffix in AUDIO_SUFFIXES and not _is_metadata(path)
        return suffix in AUDIO_SUFFIXES or (self._reads and suffix not in OTHER_SUFFIXES and is_audio_file(path))

    def describe_rejected(self) -> str | None:
        """Return a summary such as `"3 files that do not appear to be audio: 2 .txt, 1 .json"`, or `None`."""
        count = self._rejected.total()
        if not count:
            return None
        kinds = sorted(self._rejected.items(), key=lambda kind: (-kind[1], not kind[0], kind[0]))
        parts = [f"{number} {suffix or 'without a suffix'}" for suffix, number in kinds[:MAX_KINDS]]
        if len(kinds) > MAX_KINDS:
            parts.append(f"{sum(number for _, number in kinds[MAX_KINDS:])} of {len(kinds) - MAX_KINDS} other kinds")
        files = "1 file that does not appear to be audio" if count == 1 else f"{count} files that do not appear to be audio"
        return f"{files}: {', '.join(parts)}"


def _is_metadata(path: str) -> bool:
    try:
        identity = identify(head_of(path))
    except OSError:
        return True
    return identity is not None and identity.kind in ("appledouble", "empty", "zeros")


def is_audio_file(path: str) -> bool:
    """Return whether a regular file is audio, by its first bytes. A file that cannot be read is not."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode) and is_audio(head_of(path))
    except OSError:
        return False


def is_audio(head: bytes) -> bool:
    """Return whether a file that begins with `head` is audio."""
    from ..audio.probing import looks_like_audio

    identity = identify(head)  # a UTF-16 byte order mark looks like an MPEG audio frame
    return (identity is None or identity.kind not in ("utf-16", "utf-32")) and looks_like_audio(head)
