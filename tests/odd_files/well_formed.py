"""Files without faults, in every container and encoding that Debian's tools write."""

from __future__ import annotations

import numpy as np
import odd_sounds
from corpus import Corpus, ffmpeg, lame, sox, tool, wav
from edits import ape_tag, id3v1, id3v2, picture, vbri_frame, with_serial, without_padding


def add(corpus: Corpus) -> None:
    _add_wav(corpus)
    _add_pcm_containers(corpus)
    _add_flac_and_ogg(corpus)
    _add_mp3(corpus)
    _add_mp4(corpus)
    _add_other_containers(corpus)
    _add_rates_and_channels(corpus)


def _add_wav(corpus: Corpus) -> None:
    word = "short@6000"
    for name, options, what in (
        ("pcm-u8", "-c:a pcm_u8", "8-bit samples"),
        ("pcm-s16", "-c:a pcm_s16le", "16-bit samples"),
        ("pcm-s24", "-c:a pcm_s24le", "24-bit samples"),
        ("pcm-s32", "-c:a pcm_s32le", "32-bit samples"),
        ("float", "-c:a pcm_f32le", "32-bit floating-point samples"),
        ("double", "-c:a pcm_f64le", "64-bit floating-point samples"),
        ("mulaw", "-c:a pcm_mulaw", "mu-law, as used by American telephones"),
        ("alaw", "-c:a pcm_alaw", "A-law, as used by European telephones"),
        ("rf64", "-c:a pcm_s16le -rf64 always", "RF64, which holds more than 4 GiB"),
        ("bext", "-c:a pcm_s16le -write_bext 1", "a broadcast WAV with a bext chunk before the samples"),
        ("g722", "-c:a g722", "G.722, as used by wide-band telephones"),
        ("g726", "-c:a g726 -b:a 32k", "G.726 at 32 kb/s"),
    ):
        sounds = {"g722": "stop@16000", "g726": "stop@8000"}.get(name, word)
        corpus.add(f"wav-{name}.wav", ffmpeg(options, "wav", sounds), f"WAV of {what}", sounds)
    speech = "garden@8000"
    for name, options, what in (
        ("ima-adpcm", "-e ima-adpcm", "IMA ADPCM"),
        ("ms-adpcm", "-e ms-adpcm", "Microsoft ADPCM"),
        ("gsm", "-e gsm-full-rate", "GSM 06.10"),
    ):
        corpus.add(f"wav-{name}.wav", sox(options, "wav", speech), f"WAV of {what}", speech)
    corpus.add("wav-rifx.wav", sox("-B", "wav", word), "RIFX, a big-endian WAV", word)
    corpus.add("wav-extensible.wav", sox("-b 24", "wav", word), "WAV with the extensible format header", word)
    corpus.add(
        "wav-mp3.wav", ffmpeg("-c:a libmp3lame -b:a 16k", "wav", "garden@16000"), "MP3 frames in a WAV file", "garden@16000"
    )
    rf64 = corpus.files["wav-rf64.wav"]
    corpus.add("wav-bw64.wav", rf64.replace(b"RF64", b"BW64", 1), "BW64, the successor of RF64", word)


