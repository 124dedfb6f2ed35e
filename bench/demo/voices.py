"""Synthesise speech, with the time of every phone: by espeak-ng in this process, or by flite or festival as commands.

Both come with Debian (`apt-get install espeak-ng flite`). `speak` returns 16 kHz float32 in [-1, 1] and the phones.
"""

from __future__ import annotations

import ctypes
import functools
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import soxr
from accents import Accent

SAMPLE_RATE_HZ = 16000

ESPEAK_ACCENTS = "en-us en en-gb-x-rp en-gb-scotland en-gb-x-gbclan en-029 en-us-nyc".split()
ESPEAK_VARIANTS = (
    "m1 m2 m3 m4 m5 m6 m8 f1 f2 f3 f5 Alex Andrea Andy Annie Denis Diogo Gene Gene2 Jacky Lee Marco Mario Michael "
    "Mike Nguyen adam anika announcer antonio aunty belinda boris caleb david ed edward grandma grandpa gustave iven "
    "iven2 iven4 john kaukovalta linda marcelo max michel miguel norbert pablo paul pedro rob robert sandro shelby "
    "steph steph2 travis victor zac"
).split()
FLITE_VOICES = ["kal", "awb", "slt"]

# Voices that training never uses: an accent, six variants, and flite's fourth speaker
UNSEEN_ESPEAK_ACCENT = "en-gb-x-gbcwmd"
UNSEEN_ESPEAK_VARIANTS = "m7 f4 Alicia Hugo benjamin quincy".split()
UNSEEN_FLITE_VOICE = "rms"


class Phone(NamedTuple):
    """A phone and the time at which it starts."""

    start_seconds: float
    name: str


class Voice(NamedTuple):
    """A voice named `espeak:ACCENT+VARIANT`, `flite:SPEAKER` or `festival:SPEAKER`.

    `rate` and `pitch` are factors. `accent_seed` gives an espeak-ng voice a random accent: see `accents.py`.
    """

    name: str
    rate: float = 1.0
    pitch: float = 1.0
    accent_seed: int | None = None


def speak(text: str, voice: Voice) -> tuple[np.ndarray, list[Phone]]:
    engine, _, speaker = voice.name.partition(":")
    waveform, sample_rate_hz, phones = ENGINES[engine](text, speaker, voice)
    if not len(waveform):
        raise RuntimeError(f"{voice.name} said nothing for {text!r}")
    return soxr.resample(waveform, sample_rate_hz, SAMPLE_RATE_HZ), phones


class _Event(ctypes.Structure):
    """`espeak_EVENT` of espeak-ng's speak_lib.h."""

    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),  # milliseconds
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", ctypes.c_char * 8),
    ]


_SYNCHRONOUS, _PHONEME_EVENTS, _LIST_END, _PHONEME = 2, 1, 0, 7
_RATE, _PITCH = 1, 3
_UTF8, _PHONEMES_IN_BRACKETS = 1, 0x100
_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


class _Espeak:
    """The espeak-ng library, loaded into this process. A phrase takes about a millisecond."""

    def __init__(self):
        self.library = ctypes.CDLL("libespeak-ng.so.1")
        self.sample_rate_hz = self.library.espeak_Initialize(_SYNCHRONOUS, 500, None, _PHONEME_EVENTS)
        self.library.espeak_TextToPhonemes.restype = ctypes.c_char_p
        self.callback = _Callback(self._receive)  # must stay alive while the library uses it
        self.library.espeak_SetSynthCallback(self.callback)
        self.chunks: list[np.ndarray] = []
        self.phones: list[Phone] = []

    def _receive(self, samples, count, events) -> int:
        if samples and count:
            self.chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        index = 0
        while events[index].type != _LIST_END:
            if events[index].type == _PHONEME:
                name = events[index].id.decode("utf-8", "replace")
                self.phones.append(Phone(events[index].audio_position / 1000, name))
            index += 1
        return 0

    def phonemes(self, clause: str) -> str:
        """Return espeak-ng's mnemonics for one clause in the current voice, with spaces between words."""
        text = ctypes.create_string_buffer(clause.encode())
        position = ctypes.c_void_p(ctypes.addressof(text))
        return self.library.espeak_TextToPhonemes(ctypes.byref(position), _UTF8, 0).decode()

    def speak(self, text: str, speaker: str, voice: Voice) -> tuple[np.ndarray, int, list[Phone]]:
        if self.library.espeak_SetVoiceByName(speaker.encode()) != 0:
            raise RuntimeError(f"espeak-ng has no voice {speaker}")
        self.library.espeak_SetParameter(_RATE, round(170 * voice.rate), 0)
        self.library.espeak_SetParameter(_PITCH, round(50 * voice.pitch), 0)
        self.chunks, self.phones = [], []
        if voice.accent_seed is not None:
            accent = Accent(voice.accent_seed)
            text = ", ".join(f"[[{accent.apply(self.phonemes(clause))}]]" for clause in text.split(", "))
        encoded = text.encode()
        self.library.espeak_Synth(encoded, len(encoded) + 1, 0, 1, 0, _UTF8 | _PHONEMES_IN_BRACKETS, None, None)
        waveform = np.concatenate(self.chunks or [np.zeros(0, np.int16)])
        return waveform.astype(np.float32) / 32768, self.sample_rate_hz, self.phones


@functools.cache
def _espeak() -> _Espeak:
    return _Espeak()


def _speak_flite(text: str, speaker: str, voice: Voice) -> tuple[np.ndarray, int, list[Phone]]:
    options = ["-voice", speaker, "--setf", f"duration_stretch={1 / voice.rate:.3f}"]
    if speaker in ("kal", "kal16"):
        options += ["--setf", f"int_f0_target_mean={95 * voice.pitch:.1f}"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "speech.wav")
        command = ["flite", *options, "-psdur", "-t", text, "-o", str(path)]
        listing = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        waveform, sample_rate_hz = soundfile.read(path, dtype="float32")
    phones, start_seconds = [], 0.0
    for entry in listing.split():  # NAME:END_SECONDS
        name, _, end_seconds = entry.rpartition(":")
        phones.append(Phone(start_seconds, name))
        start_seconds = float(end_seconds)
    return waveform, sample_rate_hz, phones


def _speak_festival(text: str, speaker: str, voice: Voice) -> tuple[np.ndarray, int, list[Phone]]:
    del voice  # festival is only used for evaluation, with the voice's own rate and pitch
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "speech.wav")
        command = ["text2wave", "-eval", f"(voice_{speaker})", "-o", str(path)]
        subprocess.run(command, check=True, capture_output=True, text=True, input=text)
        waveform, sample_rate_hz = soundfile.read(path, dtype="float32")
    return waveform, sample_rate_hz, []


ENGINES = {
    "espeak": lambda *arguments: _espeak().speak(*arguments),
    "flite": _speak_flite,
    "festival": _speak_festival,
}
