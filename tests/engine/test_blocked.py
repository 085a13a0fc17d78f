"""Blocked activations against torch: values, gradients, in-place changes, and what autograd may ask."""

import copy
import gc
import io
import pickle
import weakref
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rewire.engine import blocked, library
from rewire.engine.activation import HANDLERS
from rewire.engine.blocked import Blocked
from rewire.engine.layout_ops import unblock
from rewire.engine.pending import Pending

pytestmark = pytest.mark.skipif(bool(library.why_not()), reason="no kernels here")

Function = Callable[[Tensor], Tensor]
IMAGES = (5, 6, 4, 4)
ROWS = (19, 6)


def distance(found: Tensor, exact: Tensor) -> float:
    scale = max(1.0, float(exact.detach().abs().max()))
    return float((found.detach() - exact.detach()).abs().max()) / scale


def check(function: Function, shape: tuple[int, ...], *, stays: bool, integers: bool = False) -> None:
    """The same values and gradients as torch's, in the layout or out of it."""
    x = torch.randint(-3, 4, shape).float() if integers else torch.randn(shape)
    other = x.clone().requires_grad_()
    inner = blocked.inner(x).requires_grad_()
    torch.manual_seed(1)
    with blocked.conversions() as seen:
        y = function(blocked.wrap(inner, shape))
    torch.manual_seed(1)
    z = function(other)
    assert isinstance(y, Blocked) == stays, "in the layout" if isinstance(y, Blocked) else "out of it"
    assert bool(seen) == (not stays), seen
    assert y.shape == z.shape
    assert y.dtype == z.dtype
    assert distance(blocked.plain(y), z) < 1e-5
    if not z.requires_grad:
        return
    gradient = torch.randn(z.shape)
    blocked.plain(y).backward(gradient)
    z.backward(gradient)
    assert inner.grad is not None
    assert other.grad is not None
    rows = shape[0]
    assert distance(unblock(inner.grad, rows).reshape(shape), other.grad) < 1e-5
    assert not inner.grad.permute(0, 4, 1, 2, 3).flatten(0, 1)[rows:].any(), "past the last image"


CHANNEL = torch.linspace(-1, 1, 6)
OTHER = torch.linspace(-2, 2, 5 * 6 * 4 * 4).reshape(IMAGES)

STAYING: dict[str, Function] = {
    "relu": F.relu,
    "torch.relu": torch.relu,
    "method relu": lambda x: x.relu(),
    "nn.ReLU": nn.ReLU(),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu tanh": nn.GELU("tanh"),
    "hardswish": nn.Hardswish(),
    "hardsigmoid": nn.Hardsigmoid(),
    "relu6": nn.ReLU6(),
    "leaky_relu": nn.LeakyReLU(0.1),
    "elu": nn.ELU(),
    "selu": nn.SELU(),
    "celu": nn.CELU(),
    "softplus": nn.Softplus(),
    "mish": nn.Mish(),
    "logsigmoid": F.logsigmoid,
    "softsign": F.softsign,
    "abs": abs,
    "neg": lambda x: -x,
    "square": torch.square,
    "pow": lambda x: x**3,
    "clamp": lambda x: x.clamp(min=-0.5, max=0.7),
    "prelu": lambda x: F.prelu(x, CHANNEL),
    "add number": lambda x: x + 1,
    "number add": lambda x: 1.5 + x,
    "sub number": lambda x: x - 1,
    "number sub": lambda x: 1 - x,
    "mul number": lambda x: 2 * x * 3,
    "div number": lambda x: x / 3,
    "add itself": lambda x: x + x,
    "add alpha": lambda x: torch.add(x, x, alpha=0.3),
    "mul itself": lambda x: x * x,
    "mul scalar tensor": lambda x: x * torch.tensor(0.3),
    "mul integer tensor": lambda x: x * torch.tensor(2) + torch.tensor(0.1, dtype=torch.float64),
    "div scalar tensor": lambda x: x / torch.tensor(0.3),
    "sub relu": lambda x: x - F.relu(x),
    "dropout in eval": lambda x: F.dropout(x, 0.5, False),
    "identity": nn.Identity(),
    "clone": lambda x: x.clone(),
    "to": lambda x: x.to(torch.float32).to("cpu").float().cpu(),
}

