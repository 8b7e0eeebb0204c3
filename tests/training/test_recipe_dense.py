from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from contract.schema import TensorSpec
from training.augmentation import FlipAndShift, InOrder, Light, Turn, augmented
from training.dataset import aerial_tree, nucleus
from training.detection import CentreLoss, average_precision, detection_measures, focal_loss, hits, judge, overlaps
from training.network.detector import Detector, peaks
from training.network.pixel import PixelScale
from training.network.unet import UNet
from training.segmentation import DiceAndCrossEntropy, dice, dice_measures, otsu, overlap

CELLS = 10
BOXES = (
    TensorSpec(name="boxes", datatype="FP32", shape=(4, 4)),
    TensorSpec(name="scores", datatype="FP32", shape=(4, 1)),
)
LOGITS = (TensorSpec(name="logits", datatype="FP32", shape=(2, 4, 4)),)


def boxes(*rows: tuple[float, float, float, float]) -> NDArray[np.float64]:
    return np.array(rows, dtype=np.float64).reshape(-1, 4)


def test_boxes_overlap_by_the_shared_share_of_their_union() -> None:
    a, half, apart, none = (0.0, 0.0, 0.4, 0.4), (0.0, 0.0, 0.2, 0.4), (0.5, 0.5, 0.6, 0.6), (0.2, 0.2, 0.2, 0.2)
    assert overlaps(boxes(a), boxes(a, half, apart, none)) == pytest.approx(np.array([[1.0, 0.5, 0.0, 0.0]]))
    assert overlaps(boxes(none), boxes(none)).item() == 0


def test_a_true_box_is_found_once_by_the_best_score() -> None:
    true = boxes((0.0, 0.0, 0.4, 0.4), (0.5, 0.5, 0.9, 0.9))
    found = boxes((0.0, 0.0, 0.4, 0.36), (0.0, 0.0, 0.4, 0.4), (0.5, 0.5, 0.9, 0.6), (0.5, 0.5, 0.9, 0.8))
    assert hits(found, np.array([0.9, 0.8, 0.7, 0.6]), true).tolist() == [True, False, False, True]
    assert hits(found, np.array([0.7, 0.8, 0.7, 0.6]), true).tolist() == [False, True, False, True]
    assert not hits(found, np.ones(4), boxes()).any()


def test_average_precision_of_a_case_worked_by_hand() -> None:
    """Right, wrong, right, and one of three never found: 1/3 at precision 1, 1/3 at 2/3, 1/3 at 0."""
    true = boxes((0.0, 0.0, 0.2, 0.2), (0.4, 0.4, 0.6, 0.6), (0.8, 0.8, 1.0, 1.0))
    found = boxes((0.0, 0.0, 0.2, 0.2), (0.1, 0.6, 0.3, 0.9), (0.4, 0.4, 0.6, 0.6), (0.0, 0.0, 0.0, 0.0))
    scores = np.array([0.9, 0.8, 0.7, 0.0])
    outputs = {"boxes": found[None], "scores": scores[None, :, None]}
    metrics = {m.metric.name: m.metric.value for m in detection_measures("boxes", "scores", 0.75)(outputs, true[None])}
    assert metrics == pytest.approx({"average_precision_50": (1 + 2 / 3) / 3, "precision": 1 / 2, "recall": 1 / 3})
    assert average_precision(judge(found[None], np.ones((1, 4)), boxes()[None])) == 0


@settings(max_examples=30)
@given(
    cells=st.sets(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=6),
    place=st.floats(0.05, 0.95),
    size=st.floats(0.5, 3.0),
)
def test_maps_that_say_what_is_true_give_the_true_boxes_and_lose_nothing(
    cells: set[tuple[int, int]], place: float, size: float
) -> None:
    corners = 2 * np.array(sorted(cells))  # never in neighbouring cells
    centres = corners + place
    true = (np.hstack((centres - size / 2, centres + size / 2)) / CELLS).astype(np.float32)
    heat, offset, sizes = (torch.full((1, n, CELLS, CELLS), value) for n, value in ((1, -12.0), (2, 0.0), (2, 0.0)))
    for column, row in corners:
        heat[0, 0, row, column], offset[0, :, row, column], sizes[0, :, row, column] = 12.0, place, size
    padded = torch.zeros(1, 8, 4)
    padded[0, : len(true)] = torch.from_numpy(true)

    found, scores = peaks(heat, offset, sizes, num_boxes=9)
    loss, worse = (CentreLoss().loss((heat, offset, each), padded) for each in (sizes, sizes + 0.5))

    assert (scores[0, :, 0] > 0.9).sum() == (scores > 0).sum() == len(true)
    assert (overlaps(true.clip(0, 1), found[0].numpy()).max(axis=1) > 0.999).all()
    assert not found[0, len(true) :].any()
    assert loss < 1e-3 < worse
    assert CentreLoss().score((heat, offset, sizes), padded) == pytest.approx(1, abs=1e-4)