def _add_pcm_containers(corpus: Corpus) -> None:
    word, speech = "short@6000", "garden@8000"
    for name, options, suffix, what in (
        ("w64", "-c:a pcm_s16le", "w64", "Sony Wave64 of 16-bit samples"),
        ("aiff", "-c:a pcm_s16be", "aiff", "AIFF of 16-bit samples"),
        ("aifc-sowt", "-c:a pcm_s16le", "aif", "AIFF-C of little-endian samples (sowt), as written by Macs"),
        ("aifc-ulaw", "-c:a pcm_mulaw", "aifc", "AIFF-C of mu-law"),
        ("aifc-float", "-c:a pcm_f32be", "aifc", "AIFF-C of floating-point samples"),
        ("au", "-c:a pcm_s16be", "au", "Sun AU of 16-bit samples"),
        ("au-mulaw", "-c:a pcm_mulaw", "au", "Sun AU of mu-law"),
        ("caf", "-c:a pcm_s16le", "caf", "CAF of 16-bit samples"),
    ):
        corpus.add(f"{name}.{suffix}", ffmpeg(options, suffix, word), what, word)
    for name, options, suffix, what, sounds in (
        ("sphere", "-t sph", "sph", "NIST SPHERE of 16-bit samples, as in TIMIT", word),
        ("sphere-mulaw", "-t sph -e mu-law", "sph", "NIST SPHERE of mu-law, as in Switchboard", word),
        ("voc", "", "voc", "Creative Voice of 8- or 16-bit samples", word),
        ("svx", "-b 8", "8svx", "Amiga 8SVX", word),
        ("avr", "", "avr", "Audio Visual Research, from the Atari", word),
        ("ircam", "-t ircam", "sf", "IRCAM of 16-bit samples", word),
        ("paf", "-t paf", "paf", "Ensoniq PARIS", word),
        ("gsm", "", "gsm", "GSM 06.10 without a header, as written by telephone systems", speech),
        ("amr", "-t amr-nb -C 7", "amr", "AMR, as used by mobile phones", speech),
    ):
        corpus.add(f"{name}.{suffix}", sox(options, suffix, sounds), what, sounds)
    caf = "garden@16000"
    corpus.add("caf-alac.caf", ffmpeg("-c:a alac", "caf", word), "CAF of Apple Lossless", word)
    corpus.add("caf-opus.caf", ffmpeg("-c:a libopus -b:a 16k -ar 16000", "caf", caf), "CAF of Opus", caf)


def _add_flac_and_ogg(corpus: Corpus) -> None:
    word, speech = "short@6000", "garden@16000"
    flac = tool("flac --silent --best --no-padding -o OUT IN", "flac", word)
    corpus.add("flac.flac", flac, "FLAC of 16-bit samples", word)
    deep = without_padding(ffmpeg("-c:a flac -sample_fmt s32 -bits_per_raw_sample 24", "flac", word))
    corpus.add("flac-24.flac", deep, "FLAC of 24 bits", word)
    corpus.add("flac-id3v2.flac", id3v2(b"TIT2", b"\0steps") + flac, "FLAC with an ID3v2 tag before it", word)
    corpus.add("flac-id3v1.flac", flac + id3v1(), "FLAC with an ID3v1 tag after it", word)
    corpus.add(
        "flac-ogg.oga", tool("flac --silent --no-padding --ogg --serial-number 1 -o OUT IN", "oga", word), "FLAC in Ogg", word
    )
    corpus.add("vorbis.ogg", tool("oggenc -Q --serial 1 -q -1 -o OUT IN", "ogg", speech), "Ogg Vorbis", speech)
    corpus.add("opus.opus", tool("opusenc --quiet --serial 1 --bitrate 16 IN OUT", "opus", speech), "Ogg Opus", speech)
    corpus.add(
        "opus-48k-stereo.opus",
        tool("opusenc --quiet --serial 1 --bitrate 24 IN OUT", "opus", sox("-r 48000 -c 2", "wav", speech)),
        "Ogg Opus in stereo",
        speech,
    )
    corpus.add(
        "speex.spx", with_serial(tool("speexenc IN OUT", "spx", "garden@8000"), 1), "Ogg Speex, narrow band", "garden@8000"
    )
    corpus.add("speex-wide.spx", with_serial(tool("speexenc -w IN OUT", "spx", speech), 1), "Ogg Speex, wide band", speech)
    picture = "-f lavfi -i color=c=red:s=16x16:r=5:d=0.92"
    corpus.add(
        "theora.ogv",
        ffmpeg("-map 1:a -map 0:v -c:v libtheora -c:a libvorbis -q:a 0", "ogv", speech, before=picture),
        "Ogg with a Theora picture and Vorbis",
        speech,
    )