STAYING_IMAGES: dict[str, Function] = {
    "max_pool2d": lambda x: F.max_pool2d(x, 2),
    "max_pool2d overlapping": nn.MaxPool2d(3, stride=2, padding=1),
    "max_pool2d ceil": lambda x: F.max_pool2d(x, 2, ceil_mode=True),
    "avg_pool2d": lambda x: F.avg_pool2d(x, 3, 1, 1),
    "avg_pool2d without padding": nn.AvgPool2d(3, 2, 1, count_include_pad=False),
    "adaptive_avg_pool2d": nn.AdaptiveAvgPool2d(1),
    "adaptive_avg_pool2d to 2": nn.AdaptiveAvgPool2d((2, None)),
    "adaptive_max_pool2d": nn.AdaptiveMaxPool2d(1),
    "mean": lambda x: x.mean((2, 3)),
    "mean with dimensions kept": lambda x: torch.mean(x, [-1, -2], keepdim=True),
    "flatten": lambda x: x.flatten(1),
    "nn.Flatten": nn.Flatten(),
    "view": lambda x: x.view(x.size(0), -1),
    "reshape": lambda x: torch.reshape(x, (5, -1)),
    "reshape to images": lambda x: x.view(5, 3, 2, 4 * 4).view(5, 12, 4, 2),
    "flatten and back": lambda x: x.flatten(1).view(5, 6, 4, 4),
    "every second place": lambda x: x[:, :, ::2, ::2],
    "some channels": lambda x: x[:, 1:4],
    "pad channels": lambda x: F.pad(x, (0, 0, 0, 0, 1, 2)),
    "pad the sides": nn.ZeroPad2d((1, 2, 0, 1)),
    "option A": lambda x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 3, 3)),
    "cat": lambda x: torch.cat((x, F.relu(x)), 1),
    "cat with an ordinary one": lambda x: torch.cat([x, OTHER], dim=-3),
    "add an ordinary one": lambda x: x + OTHER,
    "an ordinary one add": lambda x: OTHER + x,
    "scale channels": lambda x: x * CHANNEL[:, None, None] + CHANNEL.view(1, 6, 1, 1),
    "squeeze and excite": lambda x: x * torch.sigmoid(F.adaptive_avg_pool2d(x, 1)),
    "narrow sigmoid first": lambda x: torch.sigmoid(x.mean((2, 3), keepdim=True)) * x,
    "batch_norm": lambda x: F.batch_norm(x, None, None, CHANNEL, CHANNEL, True),
    "batch_norm in eval": lambda x: F.batch_norm(x, CHANNEL, CHANNEL.abs() + 1),
    "batch_norm, relu": lambda x: F.relu(F.batch_norm(x, None, None, training=True)),
    "batch_norm, add": lambda x: F.batch_norm(x, None, None, training=True) + x,
    "batch_norm, add, relu": lambda x: F.relu(x + F.batch_norm(x, None, None, training=True)),
    "two batch_norms": lambda x: F.relu(
        F.batch_norm(x, None, None, training=True) + F.batch_norm(x * 2, CHANNEL, CHANNEL * 0 + 1)
    ),
    "batch_norm, relu, add": lambda x: F.relu(F.batch_norm(x, None, None, training=True)) + x,
    "batch_norm and its relu": lambda x: F.relu(y := F.batch_norm(x, None, None, training=True)) * y,
    "batch_norm twice": lambda x: (y := F.batch_norm(x, None, None, training=True)) + y,
    "batch_norm, relu twice": lambda x: F.relu(F.relu(F.batch_norm(x, None, None, training=True))),
    "batch_norm, two additions": lambda x: F.batch_norm(x, None, None, training=True) + x + x,
    "relu of a shared sum": lambda x: F.relu(y := F.batch_norm(x, None, None, training=True) + x) * 2 + y,
}

STAYING_ROWS: dict[str, Function] = {
    "BatchNorm1d": lambda x: F.relu(F.batch_norm(x, None, None, CHANNEL, CHANNEL, True)),
    "add bias": lambda x: x + CHANNEL,
    "some": lambda x: x[:, 2:5],
    "cat": lambda x: torch.cat((x, x), 1),
    "pad": lambda x: F.pad(x, (1, 2)),
    "view as images": lambda x: F.max_pool2d(x.view(19, 1, 2, 3), (1, 3)),
    "flatten": lambda x: x.flatten(1),
}

LEAVING: dict[str, Function] = {
    "softmax": lambda x: torch.softmax(x, 1),
    "sum": lambda x: x.sum(),
    "mean over the batch": lambda x: x.mean(0),
    "matmul": lambda x: x @ torch.ones(x.shape[-1], 2),
    "transpose": lambda x: x.transpose(0, 1),
    "div of two": lambda x: x / (x * x + 1),
    "number div": lambda x: 1 / (x.abs() + 1),
    "exp": torch.exp,
    "sqrt": lambda x: torch.sqrt(x.abs() + 0.1),
    "dropout": lambda x: F.dropout(x, 0.5, True),
    "first": lambda x: x[0],
    "last channels": lambda x: x[..., 0],
    "cat of batches": lambda x: torch.cat((x, x), 0),
    "stack": lambda x: torch.stack((x, x)),
    "contiguous": lambda x: x.contiguous(),
    "double": lambda x: x.double().float(),
    "where": lambda x: torch.where(x > 0, x, 0),
    "sum of list": lambda x: sum(list(x)),
    "cumsum": lambda x: x.cumsum(0),
}

LEAVING_IMAGES: dict[str, Function] = {
    "conv2d": lambda x: F.conv2d(x, torch.ones(2, 6, 3, 3)),
    "max_pool2d with one more": lambda x: F.max_pool2d(x, 3, ceil_mode=True),
    "max_pool2d dilated": lambda x: F.max_pool2d(x, 2, dilation=2),
    "avg_pool2d with a divisor": lambda x: F.avg_pool2d(x, 2, divisor_override=3),
    "adaptive to 3": lambda x: F.adaptive_avg_pool2d(x, 3),
    "pad reflect": lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"),
    "group_norm": lambda x: F.group_norm(x, 2),
    "channel shuffle": lambda x: x.view(5, 2, 3, 4, 4).transpose(1, 2).reshape(IMAGES),
    "mean over height": lambda x: x.mean(2),
    "permute": lambda x: x.permute(0, 2, 3, 1),
}


