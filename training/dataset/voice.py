"""Telephone prompts: four voices in five languages, one second each of 8 kHz sound. CC-BY-SA 3.0 and CC-BY 3.0.

The sounds of the Asterisk telephone exchange as Debian packages them: `asterisk-core-sounds-{en,es,fr,it,ru}-wav`.
English and Spanish are both read by Allison Smith, French by June Wallack, Italian by Carlo Flora, Russian by a voice
of ivrvoice.ru: so whoever tells the packages apart partly tells languages apart, and only Allison shows that it needn't
be the language. One recording chain a voice, too: this is identification among four known voices, not verification.

The same prompt has the same file name in each language. Files are split by that name, over all languages, so no split
holds a phrase of another one.
"""

import hashlib
import io
import wave
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from training.data import Dataset, Split
from training.error import DataInvalid
from training.package import Package

RATE_HZ = 8_000
NUM_SAMPLES = RATE_HZ  # one second, which is more than most prompts of one word have
VOICES = ("Allison", "June", "Carlo", "IvrvoiceRU")

SPLIT_SEED = 1876  # not the run's: another seed still holds the same phrases out
TRAIN_RATIO, VALIDATION_RATIO = 0.70, 0.12

_VERSION, _FOLDER = "1.6.1-1", "usr/share/asterisk/sounds"
# Neither silence nor tones are anybody's voice, and the monkeys' isn't one of these.
_NO_VOICE = ("silence/*", "beep.wav", "beeperr.wav", "*-2tone.wav", "tt-monkeys.wav")
_HOP = RATE_HZ // 2  # from one window of a training file to the next
_MAX_WINDOWS = 4  # of a training file: a prompt of a minute would count for sixty words else
_AUDIBLE = 0.2  # of the loudest window's amplitude: below it there is more pause than voice


def _package(language: str, folder: str, licence: str, sha256: str) -> Package:
    return Package(
        manager="debian",
        name=f"asterisk-core-sounds-{language}-wav",
        version=_VERSION,
        members=(f"{_FOLDER}/{folder}/*.wav", f"{_FOLDER}/{folder}/*/*.wav"),
        sha256=sha256,
        licence=licence,
    )


