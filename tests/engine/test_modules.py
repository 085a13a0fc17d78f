"""Packed modules: what Linear and Conv2d give, over the active weights alone, in any place of a model."""

import copy
import io
import re
from collections import namedtuple

import pytest
import torch
from engine.reference import cnn, mlp, sgd
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import rewire
from rewire.engine import library
from rewire.engine.blocked import Blocked
from rewire.engine.modules import PackedConv2d, PackedLinear, geometry
from rewire.engine.streams import KEPT

torch.set_num_threads(1)

pytestmark = pytest.mark.skipif(library.load() is None, reason="no kernels for this machine")


def packed(module: nn.Module, sparsity: float = 0.7, method=None) -> tuple[nn.Module, rewire.Sparsifier]:
    optimizer = sgd(module.parameters())
    return module, rewire.sparsify(module, optimizer, method or rewire.static(), sparsity=sparsity, engine="cpu")


def pair(module: nn.Module, sparsity: float = 0.7) -> tuple[nn.Module, nn.Module]:
    """The packed module and its dense twin."""
    module, sparsifier = packed(module, sparsity)
    return module, sparsifier.to_dense()


def check(module: nn.Module, twin: nn.Module, x: torch.Tensor) -> None:
    """Outputs and all gradients are those of the dense twin."""
    module.zero_grad()
    mine, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    out, wanted = module(mine), twin(theirs)
    assert type(out) is torch.Tensor
    assert out.shape == wanted.shape
    torch.testing.assert_close(out, wanted, rtol=1e-4, atol=1e-5)
    weights = torch.randn(wanted.shape)
    (out * weights).sum().backward()
    (wanted * weights).sum().backward()
    torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-5)
    for (name, parameter), dense in zip(module.named_parameters(), twin.parameters(), strict=True):
        gradient = dense.grad
        if parameter.shape != dense.shape:
            owner = module.get_submodule(name.rpartition(".")[0])
            gradient = gradient.flatten()[owner.packed.index]
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-4)


LINEAR = [(5,), (1, 5), (3, 5), (16, 5), (33, 5), (2, 3, 5), (2, 3, 4, 5), (4, 5, 1, 5)]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", LINEAR)
def test_linear_of_any_leading_dimensions(shape: tuple[int, ...], bias: bool) -> None:
    check(*pair(nn.Linear(5, 7, bias=bias)), torch.randn(shape))


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 1},
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": 3, "padding": 1, "stride": 2, "bias": False},
        {"kernel_size": 1, "stride": 2},
        {"kernel_size": (3, 5), "padding": "same"},
        {"kernel_size": 2, "padding": "valid"},
        {"kernel_size": 4, "stride": 2, "padding": (1, 2)},
        {"kernel_size": 7, "stride": 2, "padding": 3},
    ],
    ids=str,
)
@pytest.mark.parametrize("rows", [1, 5, 16, 17])
def test_convolutions(options: dict, rows: int) -> None:
    check(*pair(nn.Conv2d(3, 6, **options)), torch.randn(rows, 3, 9, 8))


def test_one_image_without_a_batch_dimension() -> None:
    check(*pair(nn.Conv2d(3, 6, 3)), torch.randn(3, 9, 8))


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.99])
def test_any_sparsity(sparsity: float) -> None:
    check(
        *pair(nn.Sequential(nn.Conv2d(8, 16, 3), nn.Flatten(), nn.Linear(16 * 36, 10)), sparsity),
        torch.randn(5, 8, 8, 8),
    )


