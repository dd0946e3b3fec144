"""The neutral view lists what it holds, and what it says reads as sentences."""

from __future__ import annotations

import numpy as np

from refold.algebra import Leaf, convolution
from refold.graph import Graph, Linear, Opaque, Refusal, shared_folder
from refold.maps import Scalar, Value

ROOT = Value("x", (None, 4, None, 7), (2, 4, 6, 7))
IDENTITY = Scalar()


def test_a_graph_lists_its_linear_nodes() -> None:
    linear = Linear("y", "neg", {"x": Scalar(-1.0)})
    graph = Graph({"x": ROOT}, {"y": linear, "z": Opaque("z", "relu", ("y",))}, {"z"})
    assert list(graph.linear()) == [linear]


def test_a_refusal_is_a_sentence() -> None:
    refusal = Refusal("y", "conv2d → add", "sum", "they differ", "make them alike")
    assert str(refusal) == "y (conv2d → add): sum: they differ; make them alike"


def test_the_longest_sum_is_that_of_the_widest_kernel() -> None:
    assert Linear("y", "add", {"x": IDENTITY}).longest_sum == 1
    narrow, wide = (Leaf(convolution(np.ones((2, 3, taps)))) for taps in (1, 5))
    assert Linear("y", "add", {"x": narrow, "z": wide}).longest_sum == 15


def test_a_node_is_one_operator_without_weights_unless_it_says_otherwise() -> None:
    node = Linear("y", "neg", {"x": Scalar(-1.0)})
    assert (node.operators, node.weights, node.sources) == (1, 0, ())


def test_the_folder_of_parameters_is_what_all_of_them_share() -> None:
    assert shared_folder(["a.b.weight", "a.c.weight"]) == "a"
    assert shared_folder(["a.b.weight", "c.b.weight"]) == ""
    assert shared_folder(["a.b.c.weight"]) == "a.b.c"
    assert shared_folder(["weight"]) == shared_folder([]) == ""
