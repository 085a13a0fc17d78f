"""The ops of the blocked layout against torch, in float32 and float64."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from rewire.engine import library
from rewire.engine.layout_ops import block, blocks_of, unblock
from rewire.engine.norm_ops import batch_norm_eval, batch_norm_train
from rewire.engine.pooling_ops import average_pool, max_pool

pytestmark = pytest.mark.skipif(bool(library.why_not()), reason="no kernels here")

ROWS = st.integers(1, 40)
SIDES = st.integers(1, 9)
CHANNELS = st.integers(1, 35)


def blocked_by_torch(x: Tensor) -> Tensor:
    rows, channels, height, width = x.shape
    whole = x.new_zeros(16 * blocks_of(rows), channels, height, width)
    whole[:rows] = x
    return whole.reshape(-1, 16, channels, height, width).permute(0, 2, 3, 4, 1).contiguous()


def tail(x: Tensor, rows: int) -> Tensor:
    """The lanes past the last image."""
    return x.permute(0, 4, 1, 2, 3).flatten(0, 1)[rows:]


def distance(found: Tensor, exact: Tensor) -> float:
    """The largest error, over the largest number of the exact result (or over 1 where that is smaller)."""
    scale = max(1.0, float(exact.detach().abs().max()))
    return float((found.detach().double() - exact.detach().double()).abs().max()) / scale


def strided(x: Tensor, order: str) -> Tensor:
    """The same numbers in other strides."""
    if order == "channels last":
        return x.contiguous(memory_format=torch.channels_last)
    if order == "of a larger one":
        return F.pad(x, (1, 2, 1, 0))[:, :, 1:, 1 : 1 + x.shape[3]]
    if order == "every second":
        return x.repeat_interleave(2, 0)[::2]
    if order == "turned":
        return x.transpose(2, 3).contiguous().transpose(2, 3)
    return x


ORDERS = st.sampled_from(["contiguous", "channels last", "of a larger one", "every second", "turned"])


@given(ROWS, CHANNELS, SIDES, SIDES, ORDERS)
def test_block_and_back(rows: int, channels: int, height: int, width: int, order: str) -> None:
    x = strided(torch.randn(rows, channels, height, width), order)
    blocked = block(x)
    assert torch.equal(blocked, blocked_by_torch(x))
    for channels_last in (False, True):
        back = unblock(blocked, rows, channels_last)
        assert torch.equal(back, x)
        form = torch.channels_last if channels_last else torch.contiguous_format
        assert back.is_contiguous(memory_format=form)


@given(ROWS, st.integers(1, 50))
def test_rows_without_places(rows: int, channels: int) -> None:
    x = torch.randn(rows, channels)
    for strides in (x, x.t().contiguous().t(), torch.cat([x, x], 1)[:, :channels]):
        assert torch.equal(block(strides), blocked_by_torch(x[:, :, None, None]))


def test_expanded_and_empty_tensors() -> None:
    x = torch.randn(3, 1, 1, 1).expand(3, 5, 4, 2)
    assert torch.equal(block(x), blocked_by_torch(x))
    assert block(torch.randn(0, 3, 2, 2)).shape == (0, 3, 2, 2, 16)
    assert unblock(block(torch.randn(0, 3, 2, 2)), 0).shape == (0, 3, 2, 2)


@pytest.mark.parametrize("order", ["contiguous", "channels last"])
def test_gradients_of_block_and_back(order: str) -> None:
    x = strided(torch.randn(5, 3, 4, 4), order).requires_grad_()
    weight = torch.randn(1, 3, 4, 4, 16)
    blocked = block(x)
    blocked.retain_grad()
    (unblock(blocked * weight, 5) ** 2).sum().backward()
    expected = 2 * x.detach() * weight.permute(0, 4, 1, 2, 3)[0, :5] ** 2
    assert x.grad is not None
    assert blocked.grad is not None
    assert distance(x.grad, expected) < 1e-6
    assert x.grad.stride() == x.stride()
    assert not tail(blocked.grad, 5).any(), "a gradient is 0 past the last image"


@st.composite
def norms(draw: st.DrawFn) -> tuple[tuple[int, int, int, int], dict[str, bool]]:
    shape = (draw(ROWS), draw(st.integers(1, 20)), draw(SIDES), draw(SIDES))
    names = ("training", "relu", "residual", "affine")
    return shape, {name: draw(st.booleans()) for name in names}


@given(norms())
@settings(max_examples=150)
def test_batch_norm(drawn: tuple[tuple[int, int, int, int], dict[str, bool]]) -> None:
    shape, having = drawn
    check_batch_norm(shape, **having)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("shape", [(33, 3, 20, 20), (300, 5, 1, 1), (16, 2, 40, 40)])
def test_batch_norm_of_many_chunks(shape: tuple[int, int, int, int], residual: bool, relu: bool) -> None:
    check_batch_norm(shape, training=True, relu=relu, residual=residual, affine=True)


def check_batch_norm(
    shape: tuple[int, int, int, int], training: bool, relu: bool, residual: bool, affine: bool
) -> None:
    rows, channels, *places = shape
    count = rows * places[0] * places[1]
    if training and count == 1:
        return
    x = torch.randn(shape) * 2 + torch.randn(channels, 1, 1)
    inputs = {"x": x, "residual": torch.randn(shape)}
    inputs |= {"gamma": torch.randn(channels), "beta": torch.randn(channels)} if affine else {}
    inputs = {name: tensor for name, tensor in inputs.items() if residual or name != "residual"}
    mean, variance = torch.randn(channels), torch.rand(channels) + 0.5
    eps = 1e-3  # with few numbers of nearly one value, 1 / sqrt(var + eps) would blow every rounding up

    own = {name: tensor.clone().requires_grad_() for name, tensor in inputs.items()}
    blocked_x = block(own["x"])
    blocked_x.retain_grad()
    blocked_residual = block(own["residual"]) if residual else None
    if training:
        y, found_mean, _, found_variance = batch_norm_train(
            blocked_x, own.get("gamma"), own.get("beta"), blocked_residual, rows, relu, eps
        )
        assert distance(found_mean, x.double().mean((0, 2, 3))) < 1e-6
        assert distance(found_variance, x.double().var((0, 2, 3))) < 1e-6
    else:
        y = batch_norm_eval(
            blocked_x, mean, variance, own.get("gamma"), own.get("beta"), blocked_residual, rows, relu, eps
        )
    assert not tail(y, rows).any()

    exact = {name: tensor.double().requires_grad_() for name, tensor in inputs.items()}
    running = (None, None) if training else (mean.double(), variance.double())
    z = F.batch_norm(exact["x"], *running, exact.get("gamma"), exact.get("beta"), training, 0.1, eps)
    z = z + exact["residual"] if residual else z
    if relu:
        z = torch.where(unblock(y, rows) > 0, z, 0)  # at a place within rounding of 0, the same side for both
    assert distance(unblock(y, rows), z) < 1e-5

    gradient = torch.randn(shape)
    unblock(y, rows).backward(gradient)
    z.backward(gradient.double())
    for name, tensor in own.items():
        assert tensor.grad is not None
        assert exact[name].grad is not None
        assert distance(tensor.grad, exact[name].grad) < 2e-5, name
    assert blocked_x.grad is not None
    assert not tail(blocked_x.grad, rows).any()


@pytest.mark.parametrize("mean", [1e3, -1e4])
def test_variance_far_from_zero_is_as_exact_as_two_passes(mean: float) -> None:
    x = torch.randn(64, 4, 16, 16) + mean
    x[:32] += 5  # one half of the batch unlike the other
    *_, variance = batch_norm_train(block(x), None, None, None, 64, False, 1e-5)
    exact = x.double().var((0, 2, 3))
    assert ((variance.double() - exact).abs() / exact).max() < 1e-6


def test_what_is_past_the_last_image_has_no_part_in_the_statistics() -> None:
    x = block(torch.randn(5, 3, 4, 4))
    clean = batch_norm_train(x, None, None, None, 5, True, 1e-5)
    x[..., 5:] = 1e30
    for found, expected in zip(batch_norm_train(x, None, None, None, 5, True, 1e-5), clean, strict=True):
        assert torch.equal(found, expected)


def test_a_nan_stays_in_its_channel() -> None:
    x = torch.randn(20, 3, 4, 4)
    x[7, 1, 2, 2] = torch.nan
    y, mean, _, variance = batch_norm_train(block(x), None, None, None, 20, True, 1e-5)
    for found in (unblock(y, 20).transpose(0, 1).flatten(1), mean[:, None], variance[:, None]):
        assert found.isnan().all(1).tolist() == [False, True, False]


@st.composite
def windows(draw: st.DrawFn) -> tuple[tuple[int, int, int, int], tuple[tuple[int, int], ...]]:
    kernel = (draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    stride = (draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    padding = (draw(st.integers(0, kernel[0] // 2)), draw(st.integers(0, kernel[1] // 2)))
    sides = [draw(st.integers(max(1, size - 2 * pad), 9)) for size, pad in zip(kernel, padding, strict=True)]
    return (draw(ROWS), draw(st.integers(1, 5)), sides[0], sides[1]), (kernel, stride, padding)


@given(windows())
def test_max_pooling(drawn: tuple[tuple[int, int, int, int], tuple[tuple[int, int], ...]]) -> None:
    shape, (kernel, stride, padding) = drawn
    x = torch.randint(-2, 3, shape).float()  # many equal ones
    own, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    y = unblock(max_pool(block(own), kernel, stride, padding), shape[0])
    z = F.max_pool2d(other, kernel, stride, padding)
    assert torch.equal(y, z)
    gradient = torch.randint(-8, 9, z.shape).float()
    y.backward(gradient)
    z.backward(gradient)
    assert own.grad is not None
    assert other.grad is not None
    assert torch.equal(own.grad, other.grad)


@given(windows(), st.booleans())
def test_average_pooling(drawn: tuple[tuple[int, int, int, int], tuple[tuple[int, int], ...]], include: bool) -> None:
    shape, (kernel, stride, padding) = drawn
    own, other = (torch.randn(shape, generator=torch.Generator().manual_seed(1)).requires_grad_() for _ in range(2))
    y = unblock(average_pool(block(own), kernel, stride, padding, include), shape[0])
    z = F.avg_pool2d(other, kernel, stride, padding, count_include_pad=include)
    assert distance(y, z) < 1e-6
    gradient = torch.randn(z.shape)
    y.backward(gradient)
    z.backward(gradient)
    assert own.grad is not None
    assert other.grad is not None
    assert distance(own.grad, other.grad) < 1e-6


def test_max_pooling_of_nan_and_infinity_is_torchs() -> None:
    x = torch.randn(3, 2, 6, 6)
    x[0, 0, 0, 0], x[1, 1, 3, 3], x[2, 0, 4:, 4:] = torch.nan, torch.inf, -torch.inf
    own, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    y, z = unblock(max_pool(block(own), (2, 2), (2, 2), (0, 0)), 3), F.max_pool2d(other, 2)
    assert torch.equal(y.nan_to_num(7), z.nan_to_num(7))
    y.backward(torch.ones_like(z))
    z.backward(torch.ones_like(z))
    assert own.grad is not None
    assert other.grad is not None
    assert torch.equal(own.grad, other.grad)


OPCHECKS = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")


def cases() -> dict[str, tuple[str, tuple[object, ...]]]:
    def leaf(*shape: int) -> Tensor:
        return torch.randn(*shape).requires_grad_()

    x, residual = block(torch.randn(5, 3, 4, 4)).requires_grad_(), block(torch.randn(5, 3, 4, 4)).requires_grad_()
    mean, variance, gamma, beta = torch.zeros(3), torch.ones(3), leaf(3), leaf(3)
    window = (2, 2, 2, 2, 0, 0)
    index = torch.zeros(1, 3, 2, 2, 16, dtype=torch.uint8)
    pooled = torch.randn(1, 3, 2, 2, 16)
    detached = x.detach()
    norm = (detached, detached, None, mean, variance, gamma.detach(), None, 5, True, True, [True, False])
    return {
        "block": ("block", (leaf(5, 3, 4, 4),)),
        "block rows": ("block", (leaf(5, 3),)),
        "unblock": ("unblock", (x, 5, False)),
        "train": ("batch_norm_train", (x, gamma, beta, None, 5, True, 1e-5)),
        "train with residual": ("batch_norm_train", (x, gamma, beta, residual, 5, True, 1e-5)),
        "train alone": ("batch_norm_train", (x, None, None, None, 5, False, 1e-5)),
        "eval": ("batch_norm_eval", (x, mean, variance, gamma, beta, residual, 5, True, 1e-5)),
        "norm backward": ("batch_norm_backward", norm),
        "max pool": ("max_pool", (x, window, True)),
        "max pool backward": ("max_pool_backward", (pooled, index, 4, 4, window)),
        "average pool": ("average_pool", (x, window, True)),
        "average pool backward": ("average_pool_backward", (pooled, 4, 4, window, True)),
    }


@pytest.mark.parametrize("name", cases() if not library.why_not() else [])
def test_opcheck(name: str) -> None:
    op, arguments = cases()[name]
    torch.library.opcheck(getattr(torch.ops.rewire, op).default, arguments, test_utils=OPCHECKS[:3])


@pytest.mark.slow  # Dynamo and AOTAutograd take seconds to load
@pytest.mark.parametrize("name", cases() if not library.why_not() else [])
def test_opcheck_compiled(name: str) -> None:
    op, arguments = cases()[name]
    torch.library.opcheck(getattr(torch.ops.rewire, op).default, arguments, test_utils=OPCHECKS[3])


class Listening(TorchDispatchMode):
    """Keeps the names of the ops that pass by."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: object, types: object, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(str(func))
        return func(*args, **(kwargs or {}))  # type: ignore[operator]