@pytest.mark.parametrize("model", [cnn, mlp])
def test_whole_networks(model) -> None:
    check(*pair(model()), torch.randn(10, 4, 8, 8))


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x.to(memory_format=torch.channels_last),
        lambda x: x.transpose(2, 3),
        lambda x: x[:, :, ::2, 1:],
        lambda x: x.expand(6, -1, -1, -1) if x.shape[0] == 1 else x.flip(0),
    ],
    ids=["channels last", "transposed", "sliced", "flipped"],
)
def test_input_of_any_layout(change) -> None:
    module, twin = pair(nn.Conv2d(3, 6, 3, padding=1))
    x = change(torch.randn(4, 3, 8, 8))
    torch.testing.assert_close(module(x), twin(x), rtol=1e-4, atol=1e-5)


def test_a_batch_of_nothing() -> None:
    for module, shape in ((nn.Linear(5, 7), (0, 5)), (nn.Linear(5, 7), (2, 0, 5)), (nn.Conv2d(3, 6, 3), (0, 3, 8, 8))):
        module, twin = pair(module)
        x = torch.randn(shape, requires_grad=True)
        out = module(x)
        assert out.shape == twin(x).shape
        out.sum().backward()
        assert x.grad.shape == shape
        assert not module.weight.grad.any()
        assert not module.bias.grad.any()


def test_nothing_needs_a_gradient() -> None:
    module, twin = pair(nn.Conv2d(3, 6, 3))
    x = torch.randn(4, 3, 8, 8)
    with torch.no_grad():
        assert not module(x).requires_grad
    with torch.inference_mode():
        torch.testing.assert_close(module(x), twin(x), rtol=1e-4, atol=1e-5)
    module.weight.requires_grad_(False)
    module(x).sum().backward()
    assert module.weight.grad is None
    assert module.bias.grad is not None