PACKAGES = (
    _package(
        "en", "en_US_f_Allison", "CC-BY-SA-3.0", "6c486c66f9f96efd3619c854e45036064d5fb8b830b279ed370774e1c2283946"
    ),
    _package(
        "es", "es_MX_f_Allison", "CC-BY-SA-3.0", "4bcdc61b3f37a1e6e56136331dda490d0399a9a0b15042666ba7d653be9f7b3b"
    ),
    _package("fr", "fr_CA_f_June", "CC-BY-SA-3.0", "b0b238a83a7f89f42e34d3106ed199fff985c6ded3037b60548f67416442de41"),
    _package("it", "it_IT_m_Carlo", "CC-BY-3.0", "d37f90046e0b0e12b37ff7e356263c395447db3b7364ed9a72a4184aea2d79ac"),
    _package(
        "ru", "ru_RU_f_IvrvoiceRU", "CC-BY-3.0", "5bb30d0612aabdc6249ad661410344ff36a4c96e12502ac2854aa7f0114a390e"
    ),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """One file: who speaks, the name of what is said, and the sound, of which full scale is 1."""

    voice: int
    phrase: str
    sound: NDArray[np.float32]


def load(data_dir: Path | None) -> Dataset:
    """3,500 seconds to learn from; the loudest one of each of 336 files to watch, and of 491 to judge by.

    Raises DataNotFound or DataInvalid.
    """
    prompts = [prompt for package in PACKAGES for prompt in _prompts(package.read(data_dir))]
    train, validation, test = by_phrase(prompts)
    identity = (
        f"{' '.join(package.digest() for package in PACKAGES)} {NUM_SAMPLES} {_HOP} {_MAX_WINDOWS} {_AUDIBLE} "
        f"{TRAIN_RATIO} {VALIDATION_RATIO} seed={SPLIT_SEED}"
    )
    return Dataset(
        name="Asterisk prompts",
        sha256=hashlib.sha256(identity.encode()).hexdigest(),
        train=_shuffled(_split(train, _MAX_WINDOWS)),
        validation=_shuffled(_split(validation, 1)),
        test=_shuffled(_split(test, 1)),
    )


def decode(content: bytes, name: str) -> NDArray[np.float32]:
    """The samples of a WAV file of 16 bits, mono, 8 kHz, full scale 1; raises DataInvalid for any other."""
    try:
        with wave.open(io.BytesIO(content)) as file:
            form = file.getnchannels(), 8 * file.getsampwidth(), file.getframerate()
            frames = file.readframes(file.getnframes())
    except (wave.Error, EOFError) as exc:
        raise DataInvalid(f"{name} is not a WAV file: {exc!s:.80}") from exc
    if form != (1, 16, RATE_HZ):
        raise DataInvalid(f"{name}: expected 1 channel of 16 bits at {RATE_HZ} Hz, got {form[0]}, {form[1]}, {form[2]}")
    return np.frombuffer(frames, "<i2").astype(np.float32) / np.float32(32_768)


def windows(sound: NDArray[np.float32], num: int) -> NDArray[np.float32]:
    """At most `num` audible seconds `[n, NUM_SAMPLES]`, the loudest first; a shorter sound lies between zeros."""
    missing = max(0, NUM_SAMPLES - len(sound))
    sound = np.pad(sound, (missing // 2, missing - missing // 2))
    sums = np.concatenate(([0.0], np.cumsum(sound.astype(np.float64) ** 2)))
    energy = sums[NUM_SAMPLES:] - sums[:-NUM_SAMPLES]  # of the second that begins at each sample
    loudest = int(energy.argmax())
    others = [start for start in range(loudest % _HOP, len(energy), _HOP) if abs(start - loudest) >= NUM_SAMPLES]
    audible = [start for start in others if energy[start] >= _AUDIBLE**2 * energy[loudest]]
    chosen = [loudest, *sorted(audible, key=lambda start: -energy[start])[: num - 1]]
    return np.stack([sound[start : start + NUM_SAMPLES] for start in chosen])


def by_phrase(prompts: list[Prompt]) -> tuple[list[Prompt], list[Prompt], list[Prompt]]:
    """Training, validation and test prompts: whatever is said by the same name, in any language, is in one of them."""
    phrases = sorted({prompt.phrase for prompt in prompts})
    place = np.random.default_rng(SPLIT_SEED).permutation(len(phrases)) / len(phrases)
    ends = TRAIN_RATIO, TRAIN_RATIO + VALIDATION_RATIO
    part = dict(zip(phrases, np.searchsorted(ends, place, side="right").tolist(), strict=True))
    train, validation, test = ([prompt for prompt in prompts if part[prompt.phrase] == i] for i in range(3))
    return train, validation, test


def _prompts(content: dict[str, bytes]) -> Iterator[Prompt]:
    for path, file in content.items():
        voice, phrase = path.removeprefix(f"{_FOLDER}/").split("/", 1)
        if any(PurePosixPath(phrase).match(pattern) for pattern in _NO_VOICE):
            continue
        sound = decode(file, path)
        if sound.any():
            yield Prompt(voice=VOICES.index(voice.rsplit("_", 1)[1]), phrase=phrase, sound=sound)


def _split(prompts: list[Prompt], num_windows: int) -> Split:
    found = [windows(prompt.sound, num_windows) for prompt in prompts]
    voice_M = np.repeat([prompt.voice for prompt in prompts], [len(each) for each in found])
    return Split(inputs={"samples": np.concatenate(found)}, targets=voice_M.astype(np.int64))


def _shuffled(split: Split) -> Split:
    """All voices from the beginning on, for whoever takes only the first samples."""
    return split.take(np.random.default_rng(SPLIT_SEED).permutation(len(split)))