def _add_mp3(corpus: Corpus) -> None:
    speech, slow = "garden@16000", "garden@8000"
    for name, options, what in (
        ("cbr", "-b 40", "MP3 of constant bit rate with an Info frame"),
        ("vbr", "-V 9", "MP3 of variable bit rate with a Xing frame"),
        ("abr", "--abr 20", "MP3 of average bit rate"),
        ("cbr-bare", "-t -b 16", "MP3 of constant bit rate without an Info frame"),
        ("vbr-bare", "-t -V 9", "MP3 of variable bit rate without a Xing frame"),
        ("crc", "-p -b 48", "MP3 with checksums"),
        ("freeformat", "--freeformat -b 20 -t", "MP3 of free format, whose frames do not state their length"),
    ):
        corpus.add(f"mp3-{name}.mp3", lame(options, speech), what, speech)
    cbr, bare = corpus.files["mp3-cbr.mp3"], corpus.files["mp3-cbr-bare.mp3"]
    vbr = corpus.files["mp3-vbr-bare.mp3"]
    corpus.add("mp3-8khz.mp3", lame("-b 24 --resample 8", slow), "MP3 at 8 kHz (MPEG 2.5)", slow)
    corpus.add("mp3-8khz-bare.mp3", lame("-t -b 8 --resample 8", slow), "MP3 at 8 kHz without an Info frame", slow)
    corpus.add("mp3-ffmpeg.mp3", ffmpeg("-c:a libmp3lame -b:a 40k -id3v2_version 3", "mp3", speech), "MP3 by FFmpeg", speech)
    corpus.add("mp3-shine.mp3", ffmpeg("-c:a libshine -b:a 32k -write_xing 0", "mp3", "garden@16000"), "MP3 by Shine", speech)
    corpus.add("mp3-44khz-joint.mp3", lame("-b 32 -m j", sox("-r 44100 -c 2", "wav", speech)), "MP3, joint stereo", speech)
    corpus.add("mp3-id3v1.mp3", cbr + id3v1(), "MP3 with an ID3v1 tag", speech)
    corpus.add("mp3-id3v2.mp3", id3v2(b"TIT2", b"\0steps") + cbr, "MP3 with an ID3v2 tag", speech)
    corpus.add("mp3-id3v2-bare.mp3", id3v2(b"TIT2", b"\0steps") + bare + id3v1(), "bare MP3 with ID3v1 and ID3v2", speech)
    corpus.add("mp3-ape.mp3", bare + ape_tag() + id3v1(), "bare MP3 with an APE tag and ID3v1 after it", speech)
    corpus.add("mp3-picture.mp3", id3v2(b"APIC", picture()) + cbr, "MP3 with a picture in an ID3v2 tag", speech)
    corpus.add("mp3-picture-bare.mp3", id3v2(b"APIC", picture()) + bare, "bare MP3 with a picture in its tag", speech)
    corpus.add("mp3-vbri.mp3", vbri_frame(vbr) + vbr, "MP3 with a VBRI frame, as written by Fraunhofer's encoders", speech)
    corpus.add("mp2.mp2", ffmpeg("-c:a mp2 -b:a 32k", "mp2", speech), "MPEG layer II", speech)
    corpus.add("mp2-twolame.mp2", tool("twolame --quiet -m m -b 32 IN OUT", "mp2", speech), "MPEG layer II by TwoLAME", speech)


def _add_mp4(corpus: Corpus) -> None:
    speech, word = "garden@16000", "short@6000"
    aac = "-c:a aac -b:a 24k"
    for name, options, what, sounds in (
        ("aac.m4a", aac, "M4A of AAC whose index is at the end", speech),
        ("aac-faststart.m4a", f"{aac} -movflags +faststart", "M4A of AAC whose index is at the beginning", speech),
        ("aac-fragments.mp4", f"{aac} -movflags frag_keyframe+empty_moov+default_base_moof -frag_duration 500000",
         "MP4 in fragments, as sent by streaming servers", speech),
        ("aac-no-edit-list.m4a", f"{aac} -use_editlist 0", "M4A without an edit list, so that its delay is not stated", speech),
        ("alac.m4a", "-c:a alac", "M4A of Apple Lossless", word),
        ("mp4-mp3.mp4", "-c:a libmp3lame -b:a 16k", "MP4 of MP3", speech),
        ("mp4-opus.mp4", "-c:a libopus -b:a 16k -strict -2", "MP4 of Opus", speech),
        ("mp4-flac.mp4", "-c:a flac -strict -2", "MP4 of FLAC", word),
        ("mov-pcm.mov", "-c:a pcm_s16le", "QuickTime of 16-bit samples", word),
        ("mov-ima4.mov", "-c:a adpcm_ima_qt", "QuickTime of IMA ADPCM", "garden@8000"),
        ("aac.mov", aac, "QuickTime of AAC", speech),
    ):  # fmt: skip
        corpus.add(name, ffmpeg(options, name.rsplit(".", 1)[1], sounds), what, sounds)
    picture = "-f lavfi -i color=c=red:s=16x16:r=5:d=0.92"
    corpus.add(
        "video.mp4", ffmpeg(f"-c:v mpeg4 {aac} -map 1:a -map 0:v", "mp4", speech, picture), "MP4 of a video with AAC", speech
    )
    late = "-f lavfi -i color=c=red:s=16x16:r=5:d=1.62 -itsoffset 0.7"
    corpus.add(
        "video-late-audio.mp4",
        ffmpeg(f"-c:v mpeg4 {aac} -map 0:v -map 1:a", "mp4", speech, late),
        "MP4 of a video whose sound begins 0.7 s after the picture",
        f"silence@16000:0.7 + {speech}",
    )
    corpus.add(
        "video-late-audio.mkv",
        ffmpeg("-c:v mpeg4 -c:a libvorbis -q:a 0 -map 0:v -map 1:a", "mkv", speech, late),
        "Matroska video whose sound begins 0.7 s after the picture",
        f"silence@16000:0.7 + {speech}",
    )
    amr = sox("-t amr-nb -C 7", "amr", "garden@8000")
    phone = tool("ffmpeg -v error -i IN -fflags +bitexact -c copy -map_metadata -1 OUT", "3gp", amr, "amr")
    corpus.add("phone.3gp", phone, "3GP of AMR, as recorded by phones", "garden@8000")


