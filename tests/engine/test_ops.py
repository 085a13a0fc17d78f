"""The products of a sparse layer against torch's dense ones, on every shape that hypothesis thinks of."""

import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rewire.engine import library, ops
from rewire.engine.stream import Geometry, Stream

pytestmark = pytest.mark.skipif(library.load() is None, reason="the kernels are not built on this machine")


def blocked(images: Tensor) -> Tensor:
    """(N, C, H, W) to (blocks, C, H, W, 16), by torch alone."""
    blocks = -(-len(images) // 16)
    padded = torch.cat([images, images.new_zeros(16 * blocks - len(images), *images.shape[1:])])
    return padded.unflatten(0, (blocks, 16)).movedim(1, -1).contiguous()


def plain(x: Tensor, images: int) -> Tensor:
    return x.movedim(-1, 1).flatten(0, 1)[:images]


@st.composite
def layers(draw: st.DrawFn) -> tuple[Geometry, int, int, int]:
    """A layer with height, width and number of images; square, flat and 1x1 kernels, also larger than the map."""
    kernel = draw(st.sampled_from([(1, 1), (1, 1), (3, 3), (3, 3), (5, 5), (7, 7), (3, 1), (1, 3), (2, 2)]))
    padding = draw(st.sampled_from([(0, 0), (kernel[0] // 2, kernel[1] // 2), (kernel[0] // 2, 2)]))
    geometry = Geometry(
        draw(st.integers(1, 40)), draw(st.integers(1, 70)), kernel, draw(st.sampled_from([1, 1, 2])), padding
    )
    height = draw(st.integers(max(1, kernel[0] - 2 * padding[0]), 20))
    width = draw(st.integers(max(1, kernel[1] - 2 * padding[1]), 20))
    return geometry, height, width, draw(st.integers(1, 130))


def topology(geometry: Geometry, sparsity: float, seed: int) -> Tensor:
    """Ascending places of the active weights, at least one; some outputs and inputs have none at all."""
    generator = torch.Generator().manual_seed(seed)
    active = torch.rand(geometry.shape, generator=generator) >= sparsity
    active &= torch.rand(geometry.out, 1, 1, 1, generator=generator) > 0.1
    active &= torch.rand(1, geometry.in_, 1, 1, generator=generator) > 0.1
    active.view(-1)[active.numel() // 2] = True
    return active.flatten().nonzero()[:, 0].int()


def products(
    geometry: Geometry, index: Tensor, relu: bool, x: Tensor, values: Tensor, bias: Tensor | None, dy: Tensor
) -> dict[str, Tensor]:
    """Output and gradients of the dense layer, in the type of its arguments."""
    weight = values.new_zeros(geometry.shape).flatten().index_put((index.long(),), values).reshape(geometry.shape)
    y = F.conv2d(x, weight, bias, geometry.stride, geometry.padding)
    y = F.relu(y) if relu else y
    wanted = [x, values] + ([] if bias is None else [bias])
    gradients = torch.autograd.grad(y, wanted, dy)
    return dict(zip(("y", "dx", "values", "bias"), (y, *gradients), strict=False))


def far(found: Tensor, wanted: Tensor) -> float:
    """Largest difference over the largest value."""
    if not wanted.numel():
        return 0.0
    return float((found - wanted.double()).detach().abs().max() / wanted.detach().double().abs().max().clamp(min=1e-30))


@settings(max_examples=60, deadline=None)
@given(
    layer=layers(),
    sparsity=st.sampled_from([0.0, 0.5, 0.9, 0.95, 0.99, 0.999]),
    biased=st.booleans(),
    relu=st.booleans(),
    threads=st.integers(1, 3),
    seed=st.integers(0, 1000),
)
def test_products_are_those_of_the_dense_layer(
    layer: tuple[Geometry, int, int, int], sparsity: float, biased: bool, relu: bool, threads: int, seed: int
) -> None:
    geometry, height, width, images = layer
    torch.manual_seed(seed)
    index = topology(geometry, sparsity, seed)
    high, wide = geometry.out_size(height, width)
    x = torch.randn(images, geometry.in_, height, width, requires_grad=True)
    values = torch.randn(len(index), requires_grad=True)
    bias = torch.randn(geometry.out, requires_grad=True) if biased else None
    dy = torch.randn(images, geometry.out, high, wide)

    stream = Stream.build(geometry, index, height, width, -(-images // 16))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        y = plain(ops.sparse_layer(blocked(x), values, bias, stream, -1, relu), images)
        wanted = [x, values] + ([] if bias is None else [bias])
        found = dict(zip(("y", "dx", "values", "bias"), (y, *torch.autograd.grad(y, wanted, dy)), strict=False))
    finally:
        torch.set_num_threads(before)
    single = products(geometry, index, relu, x, values, bias, dy)
    double = products(
        geometry,
        index,
        relu,
        *(None if t is None else t.detach().double().requires_grad_() for t in (x, values, bias)),
        dy.double(),
    )
    for name in found:
        assert found[name].shape == single[name].shape
        assert far(found[name], single[name]) < 1e-5, name
        assert far(found[name], double[name]) < 1e-5, name


@pytest.mark.parametrize("kernel", [(1, 1), (3, 3)])
def test_dense_weight_gradient_is_torchs(kernel: tuple[int, int]) -> None:
    geometry = Geometry(7, 5, kernel, 1, (kernel[0] // 2, kernel[1] // 2))
    torch.manual_seed(0)
    x, dy = torch.randn(20, 5, 6, 6), torch.randn(20, 7, 6, 6)
    wanted = torch.nn.grad.conv2d_weight(x.double(), geometry.shape, dy.double(), 1, geometry.padding)
    assert far(ops.dense_weight_gradient(blocked(x), blocked(dy), geometry), wanted) < 1e-5


def small_layer() -> tuple[Stream, Tensor, Tensor, Tensor]:
    geometry = Geometry(6, 5, (3, 3), 1, (1, 1))
    torch.manual_seed(0)
    stream = Stream.build(geometry, topology(geometry, 0.7, seed=1), 8, 8, 2)
    return stream, torch.randn(2, 5, 8, 8, 16), torch.randn(stream.layer[-1]), torch.randn(6)


def test_results_are_the_same_bits_every_time() -> None:
    geometry = Geometry(32, 32, (3, 3), 1, (1, 1))
    torch.manual_seed(0)
    index = topology(geometry, 0.9, seed=2)
    stream = Stream.build(geometry, index, 16, 16, 4)
    x, values = torch.randn(4, 32, 16, 16, 16, requires_grad=True), torch.randn(len(index), requires_grad=True)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        runs = []
        for _ in range(3):
            y = ops.sparse_layer(x, values, None, stream, -1)
            runs.append((y, *torch.autograd.grad(y.square().sum(), [x, values])))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for run in runs[1:] for a, b in zip(runs[0], run, strict=True))


def test_ops_keep_torchs_rules() -> None:
    stream, x, values, bias = small_layer()
    streams = (list(stream.layer), *stream.forward, *stream.backward)
    leaves = (x.requires_grad_(), values.requires_grad_(), bias.requires_grad_())
    torch.library.opcheck(torch.ops.rewire.sparse_layer.default, (*leaves, *streams, -1, False))
    torch.library.opcheck(torch.ops.rewire.sparse_layer.default, (*leaves, *streams, -1, True))
    dy = torch.randn(2, 6, 8, 8, 16)
    torch.library.opcheck(
        torch.ops.rewire.sparse_layer_grad_values.default,
        (x.detach(), dy, None, list(stream.layer), *stream.forward, -1),
    )
    torch.library.opcheck(
        torch.ops.rewire.sparse_layer_grad_input.default,
        (dy, None, values.detach(), list(stream.layer), *stream.backward),
    )


COMPILED = """
import torch
from rewire.engine import ops
from rewire.engine.stream import Geometry, Stream

torch.manual_seed(0)
geometry = Geometry(6, 5, (3, 3), 1, (1, 1))
stream = Stream.build(geometry, torch.arange(0, 270, 4, dtype=torch.int32), 8, 8, 2)
leaves = [torch.randn(shape, requires_grad=True) for shape in ((2, 5, 8, 8, 16), (68,), (6,))]

def loss(x, values, bias):
    return ops.sparse_layer(x, values, bias, stream, -1).relu().square().mean()

compiled = torch.compile(loss, fullgraph=True)
torch.testing.assert_close(compiled(*leaves), loss(*leaves))
found = torch.autograd.grad(compiled(*leaves), leaves)
torch.testing.assert_close(found, torch.autograd.grad(loss(*leaves), leaves))
print("the same")
"""


@pytest.mark.slow  # compiles, in a process of its own: the checker of shapes cannot be traced
def test_one_graph_without_a_break() -> None:
    run = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True)
    assert run.stdout == "the same\n", run.stderr[-3000:]


def test_second_derivatives_are_refused() -> None:
    stream, x, values, _ = small_layer()
    y = ops.sparse_layer(x.requires_grad_(), values.requires_grad_(), None, stream, -1)
    (dx,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        dx.sum().backward()


def test_the_watcher_sees_both_sides_of_the_layer() -> None:
    stream, x, values, _ = small_layer()
    seen = []
    ops.watchers[77] = lambda x, dy: seen.append((x, dy))
    try:
        y = ops.sparse_layer(x, values.requires_grad_(), None, stream, 77)
        dy = torch.randn_like(y)
        y.backward(dy)
    finally:
        del ops.watchers[77]
    assert len(seen) == 1
    assert torch.equal(seen[0][0], x)
    assert torch.equal(seen[0][1], dy)


@pytest.mark.slow  # every shape again, for every other instruction set of this processor
@pytest.mark.parametrize("isa", ["avx512", "avx2", "base"])
def test_every_instruction_set(isa: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "products or bits", __file__]
    run = subprocess.run(command, env={**os.environ, "REWIRE_ISA": isa}, capture_output=True, text=True)
    if "does not have" in run.stdout + run.stderr:
        pytest.skip(f"this processor has no {isa}")
    assert run.returncode == 0, run.stdout[-3000:]
