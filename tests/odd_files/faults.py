"""Files with wrong names or headers, with tags and junk around them, and joined files."""

from __future__ import annotations

import struct

from corpus import Corpus, ffmpeg, lame, sox, tool
from edits import (
    edited,
    flac_samples,
    id3v1,
    id3v2,
    mpeg_frames,
    pages,
    picture,
    put,
)  # fmt: skip

WORD, SPEECH = "short@6000", "garden@16000"  # the shortest sounds that the model understands


def add(corpus: Corpus) -> None:
    _add_names(corpus)
    _add_other_headers(corpus)
    _add_mpeg_surroundings(corpus)
    _add_joined(corpus)


def _add_names(corpus: Corpus) -> None:
    for name, original, what, sounds in (
        ("really-mp3.wav", "mp3-8khz.mp3", "an MP3 named .wav", "garden@8000"),
        ("really-wav.mp3", "wav-pcm-s16.wav", "a WAV named .mp3", WORD),
        ("really-m4a.mp3", "aac.m4a", "an M4A named .mp3", SPEECH),
        ("really-flac.ogg", "flac.flac", "a FLAC named .ogg", WORD),
        ("really-ogg.flac", "vorbis.ogg", "an Ogg Vorbis named .flac", SPEECH),
        ("really-webm.m4a", "opus.webm", "a WebM named .m4a", SPEECH),
        ("really-opus.mp3", "opus.opus", "an Opus named .mp3", SPEECH),
        ("really-adts.m4a", "adts.aac", "AAC in ADTS frames named .m4a", SPEECH),
        ("really-amr.wav", "amr.amr", "an AMR named .wav", "garden@8000"),
        ("really-bare-mp3.flac", "mp3-cbr-bare.mp3", "an MP3 without an Info frame named .flac", SPEECH),
        ("no-suffix", "mp3-8khz.mp3", "an MP3 whose name has no suffix", "garden@8000"),
        ("UPPER.MP3", "mp3-abr.mp3", "an MP3 whose name is in capitals", SPEECH),
        ("spaces and ünïcode — 音声.opus", "opus.opus", "an Opus whose name has spaces and other alphabets", SPEECH),
    ):
        corpus.add(name, corpus.files[original], what, sounds)


