"""Near-equal items in another order are told; what the original's own ties do not explain is not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from refold import fold
from refold.errors import VerificationError
from refold.ordering import MOST, Order, Run, find_order
from refold.verification import FACTOR, OutputEvidence, certify, judge_outputs

ITEMS = 40
SWAPPED = {3: 4, 4: 3, 20: 21, 21: 20}
"""Two pairs that all but tie."""


def placed(array: np.ndarray, swaps: dict[int, int], axis: int = 1) -> np.ndarray:
    """The array with items at other places."""
    return np.take(array, [swaps.get(place, place) for place in range(array.shape[axis])], axis=axis)


def detections(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Boxes and class scores of queries."""
    draw = np.random.default_rng(seed)
    return draw.standard_normal((2, ITEMS, 4)), draw.standard_normal((2, ITEMS, 7))


def runs(folded: dict[int, int], own: dict[int, int], off: float = 1e-7) -> list[Run]:
    return [Run(one, placed(one, folded) + off, (placed(one, own) - off,), 1e-6) for one in detections()]


def test_near_ties_are_told_with_their_numbers() -> None:
    boxes, scores = find_order(runs(SWAPPED, {3: 4, 4: 3}), FACTOR)
    assert boxes == scores
    assert boxes is not None
    assert (boxes.axis, boxes.moved, boxes.items, boxes.places, boxes.own) == (1, 8, 2 * ITEMS, 1, 4)
    assert boxes.difference == pytest.approx(1e-7)
    assert str(boxes) == (
        "8 of 80 items along axis 1 are near-equal and came in another order (rounding moves 4 in the original itself); the sets agree"
    )


def test_what_agrees_in_its_place_is_not_told() -> None:
    assert find_order(runs({}, SWAPPED), FACTOR) == [None, None]


def test_an_order_that_the_original_never_changes_is_not_excused() -> None:
    assert find_order(runs(SWAPPED, {}), FACTOR) == [None, None]
    assert find_order([replace(one, own=()) for one in runs(SWAPPED, {})], FACTOR) == [None, None]


def test_many_more_items_out_of_place_than_in_the_original_are_not_excused() -> None:
    many = {place: place ^ 1 for place in range(ITEMS)}
    assert find_order(runs(many, {3: 4, 4: 3}), FACTOR) == [None, None]


def test_items_far_from_their_places_are_no_near_ties() -> None:
    assert find_order(runs({0: 30, 30: 0}, {3: 4, 4: 3}), FACTOR) == [None, None]


def test_sets_that_do_not_agree_are_not_told() -> None:
    one, other = runs(SWAPPED, SWAPPED)
    wrong = one.folded.copy()
    wrong[0, 3] += 0.1
    assert find_order([replace(one, folded=wrong), other], FACTOR) == [None, None]


def test_boxes_that_stay_where_their_scores_move_are_wrong() -> None:
    boxes, scores = runs(SWAPPED, SWAPPED)
    assert find_order([replace(boxes, folded=boxes.original), scores], FACTOR) == [None, None]


def test_an_output_beside_that_ties_do_not_move_has_no_part_in_it() -> None:
    still = Run(*(2 * (np.random.default_rng(5).standard_normal((2, ITEMS, 3)),)), (), 1e-6)
    still = replace(still, own=(still.original,))
    assert [one is None for one in find_order([*runs(SWAPPED, SWAPPED), still], FACTOR)] == [False, False, True]


def test_two_channels_swapped_everywhere_are_not_excused_by_ties_of_queries() -> None:
    channels = [
        replace(one, folded=placed(one.original, {0: 1, 1: 0}, axis=2), own=(placed(one.original, SWAPPED),)) for one in runs({}, {})
    ]
    assert find_order(channels, FACTOR) == [None, None]


def test_too_many_to_compare_each_with_each_are_left() -> None:
    x = np.random.default_rng(0).standard_normal((1, 2 * MOST, 1))
    turned = x[:, ::-1].copy()
    assert find_order([Run(x, turned, (turned,), 1e-9)], FACTOR) == [None]


def test_numbers_that_are_not_finite_are_left() -> None:
    one, _ = runs(SWAPPED, SWAPPED)
    one.folded[0, 0, 0] = np.nan
    assert find_order([one], FACTOR) == [None]


def evidence(folded: dict[int, int], own: dict[int, int]) -> OutputEvidence:
    """The places of the best 40 of 100, with near ties."""
    best = np.random.default_rng(1).permutation(100)[None, :ITEMS].astype(np.int64)
    return OutputEvidence("best", best, placed(best, folded), best, 0.0, 5, own=(placed(best, own),))


