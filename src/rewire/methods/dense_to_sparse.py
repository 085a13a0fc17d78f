"""Methods that train dense first and prune once, then train on under a fixed mask."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from rewire.core.budget import Alternating
from rewire.core.groups import group_budgets
from rewire.core.method import Method
from rewire.core.phase import DensePhase
from rewire.core.pull import Pull
from rewire.core.schedule import Cubic, Every
from rewire.core.score import Layer, Magnitude, Need
from rewire.core.select import nth_highest, top
from rewire.core.share import Ranked
from rewire.methods.options import check, check_share
from rewire.methods.registry import method

# ---- ADMM


@dataclass(frozen=True)
class Dual(Need):
    """One of ADMM's two tensors beside the weight: the sparse target Z or the dual U; one float a weight each."""

    name: str = field(default="admm_dual")
    gradient: Literal["never", "due", "always"] = field(default="never", init=False)

    def start(self, weight: Tensor) -> Tensor:
        return torch.zeros_like(weight)


TARGET, DUAL = Dual("admm_target"), Dual("admm_dual")


@dataclass(frozen=True)
class Admm(Pull):
    """Pulls weights W towards the nearest ones that hold the budget, from step `begin` to `end`:

        W += - rate * rho * (W - Z + U);    every `every` steps: Z = largest abs(W + U) of the layer, U += W - Z

    Reference: Zhang et al., A Systematic DNN Weight Pruning Framework using Alternating Direction Method of
    Multipliers, ECCV 2018, section 3, https://arxiv.org/abs/1804.03294
    """

    rho: float
    begin: int
    end: int
    every: int

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({TARGET, DUAL})

    def _acts(self, step: int) -> bool:
        return self.begin < step <= self.end

    def __call__(self, layer: Layer, rate: float) -> Float[Tensor, "groups units size"]:
        if not self._acts(layer.step):
            return torch.zeros_like(layer.weight)
        return (layer.weight - layer.extra[TARGET.name] + layer.extra[DUAL.name]) * (-rate * self.rho)

    def remember(self, layer: Layer, budget: int) -> dict[str, Tensor]:
        if not self._acts(layer.step + 1) or (layer.step - self.begin) % self.every:
            return {}
        moved = layer.weight + layer.extra[DUAL.name]
        units = moved.abs().mean(-1)
        budgets = group_budgets(budget, units.shape[0]).to(units.device)
        kept = top(units, torch.ones_like(units, dtype=torch.bool), budgets).unsqueeze(-1)
        target = torch.where(kept, moved, 0)
        return {TARGET.name: target, DUAL.name: moved - target}


@method(
    "admm",
    paper="Zhang et al., ECCV 2018, https://arxiv.org/abs/1804.03294",
    keeps="nothing: dense for two thirds of the run, then the mask",
    costs="dense training for two thirds of the run, and two floats a weight",
)
def admm(
    steps: int = 0, *, every: int = 100, rho: float = 0.1, reweight: float = 1 / 3, prune: float = 2 / 3
) -> Method:
    """Returns ADMM pruning: train dense, then pull the weights towards the budget, then prune and train on.

    From the share `reweight` of the steps on, weights are pulled towards the largest of each layer, which are chosen
    anew every `every` steps; at the share `prune` all others go, and the mask stays.

    Reference: Zhang et al., A Systematic DNN Weight Pruning Framework using Alternating Direction Method of
    Multipliers, ECCV 2018, https://arxiv.org/abs/1804.03294
    """
    check_share("reweight", reweight)
    check_share("prune", prune)
    begin, end = int(reweight * steps), int(prune * steps)
    check("admm", steps, every, steps - every)
    if not begin < end < steps:
        raise ValueError(
            f"admm(steps={steps}, reweight={reweight:g}, prune={prune:g}) leaves a phase without a step: dense to step "
            f"{begin}, pulled to {end}, sparse to {steps}. Use a longer run, or reweight=1/3 and prune=2/3."
        )
    if not (math.isfinite(rho) and rho > 0):
        raise ValueError(f"rho={rho} pulls nothing. Use a positive number, such as rho=0.1.")
    pull = Admm(rho, begin, end, every)
    return Method("admm", Magnitude(), due=Every(end, end), density=Alternating(end, end), pull=pull)


# ---- STR

_LOWEST = -10.0  # exp of it is 5e-5, a threshold that hardly any weight is below