def _add_other_headers(corpus: Corpus) -> None:
    longer = "but the file has"
    aiff, au, caf = corpus.files["aiff.aiff"], corpus.files["au.au"], corpus.files["caf.caf"]
    w64, sphere, rf64 = corpus.files["w64.w64"], corpus.files["sphere.sph"], corpus.files["wav-rf64.wav"]
    at = aiff.index(b"SSND")
    corpus.add("aiff-size-zero.aiff", put(put(aiff, at + 4, bytes(4)), 4, bytes(4)), "an AIFF with sizes of 0", WORD)
    corpus.add(
        "aiff-size-half.aiff", put(aiff, at + 4, struct.pack(">I", 2648)), "an AIFF with half of its size", WORD, note=longer
    )
    count = aiff.index(b"COMM") + 10
    corpus.add(
        "aiff-frames-zero.aiff", put(put(aiff, count, bytes(4)), at + 4, bytes(4)), "an AIFF of 0 frames and size 0", WORD
    )
    corpus.add("au-size-unknown.au", put(au, 8, b"\xff" * 4), "an AU of unknown size", WORD)
    corpus.add("au-size-zero.au", put(au, 8, bytes(4)), "an AU with a size of 0", WORD, note=longer)
    corpus.add("au-size-half.au", put(au, 8, struct.pack(">I", 2640)), "an AU with half of its size", WORD, note=longer)
    at = caf.index(b"data")
    corpus.add("caf-size-unknown.caf", put(caf, at + 4, b"\xff" * 8), "a CAF with a size of -1, as in streams", WORD)
    corpus.add("caf-size-half.caf", put(caf, at + 4, struct.pack(">Q", 2644)), "a CAF with half of its size", WORD, note=longer)
    at = w64.index(b"data")
    corpus.add("w64-size-zero.w64", put(put(w64, at + 16, bytes(8)), 16, bytes(8)), "a W64 with sizes of 0", WORD)
    corpus.add(
        "w64-size-half.w64", put(w64, at + 16, struct.pack("<Q", 2664)), "a W64 with half of its size", WORD, note=longer
    )
    half = sphere.replace(b"sample_count -i 2640", b"sample_count -i 1320")
    assert half != sphere
    corpus.add("sphere-half.sph", half, "a SPHERE file with half of its sample count", WORD, note=longer)
    at = rf64.index(b"ds64")
    corpus.add("rf64-ds64-zero.wav", put(rf64, at + 8, bytes(24)), "an RF64 whose sizes are 0", WORD)
    flac = corpus.files["flac.flac"]
    corpus.add("flac-total-zero.flac", flac_samples(flac, 0), "a FLAC of unknown length", WORD)
    corpus.add("flac-total-short.flac", flac_samples(flac, 1320), "a FLAC whose header says half", WORD, note=longer)
    corpus.add("flac-total-long.flac", flac_samples(flac, 48000), "a FLAC whose header says 8 s", WORD, error="cut off")
    corpus.add("flac-md5-wrong.flac", put(flac, 26, b"\x17" * 16), "a FLAC with the MD5 of other samples", WORD)
    for name, what in (("vorbis.ogg", "Vorbis"), ("opus.opus", "Opus"), ("speex.spx", "Speex"), ("flac-ogg.oga", "FLAC")):
        stem, suffix = name.split(".")
        split = pages(corpus.files[name])
        split[-1] = edited(split[-1], split[-1][5] & ~4)
        sounds = corpus.rows[name].sounds
        corpus.add(
            f"{stem}-no-end.{suffix}", b"".join(split), f"Ogg {what} without an end mark", sounds, note="no end-of-stream mark"
        )
    m4a = corpus.files["aac.m4a"]
    at = m4a.index(b"mdat")
    corpus.add("m4a-mdat-zero.m4a", _mdat_to_the_end(m4a), "an M4A whose mdat has no size and extends to the end", SPEECH)
    corpus.add(
        "m4a-mdat-long.m4a", put(m4a, at - 4, struct.pack(">I", 10**6)), "an M4A whose mdat claims more bytes", error="cut off"
    )
    vbr = corpus.files["mp3-vbr.mp3"]
    at = vbr.index(b"Xing") + 8
    frames = int.from_bytes(vbr[at : at + 4], "big")
    short = put(put(vbr, at, struct.pack(">I", frames // 2)), at + 4, struct.pack(">I", len(vbr) // 2))
    corpus.add("mp3-xing-short.mp3", short, "an MP3 whose Xing frame counts half of the frames", SPEECH, note="more")
    long = put(put(vbr, at, struct.pack(">I", frames * 2)), at + 4, struct.pack(">I", len(vbr) * 2))
    corpus.add("mp3-xing-long.mp3", long, "an MP3 whose Xing frame counts twice the frames", SPEECH, error="cut off")


def _mdat_to_the_end(m4a: bytes) -> bytes:
    """Move the index to the front and give mdat, which then comes last, a length of 0."""
    faststart = tool("ffmpeg -v error -i IN -fflags +bitexact -c copy -movflags +faststart OUT", "m4a", m4a, "m4a")
    return put(faststart, faststart.index(b"mdat") - 4, bytes(4))


def _add_mpeg_surroundings(corpus: Corpus) -> None:
    cbr, bare = corpus.files["mp3-cbr.mp3"], corpus.files["mp3-cbr-bare.mp3"]
    skipped = "skipped"
    junk = bytes(range(1, 200)) * 2
    corpus.add("mp3-after-junk.mp3", junk + bare, "an MP3 after 398 bytes of junk", SPEECH, note=skipped)
    corpus.add("mp3-after-zeros.mp3", bytes(2000) + bare, "an MP3 after 2,000 zeros", SPEECH, note=skipped)
    corpus.add("mp3-junk-at-end.mp3", cbr + junk, "an MP3 with 398 bytes of junk at its end", SPEECH, note=skipped)
    corpus.add("mp3-zeros-at-end.mp3", bare + bytes(3000), "an MP3 with 3,000 zeros at its end", SPEECH)
    quiet_first = mpeg_frames(lame("-t -b 16", "silence@16000:0.5 + garden@16000"))
    corpus.add(
        "mp3-no-beginning.mp3",
        b"".join(quiet_first[10:])[50:],  # 11 frames of 36 ms
        "an MP3 whose beginning was cut off within a frame",
        "silence@16000:0.104 + garden@16000",
        note=skipped,
    )
    corpus.add(
        "mp3-id3v2-twice.mp3", id3v2(b"TIT2", b"\0a") + id3v2(b"APIC", picture(), 4) + bare, "an MP3 with two tags", SPEECH
    )
    corpus.add("mp3-id3v2-only.mp3", id3v2(b"APIC", picture()), "an ID3v2 tag without audio", error="no MPEG audio")
    big = put(id3v2(b"TIT2", b"\0steps"), 6, b"\0\x7f\x7f\x7f") + bare
    corpus.add("mp3-id3v2-size-wrong.mp3", big, "an MP3 whose tag claims 2 MB", SPEECH)
    corpus.add("wav-in-id3.mp3", id3v2(b"TIT2", b"\0stop") + corpus.files["wav-pcm-s16.wav"], "a WAV after an ID3v2 tag", WORD)


def _add_joined(corpus: Corpus) -> None:
    joined, files = "joined", corpus.files
    word = "stop@16000"

    def join(name: str, what: str, *parts: tuple[bytes, str], note: str = joined) -> None:
        corpus.add(name, b"".join(data for data, _ in parts), what, " + ".join(sounds for _, sounds in parts), note=note)

    turn, stop = "garden@8000", "stop@8000"
    fast = "-b 24 --resample 8"
    first, last = (files["mp3-8khz.mp3"], turn), (lame(fast, stop), stop)
    tagged = id3v2(b"TIT2", b"\0garden") + first[0] + id3v1(), turn
    # The encoder's delay and padding stay if nothing states their length: 1,105 samples before, part of a frame after.
    bare, bare_stop = (files["mp3-cbr-bare.mp3"], SPEECH), (lame("-t -b 16", word), f"silence@16000:0.095 + {word}")
    join("joined-info.mp3", "two MP3s with Info frames", first, last)
    join("joined-info-id3.mp3", "two MP3s with Info frames, one of them with ID3v1 and ID3v2", tagged, last)
    join("joined-vbr.mp3", "two MP3s with Xing frames", (lame("-V 9", word), word), (lame("-V 9", word), word))
    join("joined-rates.mp3", "two MP3s of different rates", (files["mp3-cbr.mp3"], SPEECH), first)
    join(
        "joined-info-bare.mp3",
        "an MP3 with an Info frame, then one without",
        (files["mp3-cbr.mp3"], SPEECH),
        bare_stop,
        note="the file has more",
    )
    join("joined-bare-info.mp3", "an MP3 without an Info frame, then one with", bare, (lame("-b 40", word), word))
    join("joined-bare.mp3", "two MP3s without Info frames", bare, bare_stop, note="")
    join("joined-three.mp3", "three MP3s with Info frames", last, first, last)
    wav_word, wav_stop = (files["wav-pcm-u8.wav"], WORD), (ffmpeg("-c:a pcm_u8", "wav", stop), stop)
    join("joined.wav", "two WAVs of one rate", wav_word, wav_word)
    join("joined-rates.wav", "two WAVs of different rates", wav_word, wav_stop)
    stereo = sox("-c 2 -b 8", "wav", WORD)
    join("joined-channels.wav", "a WAV of one channel and a WAV of two", wav_word, (stereo, WORD))
    join("joined-mulaw.wav", "two mu-law WAVs", (files["wav-mulaw.wav"], WORD), (files["wav-alaw.wav"], WORD))
    flac = (files["flac.flac"], WORD)
    join("joined.flac", "two FLACs", flac, flac)
    join(
        "joined-rates.flac",
        "two FLACs of different rates",
        flac,
        (tool("flac --silent --best --no-padding -o OUT IN", "flac", stop), stop),
    )
    vorbis = tool("oggenc -Q --serial 1 -q -1 -o OUT IN", "ogg", word), word
    vorbis_turn = tool("oggenc -Q --serial 2 -q -1 -o OUT IN", "ogg", turn), turn
    stereo_vorbis = tool("oggenc -Q --serial 3 -q -1 -o OUT IN", "ogg", sox("-c 2", "wav", word)), word
    join("joined.ogg", "two Ogg Vorbis of different rates", vorbis, vorbis_turn)
    join("joined-channels.ogg", "two Ogg Vorbis of one channel and of two", vorbis, stereo_vorbis)
    join("joined-same-serial.ogg", "two Ogg Vorbis with the same serial number", vorbis, vorbis)
    opus = (files["opus.opus"], SPEECH)
    second = tool("opusenc --quiet --serial 2 --bitrate 16 IN OUT", "opus", word), word
    join("joined.opus", "two Opus streams", opus, second)
    join("joined-speex.spx", "two Speex streams", (files["speex.spx"], "garden@8000"), (files["speex.spx"], "garden@8000"))
    join("joined-vorbis-opus.ogg", "an Ogg Vorbis and an Ogg Opus", vorbis, second)
    aac = (files["adts.aac"], SPEECH)
    join(
        "joined.aac",
        "two AACs in ADTS frames",
        aac,
        (ffmpeg("-c:a aac -b:a 24k -f adts", "aac", word), f"silence@16000:0.104 + {word}"),
        note="",
    )
    join("joined.au", "two AUs", (files["au.au"], WORD), (files["au-mulaw.au"], WORD))
    join("joined.aiff", "two AIFFs", (files["aiff.aiff"], WORD), (files["aifc-ulaw.aifc"], WORD))
    join("joined.amr", "two AMRs", (files["amr.amr"], "garden@8000"), (files["amr.amr"], "garden@8000"))
    join("joined.ac3", "two AC-3s", (files["ac3.ac3"], SPEECH), (files["ac3.ac3"], f"silence@16000:0.04 + {SPEECH}"), note="")
    join(
        "joined.ts",
        "two transport streams",
        (files["aac.ts"], SPEECH),
        (files["aac.ts"], f"silence@16000:0.104 + {SPEECH}"),
        note="clock jumps",
    )
    join("joined.wv", "two WavPacks", (files["wavpack.wv"], WORD), (files["wavpack.wv"], WORD))
    join("joined.m4a", "two M4As", (files["aac.m4a"], SPEECH), (files["aac-faststart.m4a"], f"silence@16000:0.04 + {SPEECH}"))
    join("joined.webm", "two WebMs", (files["opus.webm"], SPEECH), (files["opus.webm"], SPEECH))
    join("joined.mp2", "two MP2s", (files["mp2.mp2"], SPEECH), (files["mp2.mp2"], SPEECH), note="")