class Odd(nn.Module):
    """Uses layers in ways that the engine cannot foresee."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.rows, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = checkpoint(self.conv, x, use_reentrant=False)
        x = x.permute(0, 2, 3, 1)  # (N, H, W, C): a Linear over the channels of an image
        x = torch.softmax(self.rows(x), -1) + x
        return self.last(F.gelu(x).mean((1, 2)))


def test_functions_that_nobody_foresaw() -> None:
    torch.manual_seed(3)
    check(*pair(Odd(), 0.5), torch.randn(5, 3, 6, 6))


Pair = namedtuple("Pair", "first second")


class Containers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(5, 7)

    def forward(self, x: torch.Tensor):
        return {"a": self.fc(x), "b": [self.fc(x), Pair(self.fc(x), 3)], "c": "text"}


def test_what_leaves_the_model_is_ordinary() -> None:
    model, _ = packed(Containers())
    out = model(torch.randn(3, 5))
    assert type(out["a"]) is type(out["b"][0]) is type(out["b"][1].first) is torch.Tensor
    assert type(out["b"][1]) is Pair
    assert out["c"] == "text"
    assert isinstance(model.fc(torch.randn(3, 5)), Blocked)  # a part of the model stays in the layout


def test_hooks_names_and_identity_stay() -> None:
    model, seen = mlp(), []
    layer = model[1]
    layer.register_forward_hook(lambda module, args, output: seen.append(output.shape))
    packed(model)
    model(torch.randn(3, 4, 8, 8))
    assert seen == [(3, 40)]
    assert model[1] is layer
    assert type(layer) is PackedLinear
    assert isinstance(layer, nn.Linear)
    assert list(dict(model.named_parameters())) == list(dict(mlp().named_parameters()))
    assert repr(layer) == "PackedLinear(in_features=256, out_features=40, bias=True)"


# ---- state, copies, pickles


def test_a_state_dict_is_that_of_the_dense_model() -> None:
    model, sparsifier = packed(cnn())
    state = model.state_dict()
    assert {name: value.shape for name, value in state.items()} == {n: v.shape for n, v in cnn().state_dict().items()}
    assert list(state) == list(cnn().state_dict())
    masks = sparsifier.masks
    assert all(torch.equal(state[name] != 0, mask) for name, mask in masks.items())
    plain = cnn()
    plain.load_state_dict(state)
    start = cnn().state_dict()
    model.load_state_dict(start)
    assert all(torch.equal(model.state_dict()[name], start[name] * mask) for name, mask in masks.items())
    assert not model.load_state_dict({}, strict=False).unexpected_keys
    assert "0.weight" in model.load_state_dict({}, strict=False).missing_keys


def test_assigning_a_state_keeps_the_optimizers_parameters() -> None:
    model = mlp()
    optimizer = sgd(model.parameters())
    rewire.sparsify(model, optimizer, rewire.static(), sparsity=0.7, engine="cpu")
    model.load_state_dict(mlp().state_dict(), assign=True)
    assert {id(p) for p in model.parameters()} == {id(p) for group in optimizer.param_groups for p in group["params"]}


def test_a_state_of_another_shape_is_said() -> None:
    model, _ = packed(nn.Linear(5, 7))
    before = model.state_dict()
    with pytest.raises(
        RuntimeError, match=r"size mismatch for weight: the state has torch.Size\(\[7, 4\]\), the model"
    ):
        model.load_state_dict(nn.Linear(4, 7).state_dict(), strict=False)
    assert torch.equal(model.state_dict()["weight"], before["weight"])


def test_a_state_loaded_before_its_topology_gives_it_its_values() -> None:
    _, sparsifier = packed(cnn())
    other, others = packed(cnn())
    start = cnn()
    nn.init.normal_(start[0].weight)
    other.load_state_dict(start.state_dict())
    topology = rewire.sparsify(
        cnn_ := cnn(), sgd(cnn_.parameters()), rewire.static(), sparsity=0.7, seed=9
    ).state_dict()
    others.load_state_dict(topology)
    mask = others.masks["0.weight"]
    assert not torch.equal(mask, sparsifier.masks["0.weight"])
    assert torch.equal(other.state_dict()["0.weight"], start[0].weight * mask)


@pytest.mark.parametrize("copier", ["deepcopy", "pickle"])
def test_copies_are_dense_models(copier: str) -> None:
    model, sparsifier = packed(cnn(), method=rewire.rigl(10, every=2))
    model(torch.randn(5, 4, 8, 8)).sum().backward()
    if copier == "deepcopy":
        twin = copy.deepcopy(model)
    else:
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        twin = torch.load(file, weights_only=False)
    assert [type(module) for module in twin] == [type(module) for module in cnn()]
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in twin.state_dict().items())
    assert not hasattr(twin[0], "packed")
    check(copy.deepcopy(twin), twin, torch.randn(3, 4, 8, 8))
    assert type(model[0]) is PackedConv2d
    assert twin[0].weight.grad[~sparsifier.masks["0.weight"]].any()


def test_an_average_of_weights_of_two_topologies_is_refused_by_torch() -> None:
    model, _ = packed(cnn())
    average = torch.optim.swa_utils.AveragedModel(model)
    with pytest.raises(RuntimeError, match="size of tensor"):
        average.update_parameters(model)


# ---- what cannot work


@pytest.mark.parametrize(
    ("module", "x", "text"),
    [
        (
            nn.Linear(5, 7),
            torch.randn(3, 4),
            "The input of weight has shape (3, 4), so 4 channels, but the layer takes 5.",
        ),
        (nn.Conv2d(3, 6, 3), torch.randn(2, 4, 8, 8), "so 4 channels, but the layer takes 3. Give it an input with 3."),
        (nn.Conv2d(3, 6, 3), torch.randn(3, 8), "but a 2-D convolution takes (N, channels, height, width)"),
        (nn.Conv2d(3, 6, 5), torch.randn(1, 3, 4, 8), "is 4 x 8, smaller than its kernel of 5 x 5"),
        (nn.Linear(5, 7), torch.tensor(1.0), "so 0 channels, but the layer takes 5"),
    ],
)
def test_input_of_the_wrong_shape(module: nn.Module, x: torch.Tensor, text: str) -> None:
    model, _ = packed(module)
    with pytest.raises(ValueError, match=re.escape(text)):
        model(x)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16, torch.int64])
def test_input_of_another_type(dtype: torch.dtype) -> None:
    model, _ = packed(nn.Linear(5, 7))
    with pytest.raises(TypeError) as error:
        model(torch.ones(3, 5, dtype=dtype))
    assert str(error.value) == (
        f"The input of weight is {dtype}, but engine='cpu' computes in float32. Give it x.float(), or say "
        'engine="masked".'
    )


def test_input_on_another_device() -> None:
    model, _ = packed(nn.Linear(5, 7))
    with pytest.raises(TypeError, match="is on meta, but engine='cpu' computes on the CPU"):
        model(torch.ones(3, 5, device="meta"))


@pytest.mark.parametrize("move", [lambda m: m.double(), lambda m: m.bfloat16(), lambda m: m.to("meta")])
def test_a_model_that_was_moved(move) -> None:
    model, _ = packed(nn.Linear(5, 7))
    with pytest.raises(TypeError) as error:
        move(model)(torch.ones(3, 5))
    assert "after sparsify(engine='cpu'), whose kernels compute in float32 on the CPU. Move it back with" in str(
        error.value
    )


def test_a_model_that_was_moved_and_came_back() -> None:
    model, twin = pair(nn.Linear(5, 7))
    model.double().float()
    check(model, twin, torch.randn(3, 5))


def test_a_foreign_weight_is_refused() -> None:
    model, _ = packed(nn.Linear(5, 7))
    with pytest.raises(ValueError, match=r"was given a weight of shape \(7, 5\)"):
        torch.func.functional_call(model, nn.Linear(5, 7).state_dict(), torch.randn(3, 5))


def test_bf16_autocast_computes_in_float32() -> None:
    model, twin = pair(nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3)))
    x = torch.randn(4, 5)
    with torch.autocast("cpu", torch.bfloat16):
        out = model(x)
        low = model(x.bfloat16())
    assert out.dtype == low.dtype == torch.float32
    torch.testing.assert_close(out, twin(x), rtol=1e-4, atol=1e-5)


def test_streams_are_kept_for_the_last_shapes_and_go_with_the_topology() -> None:
    model, sparsifier = packed(nn.Conv2d(3, 6, 3), method=rewire.set_(10, every=2))
    storage, streams = model.packed, model.packed.streams
    one = streams.get(8, 8, 1)
    assert streams.get(8, 8, 1) is one
    for size in range(KEPT):
        streams.get(9 + size, 8, 1)
    assert streams.get(8, 8, 1) is not one
    assert len(streams.kept) == KEPT
    storage.rewire_(~storage.active_units(), {})  # another number of weights
    assert not streams.kept
    check(model, sparsifier.to_dense(), torch.randn(2, 3, 8, 8))
    one, sizes = streams.compiled(6, 6, 1, 0), streams.sizes
    storage.rewire_(storage.active_units().flip(1), {})  # the same number
    assert streams.get(6, 6, 1) is one
    assert streams.sizes == sizes
    check(model, sparsifier.to_dense(), torch.randn(2, 3, 6, 6))


def test_a_kernel_of_more_places_than_an_offset_can_say_stays_masked() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 257, padding=128))
    assert geometry(model[0]) == "kernel_size=(257, 257)"
    sparsifier = rewire.sparsify(model, sgd(model.parameters()), rewire.static(), sparsity=0.99, engine="cpu")
    assert sparsifier.engines == {"0.weight": "masked: kernel_size=(257, 257)"}


def test_a_kernel_larger_than_the_scratch_is_right() -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 1, 20, 20)
    model, sparsifier = packed(nn.Conv2d(1, 2, 101, padding=50), sparsity=0.99)
    assert sparsifier.engines == {"weight": "cpu"}
    assert torch.allclose(model(x), sparsifier.to_dense()(x), atol=1e-5)