def test_ops_pass_the_dispatcher_where_somebody_listens() -> None:
    results = []
    for context in (contextlib.nullcontext(), Listening()):
        x = torch.linspace(-3, 5, 5 * 3 * 4 * 4).reshape(5, 3, 4, 4).requires_grad_()
        with context:
            blocked = block(x)
            y = batch_norm_train(blocked, None, None, blocked, 5, True, 1e-5)[0]
            y = batch_norm_eval(y, torch.zeros(3), torch.ones(3), None, None, None, 5, True, 1e-5)
            y = average_pool(max_pool(y, (2, 2), (1, 1), (1, 1)), (2, 2), (2, 2))
            unblock(y, 5).square().sum().backward()
        results.append([unblock(y, 5), x.grad])
    for direct, dispatched in zip(*results, strict=True):
        assert torch.equal(direct, dispatched)
    assert isinstance(context, Listening)
    seen = {name for name in context.seen if name.startswith("rewire.")}
    assert len(seen) == 9, seen


def test_threads_do_not_change_results() -> None:
    x = torch.randn(32, 24, 16, 16)
    results = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 2):
            torch.set_num_threads(threads)
            blocked = block(x).requires_grad_()
            y, *statistics = batch_norm_train(blocked, None, None, None, 32, True, 1e-5)
            z = max_pool(y, (2, 2), (2, 2), (0, 0))
            average_pool(z, (8, 8), (8, 8)).square().sum().backward()
            results.append([blocked, y, *statistics, z, blocked.grad, unblock(z, 32)])
    finally:
        torch.set_num_threads(before)
    for one, other in zip(results[0], results[1], strict=True):
        assert torch.equal(one, other)
    for one, other in zip(results[1], results[2], strict=True):
        assert torch.equal(one, other)


@pytest.mark.slow  # three processes, each with all of the above
@pytest.mark.parametrize("isa", library.ISAS[: library.ISAS.index(library.isa() or "base")])
def test_the_other_instruction_sets(isa: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-m", "not slow", __file__]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, env={**os.environ, "REWIRE_ISA": isa}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
