"""Which weights become sparse, under which names, and that every kind of layer trains sparse."""

import re

import pytest
import torch
from torch import nn

import rewire
from rewire.core.structure import NM, Block, FanIn, Structure, Unstructured
from rewire.layers import choose

torch.set_num_threads(1)


def names(model: nn.Module, **options) -> list[str]:
    return [weight.name for weight in choose(model, **options)[0]]


class Attention(nn.Module):
    def __init__(self, **options) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True, **options)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        keys = torch.ones(*x.shape[:2], self.attention.kdim)
        return self.attention(x, keys if self.attention.kdim != 8 else x, keys if self.attention.kdim != 8 else x)[0]


class First(nn.Module):
    """The first output of a recurrent layer."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)[0]


# layer, shape of an input, names of its sparse weights
LAYERS = {
    "Linear": (lambda: nn.Linear(8, 12), (3, 8), ["weight"]),
    "Conv1d": (lambda: nn.Conv1d(8, 12, 3), (3, 8, 5), ["weight"]),
    "Conv2d": (lambda: nn.Conv2d(8, 12, 3), (3, 8, 5, 5), ["weight"]),
    "Conv3d": (lambda: nn.Conv3d(8, 12, 2), (3, 8, 3, 3, 3), ["weight"]),
    "grouped": (lambda: nn.Conv2d(16, 8, 3, groups=2), (3, 16, 5, 5), ["weight"]),
    "depthwise": (lambda: nn.Conv2d(8, 8, 4, groups=8), (3, 8, 5, 5), ["weight"]),
    "ConvTranspose1d": (lambda: nn.ConvTranspose1d(8, 12, 3), (3, 8, 5), ["weight"]),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(8, 12, 3), (3, 8, 5, 5), ["weight"]),
    "ConvTranspose3d": (lambda: nn.ConvTranspose3d(8, 12, 2), (3, 8, 3, 3, 3), ["weight"]),
    "grouped transpose": (lambda: nn.ConvTranspose2d(8, 12, 3, groups=2), (3, 8, 5, 5), ["weight"]),
    "MultiheadAttention": (
        lambda: Attention(),
        (3, 5, 8),
        ["attention.in_proj_weight", "attention.out_proj.weight"],
    ),
    "MultiheadAttention of other keys": (
        lambda: Attention(kdim=12, vdim=12),
        (3, 5, 8),
        [f"attention.{name}" for name in ("q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj.weight")],
    ),
    "LSTM": (
        lambda: First(nn.LSTM(8, 12, bidirectional=True)),
        (5, 3, 8),
        [f"layer.weight_{kind}_l0{way}" for way in ("", "_reverse") for kind in ("ih", "hh")],
    ),
    "LSTM with projection": (
        lambda: First(nn.LSTM(8, 12, proj_size=4)),
        (5, 3, 8),
        ["layer.weight_ih_l0", "layer.weight_hh_l0", "layer.weight_hr_l0"],
    ),
    "GRU": (lambda: First(nn.GRU(8, 12)), (5, 3, 8), ["layer.weight_ih_l0", "layer.weight_hh_l0"]),
    "RNN": (lambda: First(nn.RNN(8, 12)), (5, 3, 8), ["layer.weight_ih_l0", "layer.weight_hh_l0"]),
    "LSTMCell": (lambda: First(nn.LSTMCell(8, 12)), (3, 8), ["layer.weight_ih", "layer.weight_hh"]),
}


def outputs_first(name: str, weight: torch.Tensor, groups: int) -> torch.Tensor:
    """The weight with one row per output channel, by the definition of the layer and by hand."""
    if "ranspose" not in name:
        return weight
    parts = weight.chunk(groups, dim=0)  # stored as (in, out / groups, *kernel)
    return torch.cat([part.transpose(0, 1) for part in parts])


@pytest.mark.parametrize("structure", [Unstructured(), NM(2, 4), Block(2, 2), FanIn()], ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_every_kind_of_layer_trains_sparse_in_every_structure(name: str, structure: Structure) -> None:
    make, shape, expected = LAYERS[name]
    model = make()
    assert names(model) == expected
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    method = rewire.dst_ee(8, every=2, c=1e-2)
    if name == "depthwise" and isinstance(structure, NM):
        with pytest.raises(ValueError, match="weight has 1 input channels, not a multiple of M=4"):
            rewire.sparsify(model, optimizer, method, structure=structure)
        return
    nm = isinstance(structure, NM)
    sparsifier = rewire.sparsify(model, optimizer, method, sparsity=None if nm else 0.5, structure=structure)
    first = sparsifier.masks
    for _ in range(8):
        model(torch.randn(shape)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        for weight, mask in sparsifier.masks.items():
            assert not model.get_parameter(weight)[~mask].any()
            assert model.get_parameter(weight)[mask].count_nonzero() > 0
    assert sparsifier.updates == 3
    assert any(not torch.equal(mask, first[weight]) for weight, mask in sparsifier.masks.items())
    layer = model if hasattr(model, "groups") else None
    for weight, mask in sparsifier.masks.items():
        rows = outputs_first(name, mask, layer.groups if layer else 1)
        if isinstance(structure, FanIn):  # every *output* has as many inputs as every other
            assert rows.flatten(1).sum(1).unique().numel() == 1
        if nm:  # 2 of every 4 consecutive *input* channels
            assert (rows.movedim(1, -1).reshape(-1, 4).sum(1) == 2).all()
        if isinstance(structure, Block):
            matrix = rows.flatten(1)
            tiles = matrix.unflatten(0, (-1, 2)).unflatten(-1, (-1, 2)).transpose(1, 2).flatten(2)
            assert (tiles == tiles[..., :1]).all()
        assert mask.shape == model.get_parameter(weight).shape


def test_the_fan_in_of_a_transposed_convolution_is_that_of_its_outputs() -> None:
    """Output o of group g hears the inputs of group g alone: a unit impulse shows which weights those are."""
    layer = nn.ConvTranspose2d(4, 6, 1, groups=2, bias=False)
    weight = choose(layer)[0][0]
    rows = weight.out_first(layer.weight.detach())
    assert rows.shape == (6, 2, 1, 1)
    for channel in range(4):
        impulse = torch.zeros(1, 4, 1, 1)
        impulse[0, channel] = 1
        group, place = divmod(channel, 2)
        heard = layer(impulse)[0, :, 0, 0]
        assert torch.equal(heard[3 * group : 3 * group + 3], rows[3 * group : 3 * group + 3, place, 0, 0])
    assert torch.equal(weight.as_stored(rows), layer.weight)


# ---- what stays dense


class Everything(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 8)
        self.conv = nn.Conv1d(8, 8, 1)
        self.norm = nn.BatchNorm1d(8)
        self.layer_norm = nn.LayerNorm((8, 2))
        self.scale = nn.Parameter(torch.ones(()))
        self.gate = nn.Parameter(torch.ones(8))
        self.mix = nn.Parameter(torch.ones(8, 8))
        self.head = nn.Linear(8, 4)
        self.body = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8, bias=False))


def test_the_safe_default_and_why() -> None:
    sparse, dense = choose(Everything())
    assert [weight.name for weight in sparse] == ["conv.weight", "head.weight", "body.0.weight", "body.1.weight"]
    assert dense == {
        "scale": "a scalar",
        "gate": "gate of Everything",
        "mix": "mix of Everything",
        "embedding.weight": "embedding",
        "conv.bias": "bias",
        "norm.weight": "weight of BatchNorm1d",
        "norm.bias": "bias",
        "layer_norm.weight": "weight of LayerNorm",
        "layer_norm.bias": "bias",
        "head.bias": "bias",
        "body.0.bias": "bias",
    }


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"exclude": ["head"]}, ["conv.weight", "body.0.weight", "body.1.weight"]),
        ({"exclude": "body.*"}, ["conv.weight", "head.weight"]),
        ({"exclude": ["*.0.weight", nn.Conv1d]}, ["head.weight", "body.1.weight"]),
        ({"exclude": nn.Linear}, ["conv.weight"]),
        (
            {"exclude": lambda name, module: getattr(module, "out_features", 0) == 4},
            ["conv.weight", "body.0.weight", "body.1.weight"],
        ),
        ({"include": ["mix"], "exclude": nn.Linear}, ["mix", "conv.weight"]),
        ({"include": ["gate"], "exclude": [nn.Linear, nn.Conv1d]}, ["gate"]),
        ({"include": nn.Embedding, "exclude": nn.Linear}, ["embedding.weight", "conv.weight"]),
        (
            {"include": lambda name, module: name.endswith("head.bias"), "exclude": ["body.*", "conv"]},
            ["head.weight", "head.bias"],
        ),
        ({"include": ["mix"], "exclude": ["mix", nn.Linear]}, ["conv.weight"]),  # exclude wins
    ],
    ids=lambda value: str(value) if isinstance(value, list) else "",
)
def test_include_and_exclude_by_name_type_and_predicate(options, expected: list[str]) -> None:
    assert names(Everything(), **options) == expected


def test_one_dimensional_weights_train_sparse_when_they_are_included() -> None:
    model = Everything()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    sparsifier = rewire.sparsify(
        model, optimizer, rewire.rigl(8, every=2), sparsity=0.5, include=["gate"], exclude=[nn.Linear, nn.Conv1d]
    )
    assert sparsifier.masks["gate"].shape == (8,)
    for _ in range(8):
        (model.gate * torch.randn(8)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        assert not model.gate[~sparsifier.masks["gate"]].any()
        assert sparsifier.masks["gate"].sum() == 4
    assert sparsifier.exploration > 0.5


def test_a_frozen_weight_stays_as_it_is() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    model[0].weight.requires_grad_(False)
    before = model[0].weight.clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier = rewire.sparsify(model, optimizer, rewire.static(), sparsity=0.9)
    model(torch.randn(2, 8)).sum().backward()
    optimizer.step()
    assert torch.equal(model[0].weight, before)
    assert sparsifier.dense["0.weight"] == "frozen"
    assert list(sparsifier.masks) == ["1.weight"]
    assert names(model, include=["0.weight"]) == ["1.weight"]  # not even when it is named


# ---- tied weights and wrapped models


class Tied(nn.Module):
    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second, self.free = first, second, nn.Linear(8, 8)
        second.weight = first.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.free(self.second(self.first(x)))


def test_a_tied_weight_is_one_entry_and_trains_sparse() -> None:
    model = Tied(nn.Linear(8, 8), nn.Linear(8, 8))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    sparsifier = rewire.sparsify(model, optimizer, rewire.rigl(8, every=2), sparsity=0.7, distribution="uniform")
    assert list(sparsifier.masks) == ["first.weight", "free.weight"]
    for _ in range(8):
        model(torch.randn(4, 8)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        assert not model.second.weight[~sparsifier.masks["first.weight"]].any()
    assert model.second.weight is model.first.weight
    assert sparsifier.updates == 3


def test_the_gradient_of_a_tied_weight_grows_by_both_of_its_uses() -> None:
    torch.manual_seed(1)
    model = Tied(nn.Linear(8, 8), nn.Linear(8, 8))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    start = {"first.weight": torch.eye(8, dtype=torch.bool), "free.weight": torch.ones(8, 8, dtype=torch.bool)}
    sparsifier = rewire.sparsify(model, optimizer, rewire.rigl(8, every=2, fraction=0.9), start=start)
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.randn(4, 8)).square().sum().backward()
        optimizer.step()
    grown = sparsifier.masks["first.weight"] & ~start["first.weight"]
    gradient = model.first.weight.grad.abs()
    assert grown.any()
    assert gradient[grown].min() >= gradient[~sparsifier.masks["first.weight"]].max()


@pytest.mark.parametrize("include", [[], ["first"], ["second"]])
def test_a_weight_tied_to_an_embedding_stays_dense_unless_it_is_named(include: list[str]) -> None:
    model = Tied(nn.Embedding(8, 8), nn.Linear(8, 8, bias=False))
    sparse, dense = choose(model, include=include)
    if include:
        assert [weight.name for weight in sparse] == ["first.weight", "free.weight"]
    else:
        assert [weight.name for weight in sparse] == ["free.weight"]
        assert dense["first.weight"] == "tied to an embedding"


@pytest.mark.parametrize(
    "wrap",
    [
        lambda model: model,
        lambda model: torch.compile(model, backend="eager"),
        nn.DataParallel,
        lambda model: nn.DataParallel(torch.compile(model, backend="eager")),
        lambda model: nn.Sequential(*(torch.compile(layer, backend="eager") for layer in model)),
    ],
    ids=["plain", "compiled", "data parallel", "both", "compiled layers"],
)
def test_names_are_those_of_the_user_s_own_model(wrap) -> None:
    model = wrap(nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.ReLU(), nn.Linear(4, 4))))
    if isinstance(model, nn.Sequential):
        assert names(model) == ["0.weight", "1.1.weight"]
    sparse, dense = choose(model)
    assert [weight.name for weight in sparse] == ["0.weight", "1.1.weight"]
    assert list(dense) == ["0.bias", "1.1.bias"]
    assert names(model, exclude=["1.1"]) == ["0.weight"]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    assert list(rewire.sparsify(model, optimizer, rewire.static(), sparsity=0.5).masks) == ["0.weight", "1.1.weight"]


# ---- bad input


def test_a_pattern_that_matches_nothing_lists_the_modules() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    with pytest.raises(ValueError, match=re.escape("exclude=['fc'] matches no parameter of the model")) as error:
        choose(model, exclude=["fc"])
    assert str(error.value).endswith("so it would do nothing. Its modules are: 0, 1.")
    with pytest.raises(ValueError, match=re.escape("include=[<class 'torch.nn.modules.conv.Conv2d'>] matches no")):
        choose(model, include=[nn.Conv2d])


def test_a_module_of_modules_is_named_by_what_is_inside() -> None:
    model = nn.Sequential()
    model.encoder, model.head = nn.Sequential(nn.Linear(4, 4)), nn.Linear(4, 2)
    with pytest.raises(ValueError, match=re.escape('For all that is inside it, use exclude=["encoder.*"].')):
        choose(model, exclude="encoder")
    assert names(model, exclude="encoder.*") == ["head.weight"]


def test_a_model_without_a_sparse_layer_says_why() -> None:
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 4))
    with pytest.raises(ValueError, match="No layer of the model can be sparse") as error:
        choose(model, exclude=["1"])
    assert str(error.value) == (
        "No layer of the model can be sparse: 0.weight stays dense (weight of BatchNorm1d); 0.bias stays dense (bias); "
        "1.weight stays dense (excluded); 1.bias stays dense (excluded). Name the weights that should be sparse with "
        "include=[...]."
    )
    with pytest.raises(ValueError, match=r"No layer of the model can be sparse: no parameters."):
        choose(nn.ReLU())


def test_a_lazy_layer_says_what_to_do() -> None:
    model = nn.Sequential(nn.LazyLinear(4), nn.Linear(4, 4))
    assert choose(model)[1]["0.weight"] == "not initialised yet: run one forward pass before sparsify()"
    model(torch.randn(1, 3))
    assert names(model) == ["0.weight", "1.weight"]


def test_weights_that_are_no_real_numbers_stay_dense() -> None:
    model = nn.Linear(4, 4, dtype=torch.complex64)
    with pytest.raises(ValueError, match=r"weight stays dense \(torch.complex64 is not a floating-point type\)"):
        choose(model)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_the_gain_of_a_weight_norm_is_no_sparse_layer() -> None:
    lstm = torch.nn.utils.weight_norm(torch.nn.LSTM(4, 8), "weight_hh_l0")
    sparse, dense = choose(lstm)
    assert [weight.name for weight in sparse] == ["weight_ih_l0"]
    assert {"weight_hh_l0_g", "weight_hh_l0_v"} <= dense.keys()


def test_a_long_list_of_modules_is_cut() -> None:
    model = torch.nn.Sequential(*(torch.nn.Linear(2, 2) for _ in range(30)))
    with pytest.raises(ValueError, match=r"Its modules are: 0, 1, .*, 19, \.\.\.\.$"):
        choose(model, exclude=["head"])
