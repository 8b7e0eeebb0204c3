"""The errors that training raises.

TrainingError
├── RecipeNotFound   no recipe of that name
├── DataNotFound     a data set's file is neither on this machine nor at its public address
├── DataInvalid      a data set's file isn't the one that was expected
├── RunMismatch      the run folder belongs to another configuration, other data or another network
├── RunUnfinished    publishing was asked for a run that isn't trained to its end
├── RunFailed        the run folder can't be written
├── Diverged         the loss is no number any more
├── ExportFailed     the network has no ONNX form, or the graph isn't valid
├── GateFailed       the model isn't good enough to be published
│   └── ParityFailed an exported or compiled form doesn't answer what the trained network answers
├── NotComparable    two versions can't be held against each other on the same samples
├── PublishFailed    the version can't be written into the repository; nothing of it can be loaded
└── LockTimeout      another process holds the run folder or the repository

Every message is one sentence that says what was expected, what came and what to do.
"""


class TrainingError(Exception):
    """Root of everything this package raises on purpose."""


class RecipeNotFound(TrainingError):
    """There is no recipe of that name."""


class DataNotFound(TrainingError):
    """A data set's file is neither on this machine nor at its public address."""


class DataInvalid(TrainingError):
    """A data set's file isn't the one that was expected, or its labels or tensors aren't what the recipe takes."""


class RunMismatch(TrainingError):
    """The run folder belongs to another configuration, other data or another network, or a start doesn't fit it."""


class RunUnfinished(TrainingError):
    """The run isn't trained to its end."""


class RunFailed(TrainingError):
    """The run folder can't be written, or one of its processes was lost."""


class Diverged(TrainingError):
    """The loss is no number any more."""


class ExportFailed(TrainingError):
    """The network has no ONNX form, or the graph isn't valid."""


class GateFailed(TrainingError):
    """The model isn't good enough to be published."""


class ParityFailed(GateFailed):
    """An exported or compiled form doesn't answer what the trained network answers."""


class NotComparable(TrainingError):
    """Two versions can't be held against each other on the same samples."""


class PublishFailed(TrainingError):
    """The version can't be written into the repository."""


class LockTimeout(TrainingError):
    """Another process holds the run folder or the repository."""
