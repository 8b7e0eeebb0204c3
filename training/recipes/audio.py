"""Voice identification: which of four known voices speaks in one second of telephone sound.

Network: a log-mel spectrum in the graph, and He et al. 2015, arXiv 1512.03385, on it.
"""

import numpy as np

from contract.schema import AxisRange, ClassificationPostprocess, Slo, TensorPreprocess, TensorSpec
from training.augmentation import ShiftAndHiss
from training.config import TrainConfig
from training.data import Dataset, Split
from training.dataset.voice import NUM_SAMPLES, RATE_HZ, VOICES, load
from training.gate import Gate
from training.network.spectrum import LogMel, SpectrumNetwork
from training.objective import Classification
from training.recipe import Recipe

# 32 ms hold a few periods of the deepest voice, 10 ms are how fast speech changes: usual since the seventies.
WINDOW, HOP = RATE_HZ * 32 // 1_000, RATE_HZ // 100


def network() -> SpectrumNetwork:
    """40 mels and 97 frames, halved three times."""
    # 60 Hz: mains hum and below it lies no voice.
    log_mel = LogMel(RATE_HZ, num_mels=40, window=WINDOW, hop=HOP, lowest_hz=60.0)
    return SpectrumNetwork(log_mel, widths=(16, 16, 32, 64), num_classes=len(VOICES))


def mean_spectrum(dataset: Dataset) -> float:
    """Accuracy of logistic regression on each sound's mean log spectrum."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1_000))
    classifier.fit(_mean_spectra(dataset.train), dataset.train.targets)
    return float(classifier.score(_mean_spectra(dataset.test), dataset.test.targets))


def _mean_spectra(split: Split) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    frames = np.lib.stride_tricks.sliding_window_view(split.inputs["samples"], WINDOW, axis=1)[:, :: WINDOW // 2]
    power = np.stack([np.square(np.abs(np.fft.rfft(each * np.hanning(WINDOW)))).mean(axis=0) for each in frames])
    return np.asarray(np.log(power + 1e-6))


VOICE_IDENTIFICATION = Recipe(
    name="voice-identification",
    model="voice",
    task="audio-classification",
    description="Names the voice in one second of 8 kHz sound, out of four that read telephone prompts.",
    data="Asterisk prompts",
    load=load,
    network=network,
    objective=Classification(),
    # A tenth of a second either way, for nobody cuts as we do; noise down to 10 dB below the voice, as on a bad line.
    augment=ShiftAndHiss(max_shift=RATE_HZ // 10, max_hiss=0.1),
    # Samples of a WAV file divided by 32,768. FP32, for engines take no INT16.
    inputs=(TensorSpec(name="samples", datatype="FP32", shape=(NUM_SAMPLES,)),),
    outputs=(TensorSpec(name="logits", datatype="FP32", shape=(len(VOICES),)),),
    batch=AxisRange(min=1, opt=8, max=32),
    preprocess=TensorPreprocess(),
    postprocess=ClassificationPostprocess(tensor="logits", labels=VOICES, top_k=len(VOICES)),
    slo=Slo(latency_threshold_ms=50, latency_objective=0.99, availability_objective=0.999),
    # Twelve passes: the rate has come to rest by then, and so has the validation loss.
    config=TrainConfig(epochs=12, batch_size=64, peak_learning_rate=0.05),
    gates=(Gate(metric="accuracy", at_least=0.94), Gate(metric="calibration_error", at_most=0.05)),
    # A thousand sounds twice: less than the baseline, and twice as good as the most frequent voice.
    quick_config=TrainConfig(epochs=2, batch_size=32, peak_learning_rate=0.05, num_train=1_024),
    quick_gates=(Gate(metric="accuracy", at_least=0.60),),
    baselines={"logistic regression on the mean spectrum": mean_spectrum},
)

RECIPES = (VOICE_IDENTIFICATION,)