def _add_other_containers(corpus: Corpus) -> None:
    speech, word = "garden@16000", "short@6000"
    for name, options, what, sounds in (
        ("adts.aac", "-c:a aac -b:a 24k", "AAC in ADTS frames", speech),
        ("latm.latm", "-c:a aac -b:a 24k", "AAC in LATM, as sent by digital television", speech),
        ("opus.webm", "-c:a libopus -b:a 16k", "WebM of Opus, as recorded by browsers", speech),
        ("opus-live.webm", "-c:a libopus -b:a 16k -live 1", "WebM of Opus without sizes and index", speech),
        ("vorbis.webm", "-c:a libvorbis -q:a 0", "WebM of Vorbis", speech),
        ("pcm.mkv", "-c:a pcm_s16le", "Matroska of 16-bit samples", word),
        ("aac.mka", "-c:a aac -b:a 24k", "Matroska of AAC", speech),
        ("mp3.mkv", "-c:a libmp3lame -b:a 16k", "Matroska of MP3", speech),
        ("flac.mkv", "-c:a flac", "Matroska of FLAC", word),
        ("mp3.avi", "-c:a libmp3lame -b:a 16k", "AVI of MP3", speech),
        ("pcm.avi", "-c:a pcm_s16le", "AVI of 16-bit samples", word),
        ("mp3.flv", "-c:a libmp3lame -b:a 16k -ar 22050", "Flash video of MP3", "garden@16000"),
        ("aac.flv", "-c:a aac -b:a 24k", "Flash video of AAC", speech),
        ("speex.flv", "-c:a libspeex -b:a 16k", "Flash video of Speex", speech),
        ("aac.ts", "-c:a aac -b:a 24k", "MPEG transport stream of AAC", speech),
        ("mp2.ts", "-c:a mp2 -b:a 32k", "MPEG transport stream of MP2", speech),
        ("aac.m2ts", "-c:a aac -b:a 24k", "Blu-ray transport stream of AAC", speech),
        ("mp2.mpg", "-c:a mp2 -b:a 32k", "MPEG program stream of MP2", speech),
        ("ac3.vob", "-c:a ac3 -b:a 64k -ar 48000 -f vob", "DVD program stream of AC-3", speech),
        ("wma2.wma", "-c:a wmav2 -b:a 24k", "Windows Media Audio 2", speech),
        ("wma1.wma", "-c:a wmav1 -b:a 24k", "Windows Media Audio 1", speech),
        ("pcm.asf", "-c:a pcm_s16le", "ASF of 16-bit samples", word),
        ("ac3.ac3", "-c:a ac3 -b:a 48k -ar 32000", "AC-3", speech),
        ("eac3.eac3", "-c:a eac3 -b:a 32k -ar 32000", "E-AC-3", speech),
        ("dts.dts", "-c:a dca -strict -2 -b:a 128k", "DTS", "stop@16000"),
        ("tta.tta", "-c:a tta", "True Audio", word),
        ("nellymoser.flv", "-c:a nellymoser", "Flash video of Nellymoser", speech),
        ("adpcm.flv", "-c:a adpcm_swf", "Flash video of ADPCM, padded to 8,192 samples", "stop@11025 + silence@11025:0.243"),
        ("real-144.rm", "-c:a real_144", "RealAudio of 14.4 kb/s", "garden@8000"),
        ("real.rm", "-c:a ac3 -b:a 48k -ar 32000", "RealMedia of AC-3", speech),
    ):
        corpus.add(name, ffmpeg(options, name.rsplit(".", 1)[1], sounds), what, sounds)
    corpus.add("wavpack.wv", tool("wavpack -q -h IN -o OUT", "wv", word), "WavPack", word)
    corpus.add("wavpack-hybrid.wv", tool("wavpack -q -b24 IN -o OUT", "wv", speech), "lossy WavPack", speech)
    corpus.add(
        "musepack.mpc",
        tool("mpcenc --silent --thumb IN OUT", "mpc", sox("-r 44100 -c 2", "wav", speech)),
        "Musepack",
        speech,
    )
    two = "-i IN -f lavfi -i anullsrc=r=16000:cl=mono"
    corpus.add(
        "two-tracks.mkv",
        tool(
            f"ffmpeg -v error {two} -fflags +bitexact -flags:a +bitexact -map 0:a -map 1:a -c:a libopus -b:a 16k -t 0.92 OUT",
            "mkv",
            speech,
        ),
        "Matroska with two audio tracks, the second one silent",
        speech,
        note="2 audio tracks",
    )


