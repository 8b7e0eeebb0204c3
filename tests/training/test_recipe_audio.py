import io
import wave

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from training.augmentation import ShiftAndHiss
from training.dataset import voice
from training.dataset.voice import NUM_SAMPLES, RATE_HZ, Prompt, by_phrase, decode, windows
from training.error import DataInvalid
from training.network.spectrum import FLOOR, LogMel, mel_filters
from training.recipes.audio import network

WINDOW, HOP, NUM_MELS = 256, 80, 40
LOG_MEL = LogMel(RATE_HZ, NUM_MELS, WINDOW, HOP, 60.0)


def tone(hz: float, loudness: float = 0.5) -> NDArray[np.float32]:
    return (loudness * np.sin(2 * np.pi * hz * np.arange(NUM_SAMPLES) / RATE_HZ)).astype(np.float32)


def file(samples: NDArray[np.int16], *, num_channels: int = 1, rate_hz: int = RATE_HZ) -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as written:
        written.setnchannels(num_channels)
        written.setsampwidth(2)
        written.setframerate(rate_hz)
        written.writeframes(samples.astype("<i2").tobytes())
    return out.getvalue()


def test_the_spectrum_in_the_graph_is_the_fourier_transforms() -> None:
    sound = np.random.default_rng(0).normal(0, 0.1, NUM_SAMPLES).astype(np.float32)
    frames = np.lib.stride_tricks.sliding_window_view(sound, WINDOW)[::HOP].astype(np.float64)
    hann = np.sin(np.pi * np.arange(WINDOW) / WINDOW) ** 2
    power = np.abs(np.fft.rfft(frames * hann / hann.sum())) ** 2 @ mel_filters(RATE_HZ, NUM_MELS, WINDOW, 60.0).T
    expected = np.log(power + FLOOR).T
    got = LOG_MEL(torch.from_numpy(sound)[None])[0].numpy()
    np.testing.assert_allclose(got, expected - expected.mean(), atol=1e-3)


@pytest.mark.parametrize("hz", [100.0, 440.0, 1_500.0, 3_600.0])
def test_a_tone_is_where_it_belongs(hz: float) -> None:
    filters = mel_filters(RATE_HZ, NUM_MELS, WINDOW, 60.0)
    assert (filters.sum(axis=1) > 0).all()
    loudest = int(LOG_MEL(torch.from_numpy(tone(hz))[None])[0].mean(dim=1).argmax())
    frequency = np.arange(WINDOW // 2 + 1) * RATE_HZ / WINDOW
    assert np.average(frequency, weights=filters[loudest]) == pytest.approx(hz, abs=100)


def test_silence_has_an_answer_and_loudness_none() -> None:
    torch.testing.assert_close(LOG_MEL(torch.zeros(2, NUM_SAMPLES)), torch.zeros(2, NUM_MELS, 97), atol=1e-4, rtol=0)
    hiss = torch.from_numpy(np.random.default_rng(0).normal(0, 0.1, (1, NUM_SAMPLES)).astype(np.float32))
    torch.testing.assert_close(LOG_MEL(hiss), LOG_MEL(2 * hiss), atol=0.05, rtol=0)


def test_integers_are_answered_as_samples_are_and_nonsense_with_a_number() -> None:
    hiss = torch.from_numpy(np.random.default_rng(0).normal(0, 0.1, (1, NUM_SAMPLES)).astype(np.float32))
    torch.testing.assert_close(LOG_MEL(hiss), LOG_MEL(32_768 * hiss), atol=0.1, rtol=0)
    assert LOG_MEL(1e38 * hiss).isfinite().all()


def test_each_sound_of_a_batch_is_answered_for_itself() -> None:
    torch.manual_seed(0)
    net, sounds = network().eval(), torch.randn(3, NUM_SAMPLES) * 0.1
    with torch.inference_mode():
        together, alone = net(sounds), net(sounds[1:2])
    assert together.shape == (3, len(voice.VOICES))
    torch.testing.assert_close(alone[0], together[1], rtol=1e-4, atol=1e-5)


def test_the_loudest_second_comes_first_and_the_quiet_ones_not_at_all() -> None:
    loud, soft, still = np.full(NUM_SAMPLES, 0.9), np.full(NUM_SAMPLES, 0.5), np.full(NUM_SAMPLES, 0.01)
    sound = np.concatenate((still, soft, still, loud, still)).astype(np.float32)
    assert (windows(sound, 1) == np.float32(0.9)).all()
    found = windows(sound, 4)
    assert len(found) > 1
    assert found[0].min() == np.float32(0.9)
    assert (np.sqrt((found**2).mean(axis=1)) >= 0.2 * 0.9).all()


def test_a_short_sound_lies_between_zeros() -> None:
    (found,) = windows(np.ones(1_000, np.float32), 4)
    assert found.shape == (NUM_SAMPLES,)
    assert found.nonzero()[0].tolist() == list(range(3_500, 4_500))


def test_a_file_is_read_with_full_scale_at_one() -> None:
    assert decode(file(np.array([-32_768, 0, 16_384], np.int16)), "a.wav").tolist() == [-1.0, 0.0, 0.5]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            file(np.zeros(8, np.int16), num_channels=2),
            "a.wav: expected 1 channel of 16 bits at 8000 Hz, got 2, 16, 8000",
        ),
        (file(np.zeros(8, np.int16), rate_hz=16_000), "got 1, 16, 16000"),
        (b"no sound", "a.wav is not a WAV file"),
        (b"", "a.wav is not a WAV file"),
    ],
)
def test_another_file_is_refused_by_name(content: bytes, said: str) -> None:
    with pytest.raises(DataInvalid, match=said):
        decode(content, "a.wav")


def test_no_phrase_is_in_two_splits_in_any_language() -> None:
    prompts = [
        Prompt(voice=who, phrase=f"digits/{number}.wav", sound=np.ones(1, np.float32))
        for number in range(200)
        for who in range(len(voice.VOICES))
    ]
    splits = by_phrase(prompts)
    phrases = [{prompt.phrase for prompt in split} for split in splits]
    assert sum(map(len, splits)) == len(prompts)
    assert [len(each) for each in phrases] == [140, 24, 36]
    assert len(set.union(*phrases)) == 200


def test_the_real_prompts_have_every_voice_in_every_split_from_the_first_samples_on() -> None:
    dataset = voice.load(None)
    assert [len(split) for split in (dataset.train, dataset.validation, dataset.test)] == [3500, 336, 491]
    for split in (dataset.train, dataset.validation, dataset.test):
        assert set(split.targets[:64].tolist()) == set(range(len(voice.VOICES)))
        assert (split.inputs["samples"].std(axis=1) > 0).all()


def test_augmented_sounds_are_moved_and_no_noisier_than_said() -> None:
    torch.manual_seed(0)
    sounds = torch.from_numpy(np.stack([tone(440), tone(900)]))
    (moved,) = ShiftAndHiss(max_shift=800, max_hiss=0.0)((sounds,))
    assert all(set(after.tolist()) <= set(before.tolist()) | {0.0} for before, after in zip(sounds, moved, strict=True))
    assert not torch.equal(moved, sounds)
    (noisy,) = ShiftAndHiss(max_shift=0, max_hiss=0.1)((sounds,))
    added = (noisy - sounds).square().mean(dim=1) / sounds.square().mean(dim=1)
    assert ((added > 0) & (added < 0.11)).all()
    with pytest.raises(ValueError, match="of at least 0"):
        ShiftAndHiss(max_shift=-1, max_hiss=0)