@pytest.mark.parametrize("name", STAYING)
@pytest.mark.parametrize("shape", [IMAGES, ROWS], ids=["images", "rows"])
def test_functions_that_stay(name: str, shape: tuple[int, ...]) -> None:
    check(STAYING[name], shape, stays=True)


@pytest.mark.parametrize("name", STAYING_IMAGES)
def test_functions_of_images_that_stay(name: str) -> None:
    check(STAYING_IMAGES[name], IMAGES, stays=True)


@pytest.mark.parametrize("name", STAYING_ROWS)
def test_functions_of_rows_that_stay(name: str) -> None:
    check(STAYING_ROWS[name], ROWS, stays=True)


@pytest.mark.parametrize("name", LEAVING)
@pytest.mark.parametrize("shape", [IMAGES, ROWS], ids=["images", "rows"])
def test_functions_that_leave(name: str, shape: tuple[int, ...]) -> None:
    check(LEAVING[name], shape, stays=False)


@pytest.mark.parametrize("name", LEAVING_IMAGES)
def test_functions_of_images_that_leave(name: str) -> None:
    check(LEAVING_IMAGES[name], IMAGES, stays=False)


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.TransformerEncoderLayer(8, 2, 16, dropout=0, batch_first=True), (3, 5, 8)),
        (nn.LayerNorm(8), (3, 5, 8)),
        (nn.BatchNorm1d(5), (3, 5, 8)),
        (nn.GroupNorm(2, 6), IMAGES),
        (nn.InstanceNorm2d(6), IMAGES),
        (nn.Conv2d(6, 6, 3, groups=3), IMAGES),
        (nn.ConvTranspose2d(6, 2, 2), IMAGES),
        (nn.PixelShuffle(1), IMAGES),
        (nn.Upsample(scale_factor=2), IMAGES),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_any_module_takes_it(module: nn.Module, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, requires_grad=True)
    other = x.detach().clone().requires_grad_()
    y = module(blocked.wrap(blocked.inner(x), shape))
    z = module(other)
    assert distance(y, z) < 1e-5
    (y**2).sum().backward()
    (z**2).sum().backward()
    assert x.grad is not None
    assert other.grad is not None
    assert distance(x.grad, other.grad) < 1e-5


@pytest.mark.slow  # Dynamo takes seconds to load
@pytest.mark.filterwarnings("ignore:Dynamo does not know")
def test_a_compiled_part_of_a_model_takes_it() -> None:
    results = []
    for compiled in (False, True):
        norm, leaf, x = norm_inputs()
        part = nn.Sequential(norm, nn.ReLU(), nn.MaxPool2d(2))
        with torch.no_grad():
            leaf.copy_(torch.linspace(-1, 2, 480).reshape(IMAGES) ** 2)
        x = blocked.wrap(blocked.inner(leaf), IMAGES) if compiled else leaf
        y = torch.compile(part, backend="eager")(x) if compiled else part(x)
        (blocked.plain(y) ** 3).sum().backward()
        results.append([leaf.grad, norm.running_var])
    for plain, own in zip(*results, strict=True):
        assert distance(own, plain) < 1e-5


@given(st.integers(1, 40), st.integers(1, 5), st.integers(2, 7), st.integers(2, 7))
@settings(max_examples=20)
def test_a_chain_of_any_shape(rows: int, channels: int, height: int, width: int) -> None:
    def chain(x: Tensor) -> Tensor:
        y = F.relu(F.batch_norm(x, None, None, training=True, eps=1e-2) + x)
        y = torch.cat((F.max_pool2d(y, 2), F.avg_pool2d(y, 2)), 1)
        return F.gelu(y).flatten(1) * 2

    check(chain, (rows, channels, height, width), stays=True)


def test_leading_dimensions_of_a_linear() -> None:
    x = torch.randn(3, 7, 5)
    own = blocked.wrap(blocked.inner(x), x.shape)
    assert own.shape == (3, 7, 5)
    with blocked.conversions() as seen:
        y = F.gelu(own + 1) * torch.ones(5) + own
        folded = y.flatten(0, 1)
    assert not seen
    expected = F.gelu(x + 1) + x
    assert distance(blocked.plain(y), expected) < 1e-6
    assert distance(blocked.plain(folded), expected.flatten(0, 1)) < 1e-6
    assert distance(blocked.plain(own.flatten(1)), x.flatten(1)) == 0
    assert distance(own + torch.ones(3, 7, 1), x + 1) < 1e-6
    deep = torch.randn(2, 3, 4, 5)
    assert blocked.inner(deep, image=False).shape == (2, 5, 1, 1, 16)
    rows = blocked.wrap(blocked.inner(deep, image=False), deep.shape)
    assert torch.equal(blocked.plain(rows), deep)
    assert blocked.inner(rows, image=True).shape == (1, 3, 4, 5, 16), "a convolution sees images"
    assert torch.equal(F.max_pool2d(rows, 2), F.max_pool2d(deep, 2))


