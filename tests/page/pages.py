"""Networks for the page's tests, and what a page holds, read with the standard library's parser."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnx import ModelProto, NodeProto, helper
from torch import Tensor, nn

from refold.nn import RepMixer, RepVggBlock
from tests.dialects.onnx.models import model_of, random

VOID = frozenset({"meta", "link", "br", "img", "input"})


class Blocks(nn.Module):
    """A few blocks that fold, two pairs of convolutions that do not, and an end that is not linear."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = RepVggBlock(3, 8, alpha=True, stride=2)
        self.body = nn.Sequential(RepVggBlock(8, 8, identity=True), RepVggBlock(8, 8, alpha=True, identity=True))
        self.mix = RepMixer(8)
        self.down, self.up = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 16, 3, padding=1)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(self.down(self.mix(self.body(self.stem(x)))))
        logits: Tensor = self.head(torch.relu(x).mean((2, 3)))
        return logits


def blocks() -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The network and its example."""
    torch.manual_seed(0)
    network = Blocks().eval()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.uniform_(layer.bias, -0.1, 0.1)
    return network, (torch.randn(1, 3, 32, 32),)


def plain() -> tuple[nn.Module, tuple[Tensor, ...]]:
    """A network in which nothing folds."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval(), (torch.randn(1, 3, 8, 8),)


SCRIPT = "</script><script>alert('script')</script>"
IMAGE = "<img src=x onerror=\"alert('image')\">"
QUOTES = "\"'><b onclick=alert(1)>&lt;{{7*7}}"
HOSTILE = (SCRIPT, IMAGE, QUOTES)


def hostile() -> ModelProto:
    """A model whose values, nodes, weights, inputs and outputs are named by somebody who wants to run a script in the page."""
    constants: dict[str, Any] = {f"{IMAGE}.weight": random(4, 4, 3, 3), f"{SCRIPT}.weight": random(4, 4, 1, 1), "shift": np.float32(2)}
    nodes = [
        node("Conv", ["x", f"{IMAGE}.weight"], IMAGE, pads=[1, 1, 1, 1]),
        node("Conv", ["x", f"{SCRIPT}.weight"], SCRIPT),
        node("Add", [IMAGE, SCRIPT], QUOTES),
        node("Relu", [QUOTES], f"{SCRIPT}{QUOTES}"),
        node("Div", [f"{SCRIPT}{QUOTES}", "shift"], f"{IMAGE}{QUOTES}"),
    ]
    model = model_of(nodes, constants, outputs=(f"{IMAGE}{QUOTES}",))
    for one in model.graph.node:
        one.input[:] = [f"{QUOTES}{SCRIPT}" if name == "x" else name for name in one.input]
    model.graph.input[0].name = f"{QUOTES}{SCRIPT}"
    return model


def node(kind: str, inputs: list[str], output: str, **attributes: Any) -> NodeProto:
    """A node named as its output."""
    return helper.make_node(kind, inputs, [output], name=output, **attributes)


@dataclass
class Page(HTMLParser):
    """The elements of a page with their attributes, the text in them, and what is not nested as it should be."""

    elements: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    scripts: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    _open: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)

    @classmethod
    def of(cls, path: Path) -> Page:
        """The page in a file."""
        page = cls()
        page.feed(path.read_text(encoding="utf-8"))
        page.close()
        page.faults += [f"{tag} is never closed" for tag in page._open]
        return page

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open.pop() != tag:
            self.faults.append(f"{tag} closes what is not open")

    def handle_data(self, data: str) -> None:
        (self.scripts if "script" in self._open else self.texts).append(data)

    def all(self, tag: str) -> list[dict[str, str]]:
        """The attributes of the elements with this tag."""
        return [attributes for name, attributes in self.elements if name == tag]

    def classed(self, name: str) -> list[dict[str, str]]:
        """The attributes of the elements of this class."""
        return [attributes for _, attributes in self.elements if name in attributes.get("class", "").split()]

    @property
    def text(self) -> str:
        """All text but the scripts, with single spaces."""
        return " ".join(" ".join(self.texts).split())
