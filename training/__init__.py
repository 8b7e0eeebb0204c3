"""From real data to a published model version: train, check, export, compile, publish."""

from training.error import TrainingError
from training.pipeline import publish_stage, run, train_stage
from training.recipe import Recipe, find, names

__all__ = ["Recipe", "TrainingError", "find", "names", "publish_stage", "run", "train_stage"]