# ---- in place

IN_PLACE: dict[str, Callable[[Tensor], Tensor | None]] = {
    "F.relu": lambda x: F.relu(x, inplace=True),
    "nn.ReLU": nn.ReLU(inplace=True),
    "F.relu_": F.relu_,
    "torch.relu_": torch.relu_,
    "relu_": lambda x: x.relu_(),
    "silu": nn.SiLU(inplace=True),
    "hardswish": nn.Hardswish(inplace=True),
    "leaky_relu": nn.LeakyReLU(0.2, inplace=True),
    "relu6": lambda x: F.relu6(x, True),
    "elu": nn.ELU(inplace=True),
    "sigmoid_": lambda x: x.sigmoid_(),
    "clamp_": lambda x: x.clamp_(min=0.1),
    "neg_": lambda x: x.neg_(),
    "add_": lambda x: x.add_(OTHER),
    "add_ alpha": lambda x: x.add_(OTHER, alpha=0.5),
    "sub_": lambda x: x.sub_(OTHER),
    "mul_": lambda x: x.mul_(0.3),
    "div_": lambda x: x.div_(0.3),
    "exp_": lambda x: x.exp_(),
    "zero_": lambda x: x.zero_(),
    "copy_": lambda x: x.copy_(OTHER),
    "dropout": nn.Dropout(0.5, inplace=True),
    "dropout by place": lambda x: F.dropout(x, 0.5, True, True),
    "set an item": lambda x: x.__setitem__((0, slice(1, 3)), 7.0),
    "zero a view": lambda x: x[:, :2].zero_(),
    "zero an image": lambda x: x[0].zero_(),
    "relu of a view": lambda x: F.relu(x.flatten(1), inplace=True),
    "add to a view": lambda x: x.view(5, -1).add_(1),
    "relu of every second place": lambda x: x[:, :, ::2, ::2].relu_(),
    "view of a view": lambda x: x[:, 2:].flatten(1).mul_(3),
    "set an item of a view": lambda x: x.flatten(1).__setitem__((slice(None), 0), 5.0),
    "under no_grad": torch.no_grad()(lambda x: x[:, 0].fill_(2.0)),
}


@pytest.mark.parametrize("name", IN_PLACE)
@pytest.mark.parametrize("pending", [False, True], ids=["ready", "pending"])
def test_in_place_changes_are_seen_by_aliases(name: str, pending: bool) -> None:
    x = torch.randn(IMAGES)
    results = []
    for wrapped in (False, True):
        leaf = x.clone().requires_grad_()
        own = blocked.wrap(blocked.inner(leaf), IMAGES) if wrapped else leaf
        own = F.batch_norm(own, None, None, training=True) if pending else own * 1
        view = own.flatten(1)
        before = own * 2
        torch.manual_seed(3)
        IN_PLACE[name](own)
        after = own * 3
        total = (blocked.plain(before) + blocked.plain(after)).flatten(1) * torch.linspace(-1, 1, 96) + view
        blocked.plain(total).square().sum().backward()
        results.append(
            [blocked.plain(before), blocked.plain(after), blocked.plain(own), blocked.plain(view), leaf.grad]
        )
    for plain, own in zip(*results, strict=True):
        assert distance(own, plain) < 1e-5


@pytest.mark.parametrize("name", [name for name in IN_PLACE if name != "under no_grad"])
def test_in_place_changes_are_not_seen_by_a_clone(name: str) -> None:
    x = torch.randn(IMAGES)
    own = blocked.wrap(blocked.inner(x), IMAGES)
    other = own.clone()
    IN_PLACE[name](own)
    assert torch.equal(other, x)


def test_views_of_the_ordinary_tensor_see_changes_in_the_layout() -> None:
    x = torch.randn(IMAGES)
    own = blocked.wrap(blocked.inner(x), IMAGES)
    first = own[0]  # out of the layout
    own.relu_()
    own += 1
    assert torch.equal(first, F.relu(x)[0] + 1)
    first.zero_()
    assert not blocked.inner(own)[..., 0].any()
    assert blocked.inner(own)[..., 1].any()


def test_in_place_returns_the_same_object() -> None:
    x = blocked.wrap(blocked.inner(torch.randn(IMAGES)), IMAGES)
    same = x
    assert F.relu(x, inplace=True) is x
    assert x.exp_() is x
    x += 1
    assert x is same


def test_in_place_with_a_gradient_that_was_not_there() -> None:
    weight = torch.tensor(2.0, requires_grad=True)
    for change in (lambda x: x.mul_(weight), lambda x: x.pow_(weight), lambda x: x[:, :3].mul_(weight)):
        x = blocked.wrap(blocked.inner(torch.rand(IMAGES)), IMAGES)
        assert not x.requires_grad
        change(x)
        assert x.requires_grad
        y = F.relu(x)
        assert y.requires_grad
        blocked.plain(y).sum().backward()
        assert weight.grad is not None
        assert weight.grad != 0
        weight.grad = None


