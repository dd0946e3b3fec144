"""Folding ONNX files: time, memory and latency against the optimizers there are, as ratios.

Builds a RepVGG-B1 (219 MB) in training form and in deploy form, and a model of 3 GB with external data, in a folder of its own that is
removed at the end (in REFOLD_BENCH_DIR, if that is set; 12 GB). Every figure is the best of a few runs; each tool goes from file to file.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper
from torch import nn

import refold
from benchmarks._timing import interleaved
from refold.verification import certify

RUNS = 3


class Branches(nn.Module):
    """relu(B K3 x + B K1 x + B x), the identity where it fits (Ding et al. 2021), or one convolution in deploy form."""

    def __init__(self, inputs: int, outputs: int, stride: int, *, deploy: bool) -> None:
        super().__init__()
        self.deploy = deploy
        if deploy:
            self.conv = nn.Conv2d(inputs, outputs, 3, stride, 1)
            return
        self.three = nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs))
        self.one = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        self.same = nn.BatchNorm2d(inputs) if inputs == outputs and stride == 1 else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.deploy:
            return torch.relu(self.conv(x))
        total = self.three(x) + self.one(x)
        return torch.relu(total if self.same is None else total + self.same(x))


def rep_vgg(blocks: tuple[int, ...], widths: tuple[int, ...], *, deploy: bool) -> nn.Module:
    """RepVGG: a stem of stride 2, then stages of blocks, pooling and a linear layer."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    before = 3
    for number, width in zip(blocks, widths, strict=True):
        layers += [Branches(before if block == 0 else width, width, 2 if block == 0 else 1, deploy=deploy) for block in range(number)]
        before = width
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 1000))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None  # noqa: PT018
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.2, 0.6)
    return model.eval()


def export(model: nn.Module, path: Path) -> None:
    """The model as torch exports it, without folding anything."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model, (torch.zeros(1, 3, 224, 224),), str(path), dynamo=False, opset_version=17, do_constant_folding=False,
            training=torch.onnx.TrainingMode.PRESERVE, input_names=["x"], output_names=["y"],
        )  # fmt: skip


def build_external(path: Path, gigabytes: float) -> None:
    """Blocks of three branches of 1536 channels, repeated, with weights beside the model; written without holding them."""
    channels, block = 1536, 1536 * 1536 * 10 * 4
    random = np.random.default_rng(0)
    nodes, tensors, x, offset = [], [], "x", 0
    with (path.parent / f"{path.name}.data").open("wb") as data:
        for number in range(int(gigabytes * 1e9 / block)):
            for name, taps in (("three", 3), ("one", 1)):
                weight = (random.standard_normal((channels, channels, taps, taps), dtype=np.float32) / channels).tobytes()
                tensor = TensorProto(name=f"b{number}.{name}", data_type=TensorProto.FLOAT, dims=[channels, channels, taps, taps])
                tensor.data_location = TensorProto.EXTERNAL
                entries = {"location": f"{path.name}.data", "offset": str(offset), "length": str(len(weight))}
                for key, value in entries.items():
                    tensor.external_data.append(onnx.StringStringEntryProto(key=key, value=value))
                data.write(weight)
                offset += len(weight)
                tensors.append(tensor)
            nodes += [
                helper.make_node("Conv", [x, f"b{number}.three"], [f"b{number}.y3"], pads=[1, 1, 1, 1]),
                helper.make_node("Conv", [x, f"b{number}.one"], [f"b{number}.y1"]),
                helper.make_node("Add", [f"b{number}.y3", f"b{number}.y1"], [f"b{number}.sum"]),
                helper.make_node("Relu", [f"b{number}.sum"], [f"b{number}.out"]),
            ]
            x = f"b{number}.out"
    shape = [1, channels, 8, 8]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", x)]
    graph = helper.make_graph(nodes, "large", ends[:1], ends[1:], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def fold(source: Path, target: Path) -> None:
    """What is measured: verification off."""
    refold.fold(source, verify=False).save(target)


def fold_and_verify(source: Path, target: Path) -> None:
    """Each region proven, and the whole model run in ONNX Runtime."""
    refold.fold(source).save(target)


def fold_with_region_proof(source: Path, target: Path) -> None:
    """The same, each region proven; the whole model is not run."""
    result = refold.fold(source, verify=False)
    certificate = certify(result.deployed.region_evidence(0), ())
    assert certificate.passed
    result.save(target)


def by_onnxsim(source: Path, target: Path) -> None:
    """onnxsim, file to file."""
    import onnxsim

    onnx.save(onnxsim.simplify(onnx.load(source))[0], target)


def by_onnxslim(source: Path, target: Path) -> None:
    """onnxslim, file to file."""
    import onnxslim

    onnx.save(onnxslim.slim(onnx.load(source)), target)


def by_onnxscript(source: Path, target: Path) -> None:
    """onnxscript's optimizer, file to file."""
    import onnx_ir
    from onnxscript import optimizer

    model = onnx_ir.load(source)
    optimizer.optimize(model)
    onnx_ir.save(model, target)


def by_onnxruntime(source: Path, target: Path) -> None:
    """ONNX Runtime's offline optimization at its default level, file to file."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(target)
    options.log_severity_level = 4
    onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])


def by_onnxruntime_extended(source: Path, target: Path) -> None:
    """The same without what holds for this machine's processor alone."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(target)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.log_severity_level = 4
    onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])


