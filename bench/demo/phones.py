"""Label the phones of the bundled recordings: `python bench/demo/phones.py --out hubert_fast/demo/recordings/phones.csv`.

The synthesisers speak every recording again and report the time of each phone. The program fails if a bundled file differs
from what they speak, since other versions of them have other times.

`reported` is the synthesiser's name of the phone: espeak-ng's mnemonics, or the phone set of flite's US voices. It is empty
for the silence that `recordings.py` puts around speech. `phone` is the name in flite's set, so that both synthesisers
share one. espeak-ng reports a stop at its release, so its closure belongs to the phone before.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile
from recordings import spoken
from voices import Phone

RECORDINGS = Path(__file__).resolve().parents[2] / "hubert_fast" / "demo" / "recordings"
SILENCE = "pau"
# espeak-ng's mnemonics, English, by the name of the phone in flite's set; a name that is not here is the same in both
ESPEAK_MNEMONICS = {
    "aa": "0 O2 A: A@",
    "ae": "a",
    "ah": "V",
    "ao": "O: O@ o@",
    "aw": "aU",
    "ax": "@ @2 @5 a#",
    "ay": "aI aI2",
    "ch": "tS",
    "dh": "D",
    "eh": "E",
    "er": "3: 3 VR",
    "ey": "eI",
    "hh": "h",
    "ih": "I I2",
    "iy": "i i: i@",
    "jh": "dZ",
    "ow": "oU",
    "oy": "OI",
    "r": "r-",
    "t": "t# t2 t[",
    "th": "T",
    "uh": "U",
    "uw": "u:",
    "y": "j ;",
    SILENCE: "_ _: _|",
}
PHONES = "aa ae ah ao aw ax ay b ch d dh eh er ey f g hh ih iy jh k l m n ow oy p pau r s t th uh uw v w y z".split()
FOLDED = {mnemonic: phone for phone, mnemonics in ESPEAK_MNEMONICS.items() for mnemonic in mnemonics.split()}


def folded(name: str) -> str:
    """Return a phone that espeak-ng or flite reports in flite's set. Raise `ValueError` for an unknown one."""
    phone = FOLDED.get(name, name)
    if phone not in PHONES:
        raise ValueError(f"{name!r} is not a known phone: add it to ESPEAK_MNEMONICS")
    return phone


def intervals(phones: Sequence[Phone], speech_end_seconds: float, seconds: float) -> list[tuple[float, float, str]]:
    """Return the start, end and reported name of each phone, from 0 to `seconds` without gaps. Silence has an empty name."""
    bounds = [*(phone.start_seconds for phone in phones), speech_end_seconds, seconds]
    names = ["", *(phone.name for phone in phones), ""]
    entries = zip([0.0, *bounds], bounds, names)
    return [(start, end, name) for start, end, name in entries if round(end - start, 3) > 0]


def main(options: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="CSV file to write")
    arguments = parser.parse_args(options)
    rows = []
    for recording in spoken():
        written = io.BytesIO()
        recording.write(written)
        written.seek(0)
        ours, bundled = soundfile.read(written)[0], soundfile.read(RECORDINGS / recording.name)[0]
        if not np.array_equal(ours, bundled):
            print(f"{recording.name} differs from what the synthesiser speaks: use the one that spoke it", file=sys.stderr)
            return 1
        seconds = len(bundled) / recording.sample_rate_hz
        for start, end, name in intervals(recording.phones, recording.speech_end_seconds, seconds):
            phone = folded(name) if name else SILENCE
            rows.append([recording.name, f"{start:.3f}", f"{end:.3f}", phone, name])
    with open(arguments.out, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["file", "start_seconds", "end_seconds", "phone", "reported"])
        writer.writerows(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
