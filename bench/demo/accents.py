"""Draw random accents: some vowels and consonants of a speaker consistently become similar ones.

espeak-ng has few English accents, and a recogniser trained on only these fails on a new one. Training on many random accents
teaches it to tolerate them.
"""

from __future__ import annotations

import random

# espeak-ng's phoneme mnemonics (its docs/phonemes.md, English); an empty string drops the phone
NEIGHBOURS = {
    "aI": ["OI", "A:", "eI", "aI2"],
    "eI": ["aI", "E", "i@"],
    "oU": ["O:", "aU", "0", "u:"],
    "aU": ["oU", "a", "E"],
    "OI": ["aI", "O:"],
    "i:": ["I", "i@", "eI"],
    "I": ["E", "@", "i:"],
    "I2": ["E", "@", "i:"],
    "i": ["I", "i:", "eI"],
    "u:": ["U", "oU", "3:", "i:"],
    "U": ["u:", "V", "@"],
    "V": ["U", "a", "0", "@"],
    "0": ["O:", "A:", "V", "a"],
    "O2": ["O:", "A:", "V", "0"],
    "O:": ["0", "oU", "A:"],
    "O@": ["O:", "oU", "A@", "0"],
    "o@": ["O:", "oU", "0"],
    "E": ["I", "a", "eI", "3:"],
    "a": ["E", "A:", "V"],
    "A@": ["A:", "O@", "a"],
    "A:": ["a", "O:", "0"],
    "3:": ["@", "E", "A@", "V"],
    "i@": ["i:", "E", "I"],
    "3": ["@", "a", "V"],
    "T": ["f", "t", "s"],
    "D": ["d", "v", "z"],
    "h": [""],
    "w": ["v"],
    "r": ["l", "w"],
    "z": ["s"],
    "dZ": ["Z", "tS"],
    "tS": ["S"],
}
VOWEL_SHARE, CONSONANT_SHARE = 0.25, 0.12
# Longest first, so that "aI2" is not read as "aI". Stress marks and unlisted phones stay as they are.
_KNOWN = sorted({*NEIGHBOURS, "I#", "a#", "aI2", "@2", "@", "t#", "t2", "VR", "IR", "e@", "N", "S", "Z"}, key=len, reverse=True)
_VOWELS = frozenset("aeiouAEIOUV03@")


class Accent:
    """A fixed choice of replacements, drawn from `seed`."""

    def __init__(self, seed: int):
        rng = random.Random(seed)
        self.replacements = {}
        for phone, neighbours in NEIGHBOURS.items():
            share = VOWEL_SHARE if phone[0] in _VOWELS else CONSONANT_SHARE
            if rng.random() < share:
                self.replacements[phone] = rng.choice(neighbours)

    def apply(self, phonemes: str) -> str:
        """Replace phones in a string of mnemonics."""
        result, position = [], 0
        while position < len(phonemes):
            phone = next((known for known in _KNOWN if phonemes.startswith(known, position)), phonemes[position])
            result.append(self.replacements.get(phone, phone))
            position += len(phone)
        return "".join(result)