def test_the_focal_loss_is_the_papers() -> None:
    logits, hills = torch.tensor([[[0.5, -1.0, 2.0]]]), torch.tensor([[[1.0, 0.8, 0.0]]])
    p = torch.sigmoid(logits).flatten().tolist()
    expected = -((1 - p[0]) ** 2 * np.log(p[0]) + 0.2**4 * p[1] ** 2 * np.log(1 - p[1]) + p[2] ** 2 * np.log(1 - p[2]))
    assert focal_loss(logits, hills).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (np.zeros((2, 3, 4), np.float32), "expected some boxes, got none with an area"),
        (np.full((2, 3, 4), 1.5, np.float32), "shares of the picture from 0 to 1"),
        (np.array([[[0.5, 0.5, 0.4, 0.6]]], np.float32), "left <= right"),
        (np.zeros((2, 3), np.float32), r"expected boxes \[M, Q, 4\] as floats"),
    ],
)
def test_boxes_that_are_none_are_refused(wrong: NDArray[np.float32], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        CentreLoss().check(BOXES, wrong, whole=True)


def test_the_detector_answers_each_picture_for_itself_and_nothing_for_nothing() -> None:
    torch.manual_seed(0)
    network = Detector(PixelScale([0.5] * 3, [0.2] * 3), widths=(4, 8, 8), head_width=8, num_boxes=5).eval()
    image_NHWC = torch.randint(0, 256, (3, 32, 32, 3), dtype=torch.uint8)
    with torch.inference_mode():
        together, alone = network(image_NHWC), network(image_NHWC[1:2])
        heat, offset, size = network(image_NHWC, torch.ones(3, 1))
    assert [tuple(t.shape) for t in together] == [(3, 5, 4), (3, 5, 1)]
    assert [tuple(t.shape) for t in (heat, offset, size)] == [(3, 1, 8, 8), (3, 2, 8, 8), (3, 2, 8, 8)]
    for one, all_ in zip(alone, together, strict=True):
        torch.testing.assert_close(one[0], all_[1], rtol=1e-4, atol=1e-5)
    nothing = peaks(torch.full((1, 1, 4, 4), -9.0), torch.ones(1, 2, 4, 4), torch.ones(1, 2, 4, 4), 3)
    assert not any(tensor.any() for tensor in nothing)


@pytest.mark.parametrize("seed", range(12))
def test_boxes_and_masks_turn_with_their_picture(seed: int) -> None:
    picture_HW = torch.zeros(8, 8, dtype=torch.uint8)
    picture_HW[1:3, 2:7] = 200
    image, box = picture_HW[None, ..., None], torch.tensor([[[2, 1, 7, 3], [0, 0, 0, 0]]]) / 8

    torch.manual_seed(seed)
    (turned, other), turned_box = augmented(Turn(targets="boxes"), (image, torch.ones(1)), box)
    torch.manual_seed(seed)
    _, mask = augmented(Turn(targets="mask"), (image,), picture_HW[None])

    rows, columns = turned[0, ..., 0].nonzero(as_tuple=True)
    expected = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert (turned_box[0, 0] * 8).tolist() == [int(edge) for edge in expected]
    assert turned_box[0, 1, 2] == turned_box[0, 1, 0]  # still no box
    assert torch.equal(mask, turned[..., 0])
    assert torch.equal(other, torch.ones(1))


def test_all_eight_ways_come_and_others_leave_targets_alone() -> None:
    image, target = torch.arange(16, dtype=torch.uint8).reshape(1, 4, 4, 1), torch.zeros(1, 4, 4)
    torch.manual_seed(0)
    ways = {tuple(augmented(Turn(targets="mask"), (image,), target)[0][0].flatten().tolist()) for _ in range(100)}
    assert len(ways) == 8
    assert augmented(FlipAndShift(), (image,), target)[1] is target
    assert augmented(None, (image,), target) == ((image,), target)


def test_light_changes_channels_and_nothing_else() -> None:
    image = torch.full((4, 2, 2, 3), 100, dtype=torch.uint8)
    (lit, other), box = augmented(InOrder(steps=(Light(most=0.2), Light(most=0.0))), (image, torch.ones(1)), "box")
    assert (lit.dtype, box, other.tolist()) == (torch.uint8, "box", [1.0])
    assert (lit == lit[:, :1, :1]).all()
    assert 80 <= lit.min() < lit.max() <= 120
    assert len(set(lit[:, 0, 0].flatten().tolist())) > 3
    (bright,) = Light(most=1.0)((torch.full((64, 1, 1, 3), 200, dtype=torch.uint8),))
    assert bright.max() == 255  # and none runs over, into black
    with pytest.raises(ValueError, match="from 0 to 1"):
        Light(most=1.5)


def test_no_split_of_trees_shows_a_pixel_of_another() -> None:
    dataset = aerial_tree.load(None)
    assert [len(split) for split in (dataset.train, dataset.validation, dataset.test)] == [2348, 21, 70]
    has_area = (dataset.test.targets[..., 2:] > dataset.test.targets[..., :2]).all(axis=-1)
    assert has_area.sum() == 227
    for plot in aerial_tree.PLOTS:
        ranges = sorted(rows for rows in (plot.train, plot.validation, plot.test) if rows)
        assert all(end + 32 <= start for (_, end), (start, _) in pairwise(ranges))
    assert np.shares_memory(dataset.train.lesson["image"], dataset.train.inputs["image"])


def test_a_tree_belongs_to_the_crop_that_shows_half_of_it() -> None:
    side = aerial_tree.SIDE_PX
    wide = boxes((side - 20, 0, side + 20, 40), (side - 19, 0, side + 21, 40), (-5, -5, 15, 15))
    found = aerial_tree.inside(wide, left=0, top=0) * side
    assert found[:2].tolist() == [[side - 20, 0, side, 40], [0, 0, 15, 15]]
    assert not found[2:].any()


def test_no_split_of_nuclei_shows_a_pixel_of_another() -> None:
    dataset = nucleus.load(None)
    assert [len(split) for split in (dataset.train, dataset.validation, dataset.test)] == [1197, 8, 24]
    ranges = nucleus.TRAIN_ROWS, nucleus.VALIDATION_ROWS, nucleus.TEST_ROWS
    assert all(end + 16 <= start for (_, end), (start, _) in pairwise(ranges))
    assert 0.15 < dataset.test.targets.mean() < 0.25


def test_dice_of_a_case_worked_by_hand() -> None:
    found, true = np.zeros((2, 4, 4), bool), np.zeros((2, 4, 4), bool)
    found[0, 0, :3], true[0, 0, 1:4] = True, True
    assert dice(overlap(found, true)) == pytest.approx(4 / 6)
    assert dice(overlap(found[1:], true[1:])) == 1
    logits = np.stack((~found, found), axis=1).astype(np.float32)
    values = {m.metric.name: m.metric.value for m in dice_measures("logits")({"logits": logits}, true.astype(np.uint8))}
    assert values == pytest.approx({"dice": 4 / 6, "intersection_over_union": 2 / 4})


def test_the_dice_loss_falls_to_nothing_as_the_answer_becomes_right() -> None:
    target = torch.zeros(2, 4, 4, dtype=torch.uint8)
    target[0, :2] = 1
    right = torch.stack((1 - target.float(), target.float()), dim=1) * 40
    objective = DiceAndCrossEntropy()
    assert objective.loss((right,), target) == pytest.approx(0, abs=1e-5)
    assert objective.score((right,), target) == 1
    assert objective.loss((-right,), target) > 10


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (np.zeros((3, 4, 4), np.uint8), "expected some foreground"),
        (np.full((3, 4, 4), 2, np.uint8), "expected labels from 0 to 1, got 2 to 2"),
        (np.zeros((3, 4, 5), np.uint8), r"for each of \[4, 4\] pixels"),
    ],
)
def test_masks_that_are_none_are_refused(wrong: NDArray[np.uint8], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        DiceAndCrossEntropy().check(LOGITS, wrong, whole=True)


@given(st.lists(st.integers(0, 255), min_size=2, max_size=40))
def test_otsus_threshold_leaves_the_least_variance_within_the_groups(values: list[int]) -> None:
    pixels = np.array(values)

    def within(threshold: float) -> float:
        groups = pixels[pixels > threshold], pixels[pixels <= threshold]
        return float(sum(len(group) * group.var() for group in groups if len(group)))

    assert within(otsu(pixels)) == pytest.approx(min(map(within, values)), abs=1e-6)


def test_the_unet_labels_each_pixel_of_each_picture_for_itself() -> None:
    torch.manual_seed(0)
    network = UNet(PixelScale([0.1], [0.1]), widths=(4, 8, 8), num_labels=3).eval()
    image_NHWC = torch.randint(0, 256, (3, 16, 24, 1), dtype=torch.uint8)
    with torch.inference_mode():
        together, alone = network(image_NHWC), network(image_NHWC[2:])
    assert together.shape == (3, 3, 16, 24)
    torch.testing.assert_close(alone[0], together[2], rtol=1e-4, atol=1e-5)