def test_an_ordinary_tensor_takes_a_blocked_one_in_place() -> None:
    x = torch.randn(IMAGES)
    plain = torch.zeros(IMAGES)
    plain += blocked.wrap(blocked.inner(x), IMAGES)
    plain.add_(blocked.wrap(blocked.inner(x), IMAGES))
    assert type(plain) is Tensor
    assert distance(plain, 2 * x) < 1e-6


def test_a_change_of_shape_in_place_is_refused() -> None:
    x = blocked.wrap(blocked.inner(torch.randn(5, 6, 1, 1)), (5, 6, 1, 1))
    with pytest.raises(RuntimeError, match=r"squeeze_ changed the shape .* \(5, 6, 1, 1\) to \(5, 6\).*x\.contiguous"):
        x.squeeze_()


def test_a_detached_one_is_not_changed_in_place() -> None:
    x = blocked.wrap(blocked.inner(torch.randn(IMAGES)), IMAGES)
    with pytest.raises(RuntimeError, match=r"x\.detach\(\)\.clone\(\)"):
        x.detach().relu_()
    assert not x.detach().clone().relu_().requires_grad


def test_shared_memory_is_read_again() -> None:
    x = blocked.wrap(blocked.inner(torch.randn(IMAGES)), IMAGES)
    x.data.zero_()
    assert not blocked.inner(x).any()
    x.numpy()[:] = 3
    assert (blocked.inner(F.relu(x))[..., :5] == 3).all()


# ---- batch norm that waits


