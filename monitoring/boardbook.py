"""Every board, and the text of the file that holds each."""

from monitoring.dashboard import board_text
from monitoring.drift_board import drift_board
from monitoring.model_board import model_board
from monitoring.overview import overview
from monitoring.rollout_board import rollout_board
from monitoring.triton_board import triton_board

BOARDS_FOLDER = "dashboards"  # below the folder of this package


def board_texts(runbooks: str = "") -> dict[str, str]:
    """JSON of each board by its file's name; with links to runbooks when `runbooks` is the address of their folder."""
    boards = (overview(), model_board(), drift_board(), triton_board(), rollout_board())
    return {f"{board.uid.removeprefix('tidegate-')}.json": board_text(board, runbooks) for board in boards}