def _add_rates_and_channels(corpus: Corpus) -> None:
    word, values = "short@6000", odd_sounds.samples("short@6000")[0][0]
    silent = np.zeros_like(values)
    for name, channels, what, note in (
        ("equal", (values, values), "two equal channels", ""),
        ("inverted", (values, -values), "two channels that cancel each other", "cancel"),
        ("left", (values, silent), "speech in the left channel and silence in the right", ""),
        ("right", (silent, values), "silence in the left channel and speech in the right", ""),
    ):
        flac = tool("flac --silent --best --no-padding -o OUT IN", "flac", wav(np.stack(channels, 1), 6000))
        corpus.add(f"stereo-{name}.flac", flac, f"a FLAC of {what}", word, note=note)
    six = np.stack([silent, silent, values, silent, silent, silent], 1)
    flac = without_padding(ffmpeg("-c:a flac", "flac", wav(six, 6000)))
    corpus.add("surround.flac", flac, "5.1 channels in FLAC, speech in the middle", word)
    surround = sox("-r 48000", "wav", wav(six, 6000))
    corpus.add("surround.ac3", ffmpeg("-c:a ac3 -b:a 112k", "ac3", surround), "5.1 channels in AC-3", word)
    for rate_hz, command in (
        (11025, "flac --silent --best --no-padding -o OUT.flac IN"),
        (22050, "lame --quiet -b 24 IN OUT.mp3"),
        (32000, "oggenc -Q --serial 1 -q -1 -o OUT.ogg IN"),
        (48000, "ffmpeg -v error -i IN -fflags +bitexact -flags:a +bitexact -b:a 32k OUT.m4a"),
        (96000, "ffmpeg -v error -i IN -fflags +bitexact -flags:a +bitexact -b:a 48k OUT.m4a"),
    ):
        suffix, sounds = command.split("OUT.")[1].split()[0], f"stop@{rate_hz}"
        data = tool(command.replace(f"OUT.{suffix}", "OUT"), suffix, sounds)
        corpus.add(f"rate-{rate_hz}.{suffix}", data, f"{suffix} at {rate_hz:,} Hz", sounds)
    corpus.add(
        "rate-8012.wav",
        ffmpeg("-c:a pcm_mulaw", "wav", "stop@8012"),
        "a WAV at 8,012 Hz, as recorded by old Sun machines",
        "stop@8012",
    )
    silence = "silence@6000:0.5"
    corpus.add("silence.wav", ffmpeg("-c:a pcm_mulaw", "wav", silence), "a WAV of digital silence", silence)
    corpus.add("silence.mp3", lame("-b 8", silence), "an MP3 of digital silence", silence)
    corpus.add("silence.opus", tool("opusenc --quiet --serial 1 --bitrate 6 IN OUT", "opus", silence), "silent Opus", silence)
