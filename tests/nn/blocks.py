"""What every block must do, told once: a test file of a block inherits `BlockStories` and says how the block is built."""

from __future__ import annotations

import copy
import io
import pickle
from abc import ABC, abstractmethod
from typing import TypeVar

import pytest
import torch
from torch import Tensor, nn

import refold
from refold.nn._foldable import STAYS, FoldableBlock

EXACT = 1e-12
"""Of the output's scale: what two orders of summing in float64 may differ by at the sizes used here."""

Module = TypeVar("Module", bound=nn.Module)


def settle(module: Module, x: Tensor, steps: int = 3) -> Module:
    """Train a few steps on random targets, so that nothing sits at its initial value; the result is in eval mode."""
    module.train()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    generator = torch.Generator().manual_seed(7)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.02)
    for _ in range(steps):
        inputs = x + torch.randn(x.shape, generator=generator, dtype=x.dtype)
        y = module(inputs)
        target = torch.randn(y.shape, generator=generator, dtype=y.dtype)
        optimizer.zero_grad()
        (y - target).square().mean().backward()
        optimizer.step()
    buffers = {name for name, _ in module.named_buffers()}
    still = [name for name, tensor in module.state_dict().items() if name not in buffers and torch.equal(tensor, before[name])]
    assert not still, f"training did not move {still}"
    return module.eval()


def distance(one: Tensor, other: Tensor) -> float:
    """The largest difference, against the scale of the output."""
    assert one.shape == other.shape
    assert one.dtype == other.dtype
    return float(((one - other).abs().max() / other.abs().max()).detach())


def assert_folds_exactly(block: FoldableBlock, x: Tensor) -> None:
    """Train, convert, and compare both forms and the equivalent kernel."""
    settle(block, x)
    expected = block(x).detach()
    kernel, bias = (part.detach() for part in block.get_equivalent_kernel_bias())
    deployed = copy.deepcopy(block).convert_to_deploy()
    assert distance(deployed(x).detach(), expected) < EXACT
    assert torch.equal(conv_of(deployed).weight, kernel)
    assert torch.equal(bias_of(deployed), bias)
    larger = torch.nn.functional.pad(x, (2, 1) * (x.ndim - 2))  # another size, odd where x's is even
    assert distance(deployed(larger).detach(), block(larger).detach()) < EXACT


def conv_of(block: FoldableBlock) -> nn.modules.conv._ConvNd:
    """The one convolution of a block in deploy form."""
    assert block.conv is not None
    return block.conv


def bias_of(block: FoldableBlock) -> Tensor:
    """Its bias."""
    bias = conv_of(block).bias
    assert bias is not None
    return bias


