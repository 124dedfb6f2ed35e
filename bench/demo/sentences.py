"""Generate the demo recogniser's language: spoken numbers, digit strings and short commands over a closed vocabulary."""

from __future__ import annotations

import random

DIGITS = "zero one two three four five six seven eight nine".split()
TEENS = "ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen".split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
ROOMS = "kitchen bedroom office garden".split()
DEVICES = "light lights radio heater fan music".split()
COLOURS = "red green blue white".split()
UNITS = "seconds minutes hours".split()
WAYS = "left right forward back".split()

COMMAND_WORDS = (
    "turn switch on off the in set a timer for stop start pause next play track call room number go to page open "
    "close door window volume up down by percent move steps please make add and point minus hundred thousand"
).split()

VOCABULARY = sorted(set(DIGITS + TEENS + TENS + ROOMS + DEVICES + COLOURS + UNITS + WAYS + COMMAND_WORDS))


def number(value: int, use_and: bool = False) -> str:
    """Spell 0 to 999,999 in words."""
    if value < 10:
        return DIGITS[value]
    if value < 20:
        return TEENS[value - 10]
    if value < 100:
        return TENS[value // 10 - 2] + (f" {DIGITS[value % 10]}" if value % 10 else "")
    if value < 1000:
        rest = value % 100
        joint = " and " if use_and else " "
        return f"{DIGITS[value // 100]} hundred" + (joint + number(rest) if rest else "")
    rest = value % 1000
    return f"{number(value // 1000, use_and)} thousand" + (f" {number(rest, use_and)}" if rest else "")


def any_number(rng: random.Random) -> str:
    return number(rng.randrange(10 ** rng.choice((1, 2, 2, 3, 3, 4, 5, 6))), rng.random() < 0.3)


def small(rng: random.Random) -> str:
    return number(rng.randrange(100))


def digits(rng: random.Random, least: int = 1, most: int = 8) -> str:
    return " ".join(rng.choices(DIGITS, k=rng.randint(least, most)))


def sentence(rng: random.Random) -> str:
    """Draw one sentence: lower-case words of VOCABULARY, separated by single spaces."""
    pick = rng.choice
    templates = (
        lambda: digits(rng),
        lambda: digits(rng),
        lambda: any_number(rng),
        lambda: any_number(rng),
        lambda: f"{any_number(rng)} point {digits(rng, 1, 3)}",
        lambda: f"minus {any_number(rng)}",
        lambda: f"{pick(('turn', 'switch'))} {pick(('on', 'off'))} the {pick(('', pick(ROOMS) + ' '))}{pick(DEVICES)}",
        lambda: f"turn the {pick(ROOMS)} {pick(DEVICES)} {pick(('on', 'off', 'up', 'down'))}",
        lambda: f"{pick(('set', 'start'))} a timer for {small(rng)} {pick(UNITS)}",
        lambda: f"{pick(('stop', 'start', 'pause'))} the {pick(('timer', 'music', 'radio', 'fan', 'heater'))}",
        lambda: f"{pick(('play', 'next', 'stop', 'pause'))} {pick(('track', 'music', 'page'))}",
        lambda: f"play track {pick(('', 'number '))}{small(rng)}",
        lambda: f"call {pick(('room', 'number', 'office'))} {digits(rng, 1, 5)}",
        lambda: f"go to {pick(('page', 'track', 'room'))} {any_number(rng)}",
        lambda: f"{pick(('open', 'close'))} the {pick(('', pick(ROOMS) + ' '))}{pick(('door', 'window'))}",
        lambda: f"turn the volume {pick(('up', 'down'))} by {small(rng)} percent",
        lambda: f"set the {pick(('volume', 'heater', 'fan'))} to {small(rng)} {pick(('', 'percent'))}",
        lambda: f"move {pick(WAYS)} {small(rng)} steps",
        lambda: f"go {pick(WAYS)} and {pick(('stop', 'turn ' + pick(WAYS[:2])))}",
        lambda: f"make the {pick(('', pick(ROOMS) + ' '))}{pick(('light', 'lights'))} {pick(COLOURS)}",
        lambda: f"add {any_number(rng)} and {any_number(rng)}",
        lambda: " ".join(rng.choices(VOCABULARY, k=rng.randint(1, 5))),
        lambda: f"{pick(DEVICES + COLOURS + WAYS + ROOMS)}",
    )
    text = pick(templates)()
    if rng.random() < 0.12:
        text = f"please {text}" if rng.random() < 0.5 else f"{text} please"
    return " ".join(text.split())