class _SoftThreshold(nn.Module):
    """sign(w) * relu(abs(w) - exp(s)) with a learned s, in float32 at least."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        dtype = torch.promote_types(weight.dtype, torch.float32)
        self.s = nn.Parameter(torch.full((), _LOWEST, dtype=dtype, device=weight.device))

    def forward(self, weight: Tensor) -> Tensor:
        return weight.sign() * torch.relu(weight.abs() - self.s.exp())


@dataclass(frozen=True)
class SoftThreshold(DensePhase):
    """Every weight passes a soft threshold that its layer learns: sign(w) * relu(abs(w) - exp(s)).

    s learns at the rate of its layer's weight and shrinks by that times `decay`. After each step the thresholds of all
    layers are multiplied by one number, so that as many weights are above them as are planned: all of them at step 0,
    the budget at step `end`, by a cubic in between. So the loss decides how the thresholds stand to each other, and
    the decay how far apart.

    The paper's sigmoid(s) is nearly the same where thresholds are small; one above 1, for large weights, it has not.

    Reference: Kusupati et al., Soft Threshold Weight Reparameterization for Learnable Sparsity, ICML 2020, section 3,
    https://arxiv.org/abs/2002.03231
    """

    decay: float
    end: int

    def begin_(self, model: nn.Module, names: Iterable[str], optimizer: torch.optim.Optimizer) -> None:
        groups = _groups(optimizer)
        for name in names:
            module, attribute = _owner(model, name)
            weight = getattr(module, attribute)
            threshold = _SoftThreshold(weight)
            parametrize.register_parametrization(module, attribute, threshold)
            group = groups[id(weight)]  # and none of its own, which a scheduler that is there already would not know
            group["params"].append(threshold.s)
            if "param_names" in group:
                group["param_names"].append(f"{name}.s")

    @torch.no_grad()
    def after_step_(
        self, model: nn.Module, names: Iterable[str], optimizer: torch.optim.Optimizer, step: int, budget: int
    ) -> None:
        groups, layers = _groups(optimizer), [_parts(model, name) for name in names]
        for _, s in layers:
            s.mul_(1 - groups[id(s)]["lr"] * self.decay)
        lowest = math.exp(_LOWEST)
        margins = torch.cat([(weight.abs().clamp(min=lowest).to(s.dtype).log() - s).flatten() for weight, s in layers])
        above = round(Cubic(margins.numel(), budget, 0, self.end)(step))
        if above < margins.numel():
            shift = nth_highest(margins, above + 1)
            for _, s in layers:
                s.add_(shift)

    def end_(self, model: nn.Module, names: Iterable[str]) -> None:
        for name in names:
            module, attribute = _owner(model, name)
            original, _ = _parts(model, name)
            with torch.no_grad():
                original.copy_(getattr(module, attribute))  # in place, because optimizers and hooks hold it
            parametrize.remove_parametrizations(module, attribute, leave_parametrized=False)


def _groups(optimizer: torch.optim.Optimizer) -> dict[int, dict[str, Any]]:
    """Returns the optimizer's group of every parameter, by the parameter's id."""
    return {id(parameter): group for group in optimizer.param_groups for parameter in group["params"]}


def _parts(model: nn.Module, name: str) -> tuple[Tensor, Tensor]:
    """Returns a weight before its threshold, and the s of that."""
    module, attribute = _owner(model, name)
    parts: Any = module.parametrizations[attribute]  # type: ignore[index]
    return parts.original, parts[0].s


def _owner(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, attribute = name.rpartition(".")
    return model.get_submodule(path), attribute


@method(
    "str",
    paper="Kusupati et al., ICML 2020, https://arxiv.org/abs/2002.03231",
    keeps="nothing: dense until it is folded, then the mask",
    costs="dense training until it is folded; one threshold a layer",
)
def str_(steps: int = 0, *, decay: float = 0.5, fold: float = 0.6) -> Method:
    """Returns STR: every layer learns a soft threshold for its weights, folded away into a mask before the end.

    Until the share `fold` of the steps a layer computes with sign(w) * relu(abs(w) - exp(s)), with a learned s. In the
    paper weight decay pulls s up, and the sparsity is what that makes it; here all thresholds rise by the same factors,
    such that the number of weights above them falls to the budget (see `SoftThreshold`). Then the weights take the
    values that they compute with, and the rest of the run trains those above the thresholds. decay: shrinks s, and so
    what tells the thresholds apart, at each step by learning rate * decay.

    Reference: Kusupati et al., Soft Threshold Weight Reparameterization for Learnable Sparsity, ICML 2020, section 3,
    https://arxiv.org/abs/2002.03231
    """
    check_share("fold", fold)
    last = min(int(fold * steps), steps - 1)
    check("str_", steps, 1, last)
    if not (math.isfinite(decay) and decay >= 0):
        raise ValueError(f"decay={decay} is below 0 or no number. Use decay=0.5, say, or 0 for none.")
    phase, due, density = SoftThreshold(decay, last), Every(last, last), Alternating(last, last)
    return Method("str", Magnitude(), due=due, density=density, share=Ranked(), phase=phase)