class Counting:
    """How often each op of the layout ran."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from rewire.engine import pending

        self.train = 0
        self.fused: list[tuple[bool, bool]] = []
        run = pending.batch_norm_train

        def counted(*args: object) -> object:
            self.fused.append((args[3] is not None, bool(args[5])))
            return run(*args)  # type: ignore[arg-type]

        monkeypatch.setattr(pending, "batch_norm_train", counted)


def norm_inputs() -> tuple[nn.BatchNorm2d, Tensor, Tensor]:
    x = torch.randn(IMAGES, requires_grad=True)
    return nn.BatchNorm2d(6), x, blocked.wrap(blocked.inner(x), IMAGES)


def test_what_follows_a_batch_norm_joins_it(monkeypatch: pytest.MonkeyPatch) -> None:
    counting = Counting(monkeypatch)
    norm, _, x = norm_inputs()
    for follow, expected in (
        (lambda: F.relu(norm(x)), [(False, True)]),
        (lambda: F.relu(norm(x), inplace=True), [(False, True)]),
        (lambda: norm(x).add_(x).relu_(), [(True, True)]),
        (lambda: F.relu(x + norm(x)), [(True, True)]),
        (lambda: F.relu(norm(x) + norm(x)), [(False, False), (True, True)]),
        (lambda: F.relu(norm(x)) + x, [(False, True)]),
        (lambda: norm(x) * 2, [(False, False)]),
        (lambda: (y := norm(x)) + y, [(False, False)]),
    ):
        counting.fused.clear()
        y = follow()
        blocked.inner(y)
        blocked.inner(y)
        assert counting.fused == expected


def test_both_users_of_a_batch_norm_share_it(monkeypatch: pytest.MonkeyPatch) -> None:
    counting = Counting(monkeypatch)
    norm, _, x = norm_inputs()
    y = F.relu(norm(x))
    blocked.inner(y * 2 + F.max_pool2d(y, 3, 1, 1))
    assert counting.fused == [(False, True)]
    y = norm(x)
    z = F.relu(y)
    blocked.inner(y)
    blocked.inner(z)
    assert counting.fused[1:] == [(False, False)], "what was asked for first is gone on from"


def test_running_statistics_are_updated_once_and_as_torch_does() -> None:
    for momentum in (0.1, None):
        own, other = nn.BatchNorm2d(6, momentum=momentum), nn.BatchNorm2d(6, momentum=momentum)
        for _ in range(3):
            x = torch.randn(IMAGES) * 3 + 1
            y = own(blocked.wrap(blocked.inner(x), IMAGES))
            z = F.relu(y)
            assert isinstance(y._value, Pending)
            blocked.inner(z)
            blocked.inner(y)  # a second way to the same batch norm
            other(x)
        assert distance(own.running_mean, other.running_mean) < 1e-6
        assert distance(own.running_var, other.running_var) < 1e-6
        assert own.num_batches_tracked == other.num_batches_tracked == 3


def test_a_batch_norm_that_is_read_after_its_weights_changed_is_refused() -> None:
    norm, _, x = norm_inputs()
    y = norm(x)
    with torch.no_grad():
        norm.weight.mul_(2)
    with pytest.raises(RuntimeError, match=r"after its weights or statistics were changed.*x = x\.contiguous\(\)"):
        blocked.inner(y)
    norm.eval()
    y = norm(x)
    norm.running_mean.add_(1)
    with pytest.raises(RuntimeError, match="after its weights or statistics were changed"):
        blocked.plain(y)


def test_a_batch_norm_that_cannot_be_is_torchs_error() -> None:
    x = blocked.wrap(blocked.inner(torch.randn(1, 6, 1, 1)), (1, 6, 1, 1))
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        nn.BatchNorm2d(6)(x)
    with pytest.raises(RuntimeError, match="running_mean should contain"):
        nn.BatchNorm2d(5)(torch.cat((x, x), 2))


def test_no_grad_when_called_and_a_gradient_later_and_the_other_way_round() -> None:
    norm, leaf, x = norm_inputs()
    with torch.no_grad():
        y = F.relu(norm(x))
        assert not y.requires_grad
    assert not blocked.inner(y).requires_grad
    for context in (torch.no_grad, torch.inference_mode):
        leaf.grad = None
        y = F.relu(norm(x))
        with context():
            assert "blocked tensor" in repr(y)
            assert not (y * 2).requires_grad
        y = y * 3
        blocked.plain(y).square().sum().backward()
        assert leaf.grad is not None


def test_inference_mode() -> None:
    norm, leaf, _ = norm_inputs()
    norm.eval()
    with torch.inference_mode():
        x = blocked.wrap(blocked.inner(leaf), IMAGES)
        y = F.relu(norm(x))
        y[:, :2].zero_()
        y.relu_()
        z = blocked.plain(y)
        expected = F.relu(norm(leaf))
        expected[:, :2] = 0
    assert distance(z, expected) < 1e-6


# ---- what the tensor says, and what autograd asks


def test_it_passes_for_the_ordinary_tensor() -> None:
    leaf = torch.randn(IMAGES, requires_grad=True)
    own, plain = blocked.wrap(blocked.inner(leaf), IMAGES), leaf * 1
    for ask in (
        lambda x: x.shape,
        lambda x: x.size(),
        lambda x: x.size(1),
        lambda x: (x.dim(), x.ndim, x.ndimension()),
        lambda x: (x.dtype, x.device, x.layout, x.is_cuda, x.is_sparse, x.is_cpu),
        lambda x: (x.requires_grad, x.is_leaf, x.numel(), x.nelement(), len(x), x.nbytes),
        lambda x: (x.stride(), x.is_contiguous(), x.is_floating_point(), torch.is_tensor(x), x.element_size()),
        lambda x: (x.grad_fn is None, x.retains_grad, isinstance(x, Tensor), torch.numel(x), x.is_inference()),
        lambda x: x.detach().requires_grad,
        lambda x: x.tolist(),
        lambda x: [part.shape for part in x],
        lambda x: (x > 0).sum().item(),
        lambda x: x.dim() in {4} and hash(x) == hash(x),
    ):
        assert ask(own) == ask(plain)
    assert repr(own).startswith("blocked tensor([[[[")
    assert f"{own.sum():.3f}" == f"{plain.sum():.3f}"
    assert torch.equal(own, plain)
    assert torch.allclose(own, plain)


def test_copies_and_pickles_are_ordinary_tensors() -> None:
    x = torch.randn(IMAGES)
    own = blocked.wrap(blocked.inner(x), IMAGES)
    buffer = io.BytesIO()
    torch.save(own, buffer)
    buffer.seek(0)
    for other in (copy.deepcopy(own), pickle.loads(pickle.dumps(own)), torch.load(buffer)):
        assert type(other) is Tensor
        assert torch.equal(other, x)


class Twice(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return blocked.plain(x) * 2

    @staticmethod
    def backward(ctx: object, dy: Tensor) -> Tensor:  # type: ignore[override]
        return dy * 2


@pytest.mark.parametrize("pending", [False, True])
def test_a_gradient_past_torchs_functions_is_not_lost(pending: bool) -> None:
    norm, leaf, x = norm_inputs()
    x = norm(x) if pending else x
    y = Twice.apply(x)
    with pytest.raises(RuntimeError, match=r"would be lost there\. Give that function an ordinary tensor: x = x\.cont"):
        y.sum().backward()
    assert leaf.grad is None
    Twice.apply(x.contiguous()).square().sum().backward()
    assert leaf.grad is not None


def test_a_gradient_is_not_lost_where_none_was_before() -> None:
    weight = torch.tensor(2.0, requires_grad=True)
    x = blocked.wrap(blocked.inner(torch.rand(IMAGES)), IMAGES)
    x.pow_(weight)
    with pytest.raises(RuntimeError, match="would be lost there"):
        Twice.apply(x).sum().backward()


def test_nothing_is_held_when_it_is_gone() -> None:
    gc.collect()
    gc.disable()
    try:
        norm, _, x = norm_inputs()
        y = norm(x)
        y.register_hook(lambda gradient: None)
        z = F.relu(y + x, inplace=True)[:, 1:].flatten(1)
        blocked.plain(z).sum().backward()
        gone = [weakref.ref(kept) for kept in (x, y, z, y._value, z._value, blocked.plain(z))]
        del x, y, z
        assert [ref() for ref in gone] == [None] * len(gone)
    finally:
        gc.enable()


def test_a_backward_hook_of_a_module_says_what_to_do() -> None:
    _, _, x = norm_inputs()
    relu = nn.ReLU()
    relu.register_full_backward_hook(lambda module, inputs, outputs: None)
    y = relu(x)
    assert torch.equal(y, F.relu(x))
    with pytest.raises(
        RuntimeError, match=r"In place of a module's register_full_backward_hook, call x\.register_hook"
    ):
        y.sum().backward()


@pytest.mark.filterwarnings("ignore:To copy construct")
def test_a_function_that_hands_its_input_on() -> None:
    _, _, x = norm_inputs()

    class Same(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            return x

        @staticmethod
        def backward(ctx: object, dy: Tensor) -> Tensor:  # type: ignore[override]
            return dy

    assert torch.equal(Same.apply(x), x)
    for function in (Same.apply, torch.tensor, torch.func.grad(torch.sum), torch.vmap(torch.relu)):
        with torch.no_grad(), pytest.raises(RuntimeError, match=r"past torch's functions.*x = x\.contiguous\(\)"):
            function(x)


def test_forward_hooks_see_and_replace_outputs() -> None:
    norm, _, x = norm_inputs()
    seen = []
    norm.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape))
    norm.register_forward_hook(lambda module, inputs, output: output * 2)
    y = nn.Sequential(norm, nn.ReLU(inplace=True))(x)
    assert seen == [torch.Size(IMAGES)]
    assert distance(y, F.relu(2 * F.batch_norm(x.contiguous(), None, None, training=True))) < 1e-6


def test_register_hook_and_retain_grad() -> None:
    results = []
    for wrapped in (False, True):
        norm, leaf, _ = norm_inputs()
        with torch.no_grad():
            leaf.copy_(torch.linspace(-3, 4, leaf.numel()).reshape(IMAGES) ** 2)
        x = blocked.wrap(blocked.inner(leaf), IMAGES) if wrapped else leaf
        y = norm(x)
        y.retain_grad()
        z = F.relu(y)
        seen: list[Tensor] = []
        z.register_hook(seen.append)
        z.register_hook(lambda gradient: gradient * 2)
        assert y.retains_grad
        (blocked.plain(z) ** 3).sum().backward()
        assert type(seen[0]) is Tensor
        assert type(y.grad) is Tensor
        results.append([*seen, y.grad, leaf.grad])
        y.grad = None
        assert y.grad is None
    for plain, own in zip(*results, strict=True):
        assert distance(own, plain) < 1e-5


def test_a_hook_that_comes_too_late_is_refused() -> None:
    norm, _, x = norm_inputs()
    y = norm(x)
    blocked.inner(F.relu(y))
    for late in (lambda: y.register_hook(print), y.retain_grad):
        with pytest.raises(
            RuntimeError, match=r"joined with the ReLU .* Ask for it \(register_hook, retain_grad\) bef"
        ):
            late()


def test_autograd_grad() -> None:
    results = []
    for wrapped in (False, True):
        leaf = torch.linspace(-3, 4, 480).reshape(IMAGES).requires_grad_()
        x = blocked.wrap(blocked.inner(leaf), IMAGES) if wrapped else leaf
        y = x * x
        z = F.relu(y * 2)
        results.append(torch.autograd.grad(z, (y, leaf), grad_outputs=torch.ones(IMAGES)))
    for plain, own in zip(*results, strict=True):
        assert type(own) is Tensor
        assert distance(own, plain) < 1e-6


def test_requires_grad_of_an_activation() -> None:
    x = blocked.wrap(blocked.inner(torch.randn(IMAGES)), IMAGES)
    x.requires_grad_()
    assert x.is_leaf
    (F.relu(x) * 3).backward(torch.ones(IMAGES))
    assert x.grad is not None
    assert torch.equal(x.grad, 3.0 * (blocked.plain(x.detach()) > 0))
    y = x.detach()
    y.requires_grad = True
    assert y.requires_grad


def test_checkpoint() -> None:
    results = []
    for how in ("plain", "blocked", "checkpointed"):
        torch.manual_seed(0)
        norm, leaf, _ = norm_inputs()
        second = nn.BatchNorm2d(6)
        x = leaf if how == "plain" else blocked.wrap(blocked.inner(leaf), IMAGES)

        def part(y: Tensor, second: nn.Module = second) -> Tensor:
            y = F.max_pool2d(F.relu(second(F.silu(y) * y)), 2)
            return F.batch_norm(y, None, None, training=True)

        y = norm(x)  # waits, and runs inside the checkpoint
        y = checkpoint(part, y, use_reentrant=False) if how == "checkpointed" else part(y)
        (blocked.plain(F.relu(y)) ** 3).sum().backward()
        results.append([leaf.grad, norm.weight.grad, second.weight.grad, norm.running_var])
    for other in results[1:]:
        for plain, own in zip(results[0], other, strict=True):
            assert distance(own, plain) < 1e-4


def test_saved_tensors_on_their_way() -> None:
    norm, leaf, x = norm_inputs()
    with torch.autograd.graph.save_on_cpu():
        y = F.relu(norm(x) + x)
    blocked.plain(y).square().sum().backward()
    assert leaf.grad is not None


def test_autocast_stays_in_float32() -> None:
    norm, _, x = norm_inputs()
    with torch.autocast("cpu", torch.bfloat16):
        y = F.relu(norm(x) + x)
        assert y.dtype == torch.float32
        assert F.conv2d(y, torch.ones(2, 6, 1, 1)).dtype == torch.bfloat16
    assert blocked.inner(y).dtype == torch.float32


def test_conversions_are_counted_by_name() -> None:
    x = blocked.wrap(blocked.inner(torch.randn(IMAGES)), IMAGES)
    with blocked.conversions() as seen:
        F.softmax(x, 1)
        x.sum()
        x.sum()
        with blocked.conversions() as within:
            F.conv2d(F.relu(x), torch.ones(1, 6, 1, 1))
        _ = x.T if x.dim() == 2 else x.mT
    torch.exp(x)
    assert dict(within) == {"conv2d": 1}
    assert dict(seen) == {"softmax": 1, "sum": 2, "conv2d": 1, "mT": 1}


def test_scalars_get_their_gradients() -> None:
    results = []
    x = torch.randn(IMAGES)
    for own in (x, blocked.wrap(blocked.inner(x), IMAGES)):
        scale, shift, channel = (torch.full(shape, 0.5, requires_grad=True) for shape in ((), (), (6, 1, 1)))
        slope = torch.full((6,), 0.2, requires_grad=True)
        y = F.prelu((own * scale - shift) / (scale + 1) * channel + channel, slope)
        (blocked.plain(y) ** 3).sum().backward()
        results.append([scale.grad, shift.grad, channel.grad, slope.grad])
    for plain, found in zip(*results, strict=True):
        assert distance(found, plain) < 1e-5


def test_wrap_refuses_other_shapes() -> None:
    inner = blocked.inner(torch.randn(IMAGES))
    with pytest.raises(ValueError, match=r"\(1, 6, 4, 4, 16\) does not hold an activation of shape \(5, 5, 4, 4\)"):
        blocked.wrap(inner, (5, 5, 4, 4))
    with pytest.raises(ValueError, match=r"float64 on cpu.*x\.float\(\)\.cpu\(\)"):
        blocked.inner(torch.randn(IMAGES).double())
    with pytest.raises(ValueError, match=r"\(N, C, H, W\), not \(3, 4\)"):
        blocked.inner(torch.randn(3, 4), image=True)


def test_every_handler_was_found_in_torch() -> None:
    assert len(HANDLERS) > 150
    assert all(callable(function) for function in HANDLERS)


# ---- whole networks


class InTheLayout(nn.Module):
    """A layer that takes and gives blocked activations, computed by torch."""

    def __init__(self, layer: nn.Conv2d | nn.Linear) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        rows = x.shape[0]
        inner = blocked.inner(x)
        plain = unblock(inner, rows)
        y = self.layer(plain if isinstance(self.layer, nn.Conv2d) else plain.flatten(1))
        return blocked.wrap(blocked.inner(y), y.shape)


def convert(module: nn.Module) -> nn.Module:
    for name, child in module.named_children():
        if isinstance(child, nn.Conv2d | nn.Linear):
            setattr(module, name, InTheLayout(child))
        else:
            convert(child)
    return module


class Residual(nn.Module):
    """A residual block in the style of torchvision: in-place ReLU, `out += shortcut`."""

    def __init__(self, inputs: int, outputs: int, stride: int, shortcut: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        self.option_a = shortcut == "option A"
        if shortcut == "projection":
            conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(outputs))
        self.stride, self.new = stride, outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        identity = self.shortcut(x)
        if self.option_a:
            half = self.new // 2
            identity = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, self.new - half))
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += identity
        return self.relu(out)


def resnet() -> nn.Module:
    stem = nn.Sequential(nn.Conv2d(3, 6, 3, 1, 1), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
    blocks = [Residual(6, 6, 1, "identity"), Residual(6, 10, 2, "option A"), Residual(10, 12, 2, "projection")]
    return nn.Sequential(stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 4))


def vgg() -> nn.Module:
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 8), (8, 10), (10, 12)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(True), nn.MaxPool2d(2)]
    head = [nn.Linear(48, 20), nn.BatchNorm1d(20), nn.ReLU(True), nn.Dropout(0.5), nn.Linear(20, 4)]
    return nn.Sequential(nn.Sequential(*layers), nn.Flatten(), nn.Sequential(*head))


@pytest.mark.parametrize("rows", [1, 5, 16, 33])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("build", [resnet, vgg])
def test_networks(build: Callable[[], nn.Module], training: bool, rows: int) -> None:
    if rows == 1 and training and build is vgg:
        return  # BatchNorm1d of one row is an error
    plain = build()
    for module in plain.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
    own, exact = convert(copy.deepcopy(plain)).train(training), copy.deepcopy(plain).double().train(training)
    plain.train(training)
    for _ in range(2):
        x = torch.randn(rows, 3, 16, 16)
        results = []
        for model, start in ((plain, x.clone()), (own, x.clone()), (exact, x.double())):
            torch.manual_seed(5)
            start.requires_grad_()
            model.zero_grad()
            with blocked.conversions() as seen:
                y = model(start)
            assert set(seen) <= {"dropout"}, seen
            (blocked.plain(y) ** 2).sum().backward()
            results.append([blocked.plain(y), start.grad, *(p.grad for p in model.parameters()), *model.buffers()])
        for number, (ours, theirs, right) in enumerate(zip(results[1], results[0], results[2], strict=True)):
            error = distance(theirs.double(), right)  # torch's own, in float32
            assert distance(ours.double(), right) < max(1e-5, 3 * error), number
