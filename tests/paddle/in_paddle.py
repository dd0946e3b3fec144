# mypy: disable-error-code="import-not-found, misc, no-any-return"
"""Runs in an environment of its own, which holds PaddlePaddle and not torch: trains networks on digits and writes down what they are.

python in_paddle.py FOLDER reads FOLDER/digits.npz, and for each network writes the weights (.pdparams), the network (.onnx) and its answers
in eval to the first images (.npz). The layers are written from the formulas, under the names that PaddleDetection publishes.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import paddle2onnx
from paddle import nn
from paddle.nn import functional as F

STEPS = 6
BATCH = 16
SHOWN = 4


class ConvNorm(nn.Layer):
    """act(bn(conv(x)))."""

    def __init__(self, ch_in: int, ch_out: int, kernel: int, stride: int = 1, act: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2D(ch_in, ch_out, kernel, stride=stride, padding=kernel // 2, bias_attr=False)
        self.bn = nn.BatchNorm2D(ch_out)
        self.has_act = act

    def forward(self, x: Any) -> Any:
        y = self.bn(self.conv(x))
        return F.swish(y) if self.has_act else y


class RepVggBlock(nn.Layer):
    """swish(bn(conv3x3(x)) + alpha * bn(conv1x1(x)))."""

    def __init__(self, ch_in: int, ch_out: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(ch_in, ch_out, 3)
        self.conv2 = ConvNorm(ch_in, ch_out, 1)
        self.alpha = self.create_parameter([1], default_initializer=nn.initializer.Constant(1.0))

    def forward(self, x: Any) -> Any:
        return F.swish(self.conv1(x) + self.alpha * self.conv2(x))


class Residual(nn.Layer):
    """x + rep(conv(x))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(channels, channels, 3, act=True)
        self.conv2 = RepVggBlock(channels, channels)

    def forward(self, x: Any) -> Any:
        return x + self.conv2(self.conv1(x))


class Attention(nn.Layer):
    """x * hardsigmoid(fc(mean of x))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Conv2D(channels, channels, 1)

    def forward(self, x: Any) -> Any:
        return x * F.hardsigmoid(self.fc(x.mean([2, 3], keepdim=True)))


class Stage(nn.Layer):
    """conv3(attention([conv1(d), blocks(conv2(d))])) with d = down(x)."""

    def __init__(self, ch_in: int, ch_out: int, depth: int) -> None:
        super().__init__()
        middle = (ch_in + ch_out) // 2
        self.conv_down = ConvNorm(ch_in, middle, 3, stride=2, act=True)
        self.conv1 = ConvNorm(middle, middle // 2, 1, act=True)
        self.conv2 = ConvNorm(middle, middle // 2, 1, act=True)
        self.blocks = nn.Sequential(*[Residual(middle // 2) for _ in range(depth)])
        self.attn = Attention(middle)
        self.conv3 = ConvNorm(middle, ch_out, 1, act=True)

    def forward(self, x: Any) -> Any:
        d = self.conv_down(x)
        return self.conv3(self.attn(paddle.concat([self.conv1(d), self.blocks(self.conv2(d))], axis=1)))


class Backbone(nn.Layer):
    """CSPResNet of PP-YOLOE-S: the feature maps of the last three stages."""

    def __init__(self) -> None:
        super().__init__()
        widths = (32, 64, 128, 256, 512)
        self.stem = nn.Sequential(
            ("conv1", ConvNorm(3, 16, 3, stride=2, act=True)),
            ("conv2", ConvNorm(16, 16, 3, act=True)),
            ("conv3", ConvNorm(16, 32, 3, act=True)),
        )
        self.stages = nn.Sequential(*[Stage(a, b, n) for a, b, n in zip(widths, widths[1:], (1, 2, 2, 1), strict=False)])

    def forward(self, x: Any) -> Any:
        x = self.stem(x)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps[1:]


class Classifier(nn.Layer):
    """Logits of the means of the last feature map, through a linear layer whose matrix is square."""

    def __init__(self, features: Any, channels: int) -> None:
        super().__init__()
        self.features = features
        self.hidden = nn.Linear(channels, channels)
        self.logits = nn.Linear(channels, 10)

    def forward(self, x: Any) -> Any:
        maps = self.features(x)
        last = maps[-1] if isinstance(maps, list) else maps
        return self.logits(F.relu(self.hidden(last.mean([2, 3]))))


def train(network: Any, images: Any, labels: Any) -> list[str]:
    """A few steps; the names of the parameters that did not move."""
    before = {name: one.numpy() for name, one in network.named_parameters()}
    optimizer = paddle.optimizer.Momentum(0.01, parameters=network.parameters())
    network.train()
    for step in range(STEPS):
        batch = slice(step * BATCH, (step + 1) * BATCH)
        F.cross_entropy(network(paddle.to_tensor(images[batch])), paddle.to_tensor(labels[batch])).backward()
        optimizer.step()
        optimizer.clear_grad()
    network.eval()
    return [name for name, one in network.named_parameters() if np.array_equal(one.numpy(), before[name])]


def write(folder: Path, name: str, features: Any, channels: int, images: Any, labels: Any) -> None:
    """Train `features` under a classifier and write both down."""
    network = Classifier(features, channels)
    still = train(network, images, labels)
    x = images[-SHOWN:]
    with paddle.no_grad():
        maps = features(paddle.to_tensor(x))
        logits = network(paddle.to_tensor(x)).numpy()
    maps = [one.numpy() for one in (maps if isinstance(maps, list) else [maps])]
    np.savez(folder / f"{name}.npz", x=x, logits=logits, still=np.array(still), **{f"map{i}": one for i, one in enumerate(maps)})
    paddle.save(network.state_dict(), str(folder / f"{name}.pdparams"))
    for kind, sizes in (("free", (None, None)), ("fixed", x.shape[2:])):
        program = str(folder / f"{name}-{kind}")
        paddle.jit.save(features, program, [paddle.static.InputSpec([None, 3, *sizes], "float32", name="image")])
        # the default tool, Polygraphy, installs packages while it exports
        paddle2onnx.export(f"{program}.json", f"{program}.pdiparams", f"{program}.onnx", opset_version=17, optimize_tool="none")


def main() -> None:
    folder = Path(sys.argv[1])
    warnings.simplefilter("ignore")
    paddle.seed(7)
    digits = np.load(folder / "digits.npz")
    images, labels = digits["images"], digits["labels"]
    write(folder, "block", RepVggBlock(3, 12), 12, images[:, :, ::4, ::4].copy(), labels)
    write(folder, "backbone", Backbone(), 512, images, labels)

    block = RepVggBlock(3, 12)
    paddle.save(block.state_dict(), str(folder / "protocol2.pdparams"), protocol=2)
    paddle.save({"model": block.state_dict(), "epoch": 1}, str(folder / "nested.pdparams"))
    np.savez(folder / "protocol2.npz", **{name: one.numpy() for name, one in block.state_dict().items()})
    block.to(dtype="bfloat16")
    paddle.save(block.state_dict(), str(folder / "bfloat16.pdparams"))


main()
