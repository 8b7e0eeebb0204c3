from io import StringIO

from rich.console import Console

from training.checkpoint import Epoch, Progress
from training.progress import TrainingBar


def test_a_log_gets_a_line_an_epoch_and_every_new_note_once() -> None:
    console = Console(file=StringIO(), width=100)
    note = "the gradient vanishes in layer a[0]: try normalisation"
    with TrainingBar(console, num_epochs=2, batch_size=8, score_name="accuracy") as bar:
        bar.began(Progress(), 4, 2)
        for step in range(1, 5):
            bar.stepped(Progress(step=step, loss_sum=1.0, score_sum=0.5, notes=(note,)))
        bar.ended_epoch(Epoch(loss=1.0, score=0.5, validation_loss=0.75, validation_score=0.25))
    assert console.file.getvalue().splitlines() == [  # type: ignore[attr-defined]
        f"  note: {note}",
        "  epoch 1/2  loss 1.0000  accuracy 0.5000  validation 0.7500  0.2500",
    ]
