"""The error that importing raises beside those of exporting and publishing.

TrainingError
└── ImportRefused   a file, a graph or a wish that can't become a served model

Every message is one sentence that says what was expected, what came and what to do.
"""

from training.error import TrainingError


class ImportRefused(TrainingError):
    """The model can't be served as it is; nothing was published."""
