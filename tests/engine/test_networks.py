"""Whole networks: the engine rounds no worse than torch does.

Both compute in float32, and both are held against float64. What is compared must measure rounding and not luck: where
the input of a ReLU is as good as 0, or two places of a max pooling are as good as equal, a last bit decides whether a
gradient passes, and one such flip, on either side, makes an error a thousand times larger. So

- what a layer gives is compared layer by layer in the network as it is: ReLU and max pooling are continuous;
- gradients are compared with SiLU in place of ReLU and average in place of max pooling, where nothing can flip;
- with ReLU and max pooling again, a gradient is compared over several batches, of which the median is free of flips.

torch computes on contiguous tensors here: with channels_last its batch norm is many times less exact.
"""

import copy
import statistics
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import rewire
from rewire.engine import blocked, library
from rewire.tasks.models.resnet import resnet50
from rewire.tasks.models.vgg import vgg19

torch.set_num_threads(1)

pytestmark = pytest.mark.skipif(library.load() is None, reason="no kernels for this machine")

MOST = 1.2  # times torch's error
ROUNDING = 1e-3  # of a tensor's norm: what no flip is in is far nearer
BATCH = 16


class Errors(NamedTuple):
    """By name, the engine's distance from float64 over torch's: of what layers give, and of gradients.

    farthest_output, farthest_gradient: the engine's largest distance, as a share of the norm of what is right.
    """

    outputs: dict[str, float]
    gradients: dict[str, float]
    farthest_output: float
    farthest_gradient: float


def averaged(model: nn.Module) -> nn.Module:
    for name, child in model.named_children():
        if isinstance(child, nn.MaxPool2d):
            setattr(model, name, nn.AvgPool2d(2))
        else:
            averaged(child)
    return model


def products(model: nn.Module) -> dict[str, nn.Module]:
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)}


def computed(model: nn.Module, x: Tensor, labels: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Returns what every convolution and Linear gave, and the gradients of all parameters."""
    outputs: dict[str, Tensor] = {}
    hooks = [
        module.register_forward_hook(
            lambda _module, _args, output, name=name: outputs.update({name: blocked.plain(output).detach().double()})
        )
        for name, module in products(model).items()
    ]
    F.cross_entropy(model(x), labels).backward()
    for hook in hooks:
        hook.remove()
    return outputs, {name: parameter.grad.double() for name, parameter in model.named_parameters()}


def errors(model: nn.Module, seed: int) -> Errors:
    """Makes the model sparse and runs it in both, and in float64, on one batch."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier = rewire.sparsify(model, optimizer, rewire.static(), sparsity=0.9, engine="cpu", seed=seed)
    assert set(sparsifier.engines.values()) == {"cpu"}
    dense = sparsifier.to_dense()
    exact = copy.deepcopy(dense).double()
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(BATCH, 3, 32, 32, generator=generator)
    labels = torch.randint(10, (BATCH,), generator=generator)
    with blocked.conversions() as left:
        own, packed = computed(model, x, labels)
    assert not left  # it is the blocked layout that is measured
    torchs, gradients = computed(dense, x, labels)
    right, right_gradients = computed(exact, x.double(), labels)
    masks = sparsifier.masks
    storages = sparsifier._storages
    triples = {}
    for name, gradient in packed.items():
        mask = masks.get(name, torch.ones((), dtype=torch.bool))
        mine = storages[name].scatter(gradient) if name in masks else gradient
        triples[name] = (mine, gradients[name] * mask, right_gradients[name] * mask)
    layers = {name: (own[name], torchs[name], right[name]) for name in own}
    return Errors(
        {name: ratio(*triple) for name, triple in layers.items()},
        {name: ratio(*triple) for name, triple in triples.items()},
        max(distance(mine, exact) for mine, _, exact in layers.values()),
        max(distance(mine, exact) for mine, _, exact in triples.values()),
    )


def ratio(own: Tensor, torchs: Tensor, right: Tensor) -> float:
    return float((own - right).norm() / (torchs - right).norm())


def distance(own: Tensor, right: Tensor) -> float:
    return float((own - right).norm() / right.norm())


def mean(ratios: dict[str, float]) -> float:
    """Over all tensors of a network: one of them alone, of ten numbers, is better or worse by chance."""
    return statistics.geometric_mean(ratios.values())


full = pytest.mark.slow  # width 64 takes half a minute
networks = pytest.mark.parametrize(
    ("build", "width", "batches"),
    [
        (vgg19, 8, 5),
        (resnet50, 8, 3),
        pytest.param(vgg19, 64, 1, marks=full),
        pytest.param(resnet50, 64, 1, marks=full),
    ],
    ids=["vgg19, narrow", "resnet50, narrow", "vgg19", "resnet50"],
)


@networks
def test_layers_give_what_torchs_give(build: Callable[..., nn.Module], width: int, batches: int) -> None:
    batch = [errors(build(10, width=width, seed=seed), seed) for seed in range(batches)]
    assert all(each.farthest_output < ROUNDING for each in batch)
    found = [each.outputs for each in batch]
    assert len(found[0]) == {vgg19: 17, resnet50: 54}[build]
    assert statistics.median(mean(ratios) for ratios in found) < MOST
    if batches > 1:
        # Of one layer there are few numbers; and without fused multiply-adds (SSE2) each product is rounded as well.
        assert all(statistics.median(ratios[name] for ratios in found) < 1.25 * MOST for name in found[0])


@networks
def test_gradients_without_decisions(
    build: Callable[..., nn.Module], width: int, batches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(F, "relu", lambda x, inplace=False: F.silu(x))  # nn.ReLU calls it too
    models = [averaged(build(10, width=width, seed=seed)) for seed in range(batches)]
    found = [errors(model, seed) for seed, model in enumerate(models)]
    assert all(each.farthest_gradient < ROUNDING for each in found)
    assert statistics.median(mean(each.gradients) for each in found) < MOST


@pytest.mark.slow  # half a minute
@pytest.mark.parametrize("build", [vgg19, resnet50])
def test_gradients_with_decisions(build: Callable[..., nn.Module]) -> None:
    """A flip of torch's is as likely as one of the engine's: the median lies between batches in favour of each."""
    found = [errors(build(10, width=8, seed=seed), seed) for seed in range(15)]
    assert statistics.median(each.farthest_gradient for each in found) < 0.1
    assert statistics.median(mean(each.gradients) for each in found) < 2 * MOST