class BlockStories(ABC):
    """Stories of one block; `size` is the shape of its input."""

    size: tuple[int, ...] = (2, 4, 8, 7)

    @abstractmethod
    def build(self, *, deploy: bool = False) -> FoldableBlock:
        """The block, with options that give it parameters of every kind."""

    def build_small(self) -> FoldableBlock:
        """A block of few parameters for numerical gradients."""
        return self.build()

    @pytest.fixture
    def x(self, seed: int) -> Tensor:
        return torch.randn(self.size, dtype=torch.float64)

    @pytest.fixture
    def trained(self, x: Tensor) -> FoldableBlock:
        return settle(self.build().double(), x)

    def test_both_forms_are_one_function(self, trained: FoldableBlock, x: Tensor) -> None:
        expected = trained(x)
        assert distance(trained.convert_to_deploy()(x), expected) < EXACT

    def test_a_deploy_form_with_one_wrong_weight_is_noticed(self, trained: FoldableBlock, x: Tensor) -> None:
        expected = trained(x)
        trained.convert_to_deploy()
        with torch.no_grad():
            conv_of(trained).weight.view(-1)[0] += 1e-6
        assert distance(trained(x), expected) > EXACT

    def test_converting_is_in_place_and_twice_is_once(self, trained: FoldableBlock) -> None:
        assert (trained.deployed, trained.convert_to_deploy().deployed) == (False, True)
        conv, state = trained.conv, {name: tensor.clone() for name, tensor in trained.state_dict().items()}
        assert trained.convert_to_deploy() is trained
        assert trained.conv is conv
        assert all(torch.equal(tensor, state[name]) for name, tensor in trained.state_dict().items())

    def test_nothing_of_the_branches_is_left(self, trained: FoldableBlock) -> None:
        trained.convert_to_deploy()
        assert {name.partition(".")[0] for name in trained.state_dict()} <= set(STAYS)
        assert sum(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in trained.modules()) == 0
        assert "deploy form" in repr(trained)

    def test_the_deploy_constructor_builds_what_converting_leaves(self, trained: FoldableBlock, x: Tensor) -> None:
        trained.convert_to_deploy()
        fresh = self.build(deploy=True).double().eval()
        assert fresh.deployed
        assert repr(fresh) == repr(trained)
        fresh.load_state_dict(trained.state_dict())
        assert torch.equal(fresh(x), trained(x))

    def test_eval_statistics_count_in_train_mode_too(self, trained: FoldableBlock, x: Tensor) -> None:
        expected = trained(x)
        statistics = {name: buffer.clone() for name, buffer in trained.named_buffers()}
        trained.train()
        trained.get_equivalent_kernel_bias()
        assert all(torch.equal(buffer, statistics[name]) for name, buffer in trained.named_buffers())
        trained.convert_to_deploy()
        assert all(module.training for module in trained.modules())
        assert distance(trained.eval()(x), expected) < EXACT
        assert not any(module.training for module in trained.modules())

    @pytest.mark.parametrize("form", ["train", "deploy"])
    def test_copies_and_pickles_compute_the_same(self, form: str, trained: FoldableBlock, x: Tensor) -> None:
        block = trained if form == "train" else trained.convert_to_deploy()
        expected = block(x)
        for twin in (copy.deepcopy(block), pickle.loads(pickle.dumps(block))):
            assert torch.equal(twin(x), expected)
            assert distance(twin.convert_to_deploy()(x), expected) < EXACT

    @pytest.mark.parametrize("form", ["train", "deploy"])
    def test_a_saved_state_loads(self, form: str, trained: FoldableBlock, x: Tensor) -> None:
        block = trained if form == "train" else trained.convert_to_deploy()
        file = io.BytesIO()
        torch.save(block.state_dict(), file)
        file.seek(0)
        other = self.build(deploy=form == "deploy").double().eval()
        other.load_state_dict(torch.load(file, weights_only=True))
        assert torch.equal(other(x), block(x))

    @pytest.mark.parametrize("strict", [True, False])
    def test_a_checkpoint_of_the_other_form_says_what_to_do(self, strict: bool, trained: FoldableBlock) -> None:
        network = nn.Sequential(self.build(deploy=True), self.build(deploy=True))
        train_form = {f"{i}.{name}": tensor for i in range(2) for name, tensor in trained.state_dict().items()}
        deploy_form = network.state_dict()
        with pytest.raises(
            RuntimeError,
            match=r"0: the checkpoint is of the train form and the model in deploy form; load it into a model built with deploy=F",
        ) as caught:
            network.load_state_dict(train_form, strict=strict)
        assert str(caught.value).count("the checkpoint is of") == 1
        with pytest.raises(
            RuntimeError, match=r"0: the checkpoint is of the deploy form and the model in train form; build the model with deploy=True, or"
        ):
            nn.Sequential(self.build(), self.build()).load_state_dict(deploy_form, strict=strict)

    def test_a_checkpoint_that_misses_a_block_is_reported_by_torch(self) -> None:
        with pytest.raises(RuntimeError, match=r"Missing key\(s\) in state_dict") as caught:
            self.build(deploy=True).load_state_dict({})
        assert "the checkpoint is of" not in str(caught.value)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
    def test_the_kernel_is_rounded_once_to_the_dtype_of_the_weights(self, dtype: torch.dtype, trained: FoldableBlock) -> None:
        narrow = copy.deepcopy(trained).to(dtype)
        exact = copy.deepcopy(narrow).double().get_equivalent_kernel_bias()
        narrow.convert_to_deploy()
        for ours, wide in zip((conv_of(narrow).weight, bias_of(narrow)), exact, strict=True):
            assert ours.dtype == dtype
            ulp = torch.finfo(dtype).eps * wide.abs() + torch.finfo(dtype).tiny
            assert bool(((ours.double() - wide).abs() <= ulp).all())

    def test_in_float32_the_deploy_form_is_as_near_the_truth_as_the_train_form(self, trained: FoldableBlock, x: Tensor) -> None:
        narrow = copy.deepcopy(trained).float()
        truth = copy.deepcopy(narrow).double()(x.float().double()).detach()
        off = float((narrow(x.float()).double() - truth).abs().max().detach())
        folded_off = float((narrow.convert_to_deploy()(x.float()).double() - truth).abs().max().detach())
        assert folded_off <= 4 * max(off, torch.finfo(torch.float32).eps / 2 * float(truth.abs().max()))

    def test_hooks_stay(self, trained: FoldableBlock, x: Tensor) -> None:
        seen: list[torch.Size] = []
        trained.register_forward_hook(lambda _module, _inputs, y: seen.append(y.shape))
        trained(x)
        trained.convert_to_deploy()(x)
        assert len(seen) == 2
        assert seen[0] == seen[1]

    def test_batch_norms_may_be_wider_than_the_kernels(self, trained: FoldableBlock) -> None:
        for module in trained.modules():
            if isinstance(module, nn.modules.conv._ConvNd):
                module.half()
        assert trained.convert_to_deploy().conv is not None
        assert {parameter.dtype for name, parameter in trained.named_parameters() if name.startswith("conv.")} == {torch.float16}

    @pytest.mark.parametrize("trains", [True, False])
    def test_what_trained_goes_on_training_and_what_was_frozen_stays_so(self, trains: bool, trained: FoldableBlock, x: Tensor) -> None:
        trained.requires_grad_(trains).convert_to_deploy()
        assert all(parameter.requires_grad is trains for parameter in trained.parameters())
        assert all(parameter.is_leaf for parameter in trained.parameters())
        if trains:
            settle(trained, x)

    def test_channels_last_stays(self, trained: FoldableBlock) -> None:
        layout = {4: torch.channels_last, 5: torch.channels_last_3d}.get(len(self.size))
        if layout is not None:
            trained.to(memory_format=layout)  # type: ignore[call-overload]
            assert conv_of(trained.convert_to_deploy()).weight.is_contiguous(memory_format=layout)

    def test_gradients_of_the_equivalent_kernel_are_right(self, seed: int) -> None:
        block = self.build_small().double()
        branches = [parameter for name, parameter in block.named_parameters() if name.partition(".")[0] not in STAYS]
        assert torch.autograd.gradcheck(lambda *_: block.get_equivalent_kernel_bias(), branches)

    def test_gradients_pass_through_the_kernel_as_through_the_block(self, trained: FoldableBlock, x: Tensor) -> None:
        names, branches = zip(*((n, p) for n, p in trained.named_parameters() if n.partition(".")[0] not in STAYS), strict=True)
        weights = torch.randn_like(trained.linear(x))
        expected = torch.autograd.grad((trained.linear(x) * weights).sum(), branches)
        kernel, bias = trained.get_equivalent_kernel_bias()
        conv = trained.shape.conv(bias=True, device="meta")
        y = torch.func.functional_call(conv, {"weight": kernel, "bias": bias}, (x,))
        found = torch.autograd.grad((y * weights).sum(), branches)
        scale = max(float(gradient.abs().max()) for gradient in expected)
        for name, ours, theirs in zip(names, found, expected, strict=True):
            assert float((ours - theirs).abs().max()) < EXACT * scale, name

    def test_numbers_that_are_not_finite_are_refused(self, trained: FoldableBlock) -> None:
        parameter = next(p for name, p in trained.named_parameters() if p.ndim > 2 and name.partition(".")[0] not in STAYS)
        with torch.no_grad():
            parameter.view(-1)[0] = float("nan")
        with pytest.raises(
            refold.RefoldError, match=r"numbers of the folded \w+ are not finite in torch\.float64; check the weights for NaN"
        ):
            trained.convert_to_deploy()
        assert not trained.deployed

    def test_the_fold_verb_leaves_as_many_convolutions_as_converting(self, trained: FoldableBlock, x: Tensor) -> None:
        result = refold.fold(trained, (x,))
        found = result.report.after
        by_hand = sum(isinstance(module, nn.modules.conv._ConvNd) for module in trained.convert_to_deploy().modules())
        assert (found.convolutions, found.batch_norms, found.additions) == (by_hand, 0, 0)
        assert distance(result.model(x), trained(x)) < EXACT
