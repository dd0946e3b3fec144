"""Train a small RepVGG on handwritten digits, fold it, prove it, export it, measure what was gained, and write a report of it all.

python examples/digits/demo.py [--output FOLDER] [--epochs N]
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Column, Table
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional as F

import refold
from refold.bench import bench
from refold.report import Report

SEED = 7
HELD_OUT = 450
BATCH = 64
ROWS = (
    ("operators", "operators", 1),
    ("convolutions", "convolutions", 1),
    ("batch norms", "batch_norms", 1),
    ("additions", "additions", 1),
    ("parameters", "parameters", 1),
    ("multiply-adds, one image", "multiply_adds", HELD_OUT),
)
"""What the table shows of the report, and what it is divided by: the report counts the arithmetic of all example inputs."""


@dataclass(frozen=True, slots=True)
class Digits:
    """Images (n, 1, 8, 8) from 0 to 1 and their labels (n,): those to train with, and those held out."""

    images: Tensor
    labels: Tensor
    held_out_images: Tensor
    held_out_labels: Tensor


@dataclass(frozen=True, slots=True)
class Form:
    """A form of the network in one engine: its logits of the held-out images, its accuracy there, and milliseconds for one image."""

    logits: Tensor
    accuracy: float
    latency: float

    @property
    def predictions(self) -> Tensor:
        """The digit that each image is taken for."""
        return self.logits.argmax(1)


def load() -> Digits:
    """scikit-learn's 1,797 handwritten digits, each digit held out in the same share."""
    raw = load_digits()
    parts = train_test_split(raw.images, raw.target, test_size=HELD_OUT, stratify=raw.target, random_state=SEED)
    images, held_out_images = (torch.tensor(part, dtype=torch.float32).unsqueeze(1) / 16 for part in parts[:2])
    labels, held_out_labels = (torch.tensor(part) for part in parts[2:])
    return Digits(images, labels, held_out_images, held_out_labels)


