"""Paths of a written module: none lies within another, kept names stay, and random trees of modules fold under any names."""

from __future__ import annotations

import random
from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import fx, nn

from refold import fold
from refold.dialects.aten._paths import Paths

PLAIN = ("a", "b", "folded", "a_1", "size_guard", "weight", "0", "x-y", "a b", "é")
SPECIAL = ("class", "None", "code", "graph", "meta", "graph_", 'q"', "back\\", "new\nline", "ﬁ", "fi", "recompile", "code_")
NEVER = ("forward", "training", "train", "parameters", "T_destination", "modules", "state_dict")
"""Names that every module has: torch lets no part have them, and a layer that is placed must not either."""


def trees(names: tuple[str, ...]) -> st.SearchStrategy[list[str]]:
    """Paths as a module has them: distinct, none within another."""
    paths = st.lists(st.lists(st.sampled_from(names), min_size=1, max_size=4).map(".".join), max_size=8, unique=True)
    return paths.map(lambda all_: [one for one in all_ if not any(other.startswith(f"{one}.") for other in all_)])


@given(trees((*PLAIN, *SPECIAL)), st.lists(st.lists(st.sampled_from((*PLAIN, *SPECIAL, *NEVER)), min_size=1, max_size=4).map(".".join)))
def test_no_path_lies_within_another_and_every_name_can_be_called(kept: list[str], wanted: list[str]) -> None:
    paths = Paths(kept)
    found = [*map(paths.kept, kept), *map(paths.place, wanted)]
    for one, other in combinations(found, 2):
        assert not f"{one}.".startswith(f"{other}.")
        assert not f"{other}.".startswith(f"{one}.")
    root, graph = nn.Module(), fx.Graph()
    for number, path in enumerate(found):
        *folders, last = path.split(".")
        place = root
        for folder in folders:
            if folder not in place._modules:
                place.add_module(folder, nn.Module())
            place = place.get_submodule(folder)
        place.register_buffer(last, torch.tensor(number))
    graph.output(tuple(map(graph.get_attr, found)))
    assert [int(one) for one in fx.GraphModule(root, graph)()] == list(range(len(found)))


@given(trees(PLAIN))
def test_what_is_kept_keeps_its_path(kept: list[str]) -> None:
    paths = Paths(kept)
    assert [paths.kept(name) for name in kept] == kept
    assert paths.renamed == {}


def test_a_name_that_stands_is_not_moved_by_one_that_cannot() -> None:
    paths = Paths(["class.x", "class_.x"])
    assert (paths.kept("class_.x"), paths.kept("class.x")) == ("class_.x", "class__1.x")
    assert paths.renamed == {"class": "class__1"}


def test_a_layer_goes_beside_what_is_kept_in_its_folder_and_beside_other_layers() -> None:
    paths = Paths(["conv.gamma", "p"])
    assert [paths.place("conv"), paths.place("conv"), paths.place("p"), paths.place("p.folded")] == [
        "conv.folded",
        "conv.folded_1",
        "p_folded",
        "p_folded_1",
    ]


class Scaled(nn.Module):
    """`x * g * h`: two numbers a channel that one folder holds."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.g = nn.Parameter(torch.rand(channels, 1, 1) + 0.5)
        self.h = nn.Parameter(torch.rand(channels, 1, 1) + 0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.g * self.h


class OwnKernel(nn.Module):
    """A convolution whose kernel is a parameter of the folder itself, between two scales."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = Scaled(3)
        self.kernel = nn.Parameter(torch.randn(4, 3, 3, 3))
        self.gain = nn.Parameter(torch.rand(4, 1, 1) + 0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.scale(x))
        return nn.functional.conv2d(y, self.kernel) * self.gain


def test_a_layer_may_be_named_like_the_folder_of_another() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.own = OwnKernel()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.own(x)
            return y

    model, x = Net().eval(), torch.randn(2, 3, 8, 8)
    result = fold(model, (x,))
    torch.testing.assert_close(result.model(x), model(x))
    assert len(result.report.folds) == 2


def test_a_part_that_torch_cannot_call_by_its_name_has_another_and_the_report_says_so() -> None:
    model = nn.ModuleDict({"class": nn.Conv2d(3, 4, 3)})
    model.forward = lambda x: model["class"](x).sin()
    result = fold(model, (torch.randn(1, 3, 8, 8),))
    assert set(result.model.state_dict()) == {"class_.weight", "class_.bias"}
    assert any(
        "`class` is `class_` in the folded network: torch cannot write code that calls it `class`" in one for one in result.report.notes
    )


class Tree(nn.Module):
    """Parts of any name, one behind another; some hold parameters of their own beside their parts."""

    def __init__(self, draw: random.Random, depth: int) -> None:
        super().__init__()
        self.order: list[str] = []
        for name in draw.sample([*PLAIN, *SPECIAL], draw.randint(1, 3)):
            if name == "weight":
                continue
            kind = draw.randrange(6 if depth else 5)
            parts: list[nn.Module] = [Scaled(4), nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), Kernel()]
            self.add_module(name, parts[kind] if kind < 5 else Tree(draw, depth - 1))
            self.order.append(name)
        self.own = nn.Parameter(torch.rand(4, 1, 1) + 0.5) if draw.random() < 0.6 else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for name in self.order:
            x = self._modules[name](x)  # type: ignore[misc]
        return x if self.own is None else x * self.own * self.own.abs()


class Kernel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(4, 4, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.conv2d(x, self.kernel)


@pytest.mark.parametrize("seed", range(20))
def test_random_trees_of_modules_fold(seed: int) -> None:
    torch.manual_seed(seed)
    model, x = Tree(random.Random(seed), 3).eval(), torch.randn(2, 4, 6, 6)
    result = fold(model, (x,))
    torch.testing.assert_close(result.model(x), model(x))
    names = set(result.model.state_dict())
    assert not any(other.startswith(f"{one}.") for one in names for other in names)
