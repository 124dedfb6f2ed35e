"""Files that are cut off, and files with damaged bytes in the middle."""

from __future__ import annotations

from corpus import Corpus, ffmpeg, lame, sox, tool
from edits import cut, damaged

SPEECH = "garden@16000"


def add(corpus: Corpus) -> None:
    _add_cut(corpus)
    _add_cut_without_length(corpus)
    _add_damaged(corpus)


def _add_cut(corpus: Corpus) -> None:
    for name in (
        "wav-pcm-s16.wav", "wav-gsm.wav", "wav-ima-adpcm.wav", "wav-mp3.wav", "wav-rf64.wav", "w64.w64", "aiff.aiff", "au.au",
        "caf.caf", "caf-alac.caf", "sphere.sph", "voc.voc", "svx.8svx", "flac.flac", "flac-ogg.oga", "vorbis.ogg", "opus.opus",
        "speex.spx", "mp3-cbr.mp3", "mp3-vbr.mp3", "mp3-vbri.mp3", "aac.m4a", "aac-faststart.m4a", "alac.m4a",
        "aac-fragments.mp4", "opus.webm", "vorbis.webm", "mp3.avi", "aac.flv", "wma2.wma", "wavpack.wv", "tta.tta",
        "musepack.mpc", "phone.3gp", "mp3-ffmpeg.mp3",
    ):  # fmt: skip
        row = corpus.rows[name]
        corpus.add(f"cut-{name}", cut(corpus.files[name], 0.6), f"the first 60% of {name}", row.sounds, error="cut off")
    pages_of_tenths = (
        ("opus", tool("opusenc --quiet --serial 1 --bitrate 16 --max-delay 100 IN OUT", "opus", SPEECH)),
        ("ogg", ffmpeg("-c:a libvorbis -q:a 0 -page_duration 100000", "ogg", SPEECH)),
    )
    for suffix, data in pages_of_tenths:
        corpus.add(
            f"cut-pages.{suffix}", cut(data, 0.8), f"the first 80% of a .{suffix} file of many pages", SPEECH, error="cut off"
        )


def _add_cut_without_length(corpus: Corpus) -> None:
    """Cut within the silence after the words. If a frame is cut in two, there must be a note."""
    sounds = "garden@16000 + silence@16000:0.8 + stop@16000"
    slow = sounds.replace("16000", "8000")
    amr = sox("-t amr-nb -C 7", "amr", slow)
    for name, data, share, seconds, note in (
        ("aac", ffmpeg("-c:a aac -b:a 24k -f adts", "aac", sounds), 0.65, 1.73, "damaged"),
        ("ac3", ffmpeg("-c:a ac3 -b:a 32k -ar 32000", "ac3", sounds), 0.6, 1.38, ""),  # FFmpeg decodes half a frame
        ("mp3", lame("-t -b 16", sounds), 0.6, 1.33, ""),
        ("mp2", ffmpeg("-c:a mp2 -b:a 32k", "mp2", sounds), 0.6, 1.34, ""),
        ("ts", ffmpeg("-c:a mp2 -b:a 32k", "ts", sounds), 0.6, 1.34, ""),
        ("mpg", ffmpeg("-c:a mp2 -b:a 32k", "mpg", sounds), 0.5, 1.3, ""),
        ("webm", ffmpeg("-c:a libopus -b:a 16k -vbr off -live 1", "webm", sounds), 0.6, 1.3, ""),
        ("amr", amr, 0.6, 0.96, "damaged"),
        ("gsm", sox("", "gsm", slow), 0.6, 1.33, "damaged"),
    ):
        as_heard = f"{slow if name in ('amr', 'gsm') else sounds}".split(" + ")[0]
        quiet = f"silence@{as_heard.split('@')[1]}:{seconds - 0.92:.2f}"
        what = f"the first {share:.0%} of a .{name} file, which does not state its length"
        corpus.add(f"cut-no-length.{name}", cut(data, share), what, f"{as_heard} + {quiet}", note=note)


def _add_damaged(corpus: Corpus) -> None:
    """Damage the silence in the middle, so that all words remain."""
    sounds = "garden@16000 + silence@16000:0.8 + stop@16000"
    what = "with 60 damaged bytes between its words"
    words = "short@6000 + silence@6000:0.8 + short@6000"
    flac = damaged(tool("flac --silent --best --no-padding --blocksize 576 -o OUT IN", "flac", words), 0.505, 20)
    corpus.add("damaged.flac", flac, "a FLAC with 20 damaged bytes between its words", words, error="damaged")
    vorbis = damaged(tool("oggenc -Q --serial 1 -q -1 -o OUT IN", "ogg", sounds), 0.64, 60)
    corpus.add("damaged.ogg", vorbis, "an Ogg Vorbis with most of its sound in a damaged page", sounds, error="damaged")
    opus = tool("opusenc --quiet --serial 1 --bitrate 16 --hard-cbr --max-delay 100 IN OUT", "opus", sounds)
    corpus.add("damaged.opus", damaged(opus, 0.64, 60), "an Opus with a damaged page of 0.1 s", sounds, error="damaged")
    webm = ffmpeg("-c:a libopus -b:a 16k -vbr off", "webm", sounds)
    corpus.add("damaged.webm", damaged(webm, 0.64, 60), "a WebM whose end can no longer be found", sounds, error="damaged")
    mp3 = ffmpeg("-c:a libmp3lame -b:a 40k", "mp3", sounds)
    corpus.add("damaged.mp3", damaged(mp3, 0.64, 60), "an MP3 with 60 damaged bytes in a frame without a checksum", sounds)
    mp2 = damaged(ffmpeg("-c:a mp2 -b:a 32k", "mp2", sounds), 0.64, 60)
    corpus.add("damaged.mp2", mp2, f"an MP2 {what}, which is two frames: more than 0.1 s", sounds, error="damaged")
    bare = damaged(lame("-t -b 16", sounds), 0.64, 60)
    less = sounds.replace("0.8", "0.76")  # nothing tells how long the damaged frames were
    corpus.add("damaged.bare.mp3", bare, f"an MP3 without an Info frame {what}", less, note="damaged")
    for name, data in (
        ("m4a", ffmpeg("-c:a aac -b:a 24k", "m4a", sounds)),
        ("aac", ffmpeg("-c:a aac -b:a 24k -f adts", "aac", sounds)),
        ("ac3", ffmpeg("-c:a ac3 -b:a 32k -ar 32000", "ac3", sounds)),
    ):
        corpus.add(f"damaged.{name}", damaged(data, 0.64, 60), f"a .{name} file {what}", sounds, note="damaged")