def train(digits: Digits, epochs: int, console: Console) -> nn.Module:
    """A RepVGG of six blocks, trained, in eval mode."""
    torch.manual_seed(SEED)
    network = refold.nn.RepVGG(num_classes=10, ch_in=1, depths=(2, 3), widths=(32, 64), strides=(1, 1, 2))
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=1e-2)
    batches = len(digits.images) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=6e-3, total_steps=epochs * batches)
    for _ in track(range(epochs), f"Training, {epochs} epochs", console=console):
        for batch in torch.randperm(len(digits.images))[: batches * BATCH].split(BATCH):
            loss = F.cross_entropy(network(digits.images[batch]), digits.labels[batch], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return network.eval()


def export(network: nn.Module, images: Tensor, path: Path) -> None:
    """Write the train form as it is, which is what ships where nobody folds."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shapes = ({0: torch.export.Dim.DYNAMIC},)
        torch.onnx.export(network, (images,), path, dynamo=True, verbose=False, external_data=False, dynamic_shapes=shapes)


def in_onnx_runtime(path: Path) -> Callable[[Tensor], Tensor]:
    """The model in a file as a function, on one thread as torch is."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (name,) = (one.name for one in session.get_inputs())
    return lambda images: torch.from_numpy(np.asarray(session.run(None, {name: images.numpy()})[0]))


@torch.inference_mode()
def measure(forms: Sequence[Callable[[Tensor], Tensor]], digits: Digits, rounds: int) -> list[Form]:
    """Run the forms in turn, so that a busy moment slows them all, and keep the median of each."""
    one = digits.held_out_images[:1]
    times: list[list[float]] = [[] for _ in forms]
    for form in forms:
        form(one)
    for _ in range(rounds):
        for taken, form in zip(times, forms, strict=True):
            start = time.perf_counter()
            form(one)
            taken.append(1000 * (time.perf_counter() - start))
    every = [form(digits.held_out_images) for form in forms]
    right = [float((logits.argmax(1) == digits.held_out_labels).double().mean()) for logits in every]
    return [Form(logits, share, statistics.median(taken)) for logits, share, taken in zip(every, right, times, strict=True)]


def table(report: Report, forms: dict[str, tuple[Form, Form]]) -> Table:
    """What the train form and the deploy form hold, take and give; `forms` has the two in each engine."""
    shown = Table(
        "",
        *(Column(heading, justify="right") for heading in ("train form", "deploy form", "train ÷ deploy")),
        title="The trained network and what refold made of it",
        caption="latency: median for one image on one thread, all four taken in turn in one run\n"
        "difference: of the class scores from the train form's, as a share of the largest score",
        caption_justify="left",
    )
    for label, name, per in ROWS:
        before, after = (getattr(census, name) // per for census in (report.before, report.after))
        shown.add_row(label, f"{before:,}", f"{after:,}", f"{before / after:.2f}" if after else "all gone")
    shown.add_section()
    for engine, (wide, narrow) in forms.items():
        ratio = f"{wide.latency / narrow.latency:.2f}"
        shown.add_row(f"latency, {engine}", f"{wide.latency:.3f} ms", f"{narrow.latency:.3f} ms", ratio)
    shown.add_section()
    for engine, (wide, narrow) in forms.items():
        shown.add_row(f"held-out accuracy, {engine}", f"{wide.accuracy:.2%}", f"{narrow.accuracy:.2%}")
    for engine, (wide, narrow) in forms.items():
        same = int((wide.predictions == narrow.predictions).sum())
        shown.add_row(f"same predictions, {engine}", "", f"{same} of {len(wide.logits)}")
    for engine, (wide, narrow) in forms.items():
        difference = float((wide.logits - narrow.logits).abs().max() / wide.logits.abs().max())
        shown.add_row(f"largest difference, {engine}", "", f"{difference:.1e}")
    return shown


def main(arguments: Sequence[str] | None = None) -> int:
    """Run everything; 0 where the deploy form predicts what the train form does, 3 where it does not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("out/digits"), metavar="FOLDER", help="where the models go (out/digits)")
    parser.add_argument("--epochs", type=int, default=12, metavar="N", help="passes over the training images (12)")
    parser.add_argument("--rounds", type=int, default=300, metavar="N", help="runs of each form that the latency is the median of (300)")
    options = parser.parse_args(arguments)
    console = Console(highlight=False, soft_wrap=True)
    torch.set_num_threads(1)
    options.output.mkdir(parents=True, exist_ok=True)
    names = ("train.onnx", "deploy.onnx", "deploy.pt2", "report.html")
    train_file, deploy_file, program_file, page = (options.output / name for name in names)

    digits = load()
    held_out = digits.held_out_images
    console.print(f"Data: {len(digits.images) + len(held_out):,} images of handwritten digits, {len(held_out)} of them held out")
    network = train(digits, options.epochs, console)

    with console.status("Folding") as status:
        result = refold.fold(network, (held_out,), progress=lambda stage: status.update(f"Folding: {stage}"))
        status.update("Writing")
        export(network, held_out, train_file)
        result.save(deploy_file)
        result.save(program_file)
    console.print(f"Folded: {len(result.report.folds)} blocks of parallel branches, each into one convolution")
    console.print(f"Proven: each block in float64, and the whole network on the {len(held_out)} held-out images")
    console.print(f"Written: {train_file}, {deploy_file}, {program_file}\n")

    with console.status("Measuring"):
        runs = measure([network, result.model, in_onnx_runtime(train_file), in_onnx_runtime(deploy_file)], digits, options.rounds)
    forms = {"torch": (runs[0], runs[1]), "ONNX Runtime": (runs[2], runs[3])}
    console.print(table(result.report, forms))
    if not all(torch.equal(one.predictions, runs[0].predictions) for one in runs):
        console.print("\nThe four do not predict the same digit for every held-out image.")
        return 3
    console.print(f"\nAll four predict the same digit for every one of the {len(held_out)} held-out images.")
    command = Path(sys.executable).with_name("refold")
    shown = command.relative_to(Path.cwd()) if command.is_relative_to(Path.cwd()) else command.name
    console.print(f"Next: {shown} explain {train_file}   (what folds in a model, and why the rest does not)")
    with console.status("Writing the report"):
        latency = bench({"train form": network, "folded": result.model}, (held_out[:1],), seconds=options.rounds / 300)
        result.save_report(page, name="A RepVGG for handwritten digits", output=deploy_file, latency=latency.to_dict())
    console.print(f"Report: {page}   (open it in a browser: the network before and after, the proof, the latencies)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
