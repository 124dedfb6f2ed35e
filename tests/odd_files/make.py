"""Generate the odd files, and `expected.csv` with a description of each and the result it must give.

Run by hand after a change: `python tests/odd_files/make.py`. Needs Debian's ffmpeg, sox, libsox-fmt-all, lame, flac,
vorbis-tools, opus-tools, speex, twolame, wavpack and musepack-tools; other versions of them produce other bytes. The tests only
need the generated files in `files/`.
"""

import cut_and_damaged
import faults
import not_audio
import wav_headers
import well_formed
from corpus import Corpus


def main() -> None:
    corpus = Corpus()
    well_formed.add(corpus)
    wav_headers.add(corpus)
    faults.add(corpus)
    cut_and_damaged.add(corpus)
    not_audio.add(corpus)
    corpus.write()
    print(f"{len(corpus.files)} files, {sum(map(len, corpus.files.values())):,} bytes")


if __name__ == "__main__":
    main()