def timed(tools: Sequence[Callable[[Path, Path], None]], source: Path, folder: Path) -> dict[str, float]:
    """Seconds of each tool's best run, taken in turns so that what else the machine does falls on all alike."""
    best = dict.fromkeys((tool.__name__ for tool in tools), float("inf"))
    for _ in range(RUNS):
        for tool in tools:
            target = folder / f"{tool.__name__}.onnx"
            target.unlink(missing_ok=True)
            start = time.perf_counter()
            tool(source, target)
            best[tool.__name__] = min(best[tool.__name__], time.perf_counter() - start)
    return best


def counts(path: Path) -> str:
    """Convolutions, additions and batch norms of a file."""
    kinds = Counter(node.op_type for node in onnx.load(path, load_external_data=False).graph.node)
    return f"{kinds['Conv'] + kinds['FusedConv']} Conv, {kinds['Add']} Add, {kinds['BatchNormalization']} BN"


PEAK = """
import sys, threading
def status(key):
    for line in open("/proc/self/status"):
        if line.startswith(key):
            return int(line.split()[1]) * 1024
import refold
peak = [0, 0]
done = threading.Event()
def watch():
    while not done.wait(0.002):
        peak[0] = max(peak[0], status("RssAnon")); peak[1] = max(peak[1], status("VmRSS"))
thread = threading.Thread(target=watch); thread.start()
try:
    refold.fold(sys.argv[1], verify=False).save(sys.argv[2])
finally:
    done.set(); thread.join()
print(*peak)
"""


def peaks(source: Path, target: Path) -> tuple[int, int]:
    """Anonymous and whole resident memory at its peak, in a process of its own (Linux)."""
    printed = subprocess.run([sys.executable, "-c", PEAK, str(source), str(target)], check=True, capture_output=True, text=True).stdout
    anonymous, whole = map(int, printed.split())
    return anonymous, whole


def with_weights_of(source: Path, target: Path, path: Path) -> None:
    """Write the network `target` with the weights of `source`, convolution by convolution.

    Fresh weights without batch norm let activations die away to subnormal numbers, which a processor multiplies more slowly.
    """
    given, model = onnx.load(source), onnx.load(target)
    tensors = {tensor.name: tensor for tensor in given.graph.initializer}
    own = {tensor.name: tensor for tensor in model.graph.initializer}
    pairs = ([node for node in one.graph.node if node.op_type in ("Conv", "Gemm")] for one in (given, model))
    for theirs, mine in zip(*pairs, strict=True):
        for name, other in zip(mine.input[1:], theirs.input[1:], strict=True):
            assert list(own[name].dims) == list(tensors[other].dims)
            own[name].CopyFrom(tensors[other])
            own[name].name = name
    onnx.save(model, path)


def latencies(one: Path, other: Path) -> tuple[float, float]:
    """Median milliseconds of each in ONNX Runtime, taken in turns; on one thread, since those of two sessions are in each other's way."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    x = np.random.default_rng(0).standard_normal((1, 3, 224, 224), dtype=np.float32)
    sessions = [onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]) for path in (one, other)]
    runs = [lambda session=session: session.run(None, {session.get_inputs()[0].name: x}) for session in sessions]
    first, second = interleaved(runs, 15)
    return 1000 * first, 1000 * second


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("REFOLD_BENCH_DIR")) as name:
        folder = Path(name)
        train, deploy = folder / "train.onnx", folder / "deploy.onnx"
        shape = ((1, 4, 6, 16, 1), (64, 128, 256, 512, 2048))
        export(rep_vgg(*shape, deploy=False), train)
        export(rep_vgg(*shape, deploy=True), deploy)
        size = train.stat().st_size
        print(f"RepVGG-B1 in training form, {size / 1e6:.0f} MB: {counts(train)}")
        others = (by_onnxsim, by_onnxslim, by_onnxscript, by_onnxruntime, by_onnxruntime_extended)
        times = timed((*others, fold, fold_with_region_proof, fold_and_verify), train, folder)
        fastest = min(times[tool.__name__] for tool in others)
        bars = {"fold": " (bar 0.8)", "fold_with_region_proof": " (bar 1.7)"}
        for name, seconds in times.items():
            ratio = f"   {seconds / fastest:.2f} of the fastest{bars.get(name, '')}" if name.startswith("fold") else ""
            print(f"  {name:23} {seconds:6.2f} s   {counts(folder / f'{name}.onnx')}{ratio}")
        target = folder / "fold.onnx"
        with_weights_of(target, deploy, folder / "by_hand.onnx")
        ours, theirs = latencies(target, folder / "by_hand.onnx")
        print(f"latency against deploy form: {ours:.1f} / {theirs:.1f} ms = {ours / theirs:.3f} (bar 1.03)")
        print(f"peak memory against file size: {peaks(train, folder / 'out.onnx')[1] / size:.2f} (bar 2.5)")
        large = folder / "large.onnx"
        build_external(large, 3.0)
        anonymous, whole = peaks(large, folder / "large_out.onnx")
        print(f"3 GB with external data: {anonymous / 1e9:.2f} GB of anonymous memory (bar 1), {whole / 1e9:.2f} GB with mapped files")


if __name__ == "__main__":
    main()