def test_integers_in_another_order_pass_where_the_original_changes_it_too() -> None:
    (check,) = judge_outputs([evidence(SWAPPED, SWAPPED)])
    assert check.passed
    assert check.order == Order(1, 4, ITEMS, 1, 4, 0.0)
    (check,) = judge_outputs([evidence(SWAPPED, {})])
    assert not check.passed
    assert check.order is None


def test_an_item_of_another_set_fails() -> None:
    good = evidence(SWAPPED, SWAPPED)
    wrong = good.folded.copy()
    wrong[0, 3:5] = 1_000
    (check,) = judge_outputs([replace(good, folded=wrong)])
    assert not check.passed
    assert check.order is None


def test_outputs_of_other_inputs_have_an_order_of_their_own() -> None:
    first, second = evidence(SWAPPED, SWAPPED), replace(evidence({7: 8, 8: 7}, {7: 8, 8: 7}), run=1)
    assert [check.order is not None for check in judge_outputs([first, second])] == [True, True]
    assert [check.order for check in judge_outputs([first, replace(second, run=0)])] == [None, None]


def test_the_certificate_says_it() -> None:
    certificate = certify((), [evidence(SWAPPED, SWAPPED)])
    assert "output best: 4 of 40 items along axis 1 are near-equal and came in another order" in str(certificate)
    assert certificate.to_dict()["outputs"][0]["order"]["moved"] == 4


# ------------------------------------------------------------------------------------------------------------------------ whole networks


class Detector(nn.Module):
    """Scores of places, and the best of them with what stands there; pairs of places all but tie, as far apart as one rounding."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        nn.init.uniform_(self.norm.weight, 0.5, 1.5)
        assert self.norm.running_mean is not None
        nn.init.normal_(self.norm.running_mean)
        self.score = nn.Conv2d(8, 1, 1)

    def forward(self, x: torch.Tensor, where: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = torch.sigmoid(self.norm(self.conv(x)))
        best = self.score(y).flatten(1).topk(12, dim=1).indices
        return best, where.gather(1, best.unsqueeze(-1).expand(-1, -1, 4))


def ties() -> tuple[torch.Tensor, torch.Tensor]:
    """Places of which each stands a second time, moved by a few roundings, and what stands there, which differs."""
    half = torch.randn(1, 3, 4, 8, generator=torch.Generator().manual_seed(1))
    x = torch.cat([half, half * (1 + 2.0**-22)], dim=3)
    return x, torch.randn(1, 64, 4, generator=torch.Generator().manual_seed(2))


def test_a_network_that_sorts_near_ties_says_so() -> None:
    for seed in range(20):
        torch.manual_seed(seed)
        result = fold(Detector().eval(), ties(), verify=True)
        assert result.report.certificate is not None
        best, found = result.report.certificate.outputs
        if best.order is not None:
            assert best.passed
            assert found.order is not None
            assert "came in another order" in str(result.report.certificate)
            return
    pytest.fail("no seed made a tie")


def test_an_onnx_network_that_sorts_near_ties_says_so() -> None:
    told = 0
    for seed in range(20):
        draw = np.random.default_rng(seed)
        weights = {
            "kernel": draw.standard_normal((8, 3, 1, 1)),
            "gamma": draw.uniform(0.5, 1.5, 8),
            "beta": draw.standard_normal(8),
            "mean": draw.standard_normal(8),
            "var": np.ones(8),
            "score": draw.standard_normal((1, 8, 1, 1)),
        }
        nodes = [
            helper.make_node("Conv", ["x", "kernel"], ["a"]),
            helper.make_node("BatchNormalization", ["a", "gamma", "beta", "mean", "var"], ["b"]),
            helper.make_node("Sigmoid", ["b"], ["c"]),
            helper.make_node("Conv", ["c", "score"], ["d"]),
            helper.make_node("Flatten", ["d"], ["e"]),
            helper.make_node("TopK", ["e", "k"], ["values", "best"], axis=1),
            helper.make_node("Gather", ["where", "best"], ["found"], axis=0),
        ]
        graph = helper.make_graph(
            nodes,
            "detector",
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (("x", [1, 3, 4, 16]), ("where", [64, 4]))],
            [
                helper.make_tensor_value_info("best", TensorProto.INT64, [1, 12]),
                helper.make_tensor_value_info("found", TensorProto.FLOAT, [1, 12, 4]),
            ],
            [
                *(numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()),
                numpy_helper.from_array(np.array([12], np.int64), "k"),
            ],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        x, where = ties()
        try:
            certificate = fold(model, {"x": x.numpy(), "where": where[0].numpy()}).report.certificate
        except VerificationError:
            continue  # the original's own runs did not happen to show these ties
        assert certificate is not None
        best, found = certificate.outputs
        told += best.order is not None and found.order is not None
    assert told
