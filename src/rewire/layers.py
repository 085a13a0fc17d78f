"""Which weights of a model become sparse, and why the others stay dense."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from jaxtyping import Shaped
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from rewire.core.names import plain_name, unwrap

Pattern = str | type[nn.Module] | Callable[[str, nn.Module], bool]

# Module types that are sparse by default, with the globs of the parameters that are meant.
SPARSE_TYPES: tuple[tuple[type[nn.Module], tuple[str, ...]], ...] = (
    (nn.Linear, ("weight",)),
    (_ConvNd, ("weight",)),
    (nn.MultiheadAttention, ("in_proj_weight", "?_proj_weight")),
    (nn.RNNBase, ("weight_*[0-9]", "weight_*_reverse")),
    (nn.RNNCellBase, ("weight_ih", "weight_hh")),
)


@dataclass(frozen=True, eq=False)
class SparseWeight:
    """A weight to be made sparse.

    name: its name in the unwrapped model. swapped_groups: 0, or the `groups` of a transposed convolution, whose
    weight is stored as (in, out / groups, *kernel).
    """

    name: str
    parameter: nn.Parameter
    swapped_groups: int = 0

    def out_first(self, weight: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
        """Returns the weight, or its mask, with output channels first: (out, in / groups, *kernel)."""
        if weight.ndim == 1:
            return weight.unsqueeze(-1)
        return self._swap(weight) if self.swapped_groups else weight

    def as_stored(self, weight: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
        """Returns the inverse of `out_first`."""
        if self.parameter.ndim == 1:
            return weight.squeeze(-1)
        return self._swap(weight) if self.swapped_groups else weight

    def _swap(self, weight: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
        # (g * a, b, *k) -> (g * b, a, *k); applying it twice gives the weight back.
        parts: Tensor = weight.unflatten(0, (self.swapped_groups, -1))
        return parts.transpose(1, 2).flatten(0, 1)


def choose(
    model: nn.Module, include: Iterable[Pattern] = (), exclude: Iterable[Pattern] = ()
) -> tuple[list[SparseWeight], dict[str, str]]:
    """Returns the weights to make sparse, in the model's order, and for every other parameter why it stays dense.

    By default the weights of Linear, Conv and ConvTranspose (1d, 2d, 3d), MultiheadAttention, RNN, LSTM and GRU are
    sparse. `include` adds others, `exclude` takes away and wins; each is a list of globs of parameter or module
    names, module types, or functions (name, module) -> bool. A weight used in several places is one entry; one
    tied to an embedding stays dense. Frozen weights stay as they are.

    Raises ValueError where a pattern matches nothing, or no weight is left to be sparse.
    """
    model = unwrap(model)
    include, exclude = _listed(include), _listed(exclude)
    unmatched: list[tuple[str, Pattern]] = [("include", p) for p in include] + [("exclude", p) for p in exclude]
    owners: dict[int, list[tuple[str, nn.Module]]] = {}
    parameters: dict[str, nn.Parameter] = {}
    for module_name, module in model.named_modules():
        for short, parameter in module.named_parameters(recurse=False):
            name = f"{module_name}.{short}" if module_name else short
            name = plain_name(name)
            if id(parameter) not in owners:
                parameters[name] = parameter
            owners.setdefault(id(parameter), []).append((name, module))

    def matches(patterns: list[Pattern], kind: str, uses: list[tuple[str, nn.Module]]) -> bool:
        found = [p for p in patterns if any(_matches(p, name, module) for name, module in uses)]
        for pattern in found:
            if (kind, pattern) in unmatched:
                unmatched.remove((kind, pattern))
        return bool(found)

    sparse, dense = [], {}
    for name, parameter in parameters.items():
        uses = owners[id(parameter)]
        wanted, unwanted = matches(include, "include", uses), matches(exclude, "exclude", uses)
        reason = _why_impossible(parameter) or (None if wanted else _why_dense(parameter, uses))
        reason = "excluded" if unwanted else reason
        if reason:
            dense[name] = reason
        else:
            module = uses[0][1]
            groups = module.groups if isinstance(module, _ConvTransposeNd) else 0
            sparse.append(SparseWeight(name, parameter, groups))
    if unmatched:
        kind, pattern = unmatched[0]
        if any(plain_name(name) == pattern for name, _ in model.named_modules()):
            raise ValueError(
                f"{kind}=[{pattern!r}] matches a module that has no parameter of its own, so it would do nothing. For "
                f'all that is inside it, use {kind}=["{pattern}.*"].'
            )
        names = [plain_name(n) for n, _ in model.named_modules() if n]
        raise ValueError(
            f"{kind}=[{pattern!r}] matches no parameter of the model, so it would do nothing. Its modules are: "
            f"{', '.join(names[:20]) or 'none'}{', ...' if len(names) > 20 else ''}."
        )
    if not sparse:
        raise ValueError(
            "No layer of the model can be sparse: "
            + ("; ".join(f"{name} stays dense ({why})" for name, why in list(dense.items())[:6]) or "no parameters")
            + ". Name the weights that should be sparse with include=[...]."
        )
    return sparse, dense


def _listed(patterns: Iterable[Pattern]) -> list[Pattern]:
    return [patterns] if isinstance(patterns, (str, type)) or callable(patterns) else list(patterns)


def _matches(pattern: Pattern, name: str, module: nn.Module) -> bool:
    if isinstance(pattern, str):
        return fnmatchcase(name, pattern) or fnmatchcase(name.rpartition(".")[0], pattern)
    if isinstance(pattern, type):
        return isinstance(module, pattern)
    return bool(pattern(name, module))


def _why_dense(parameter: nn.Parameter, uses: list[tuple[str, nn.Module]]) -> str | None:
    """The reason for which a parameter is dense unless the user includes it, or None where it is sparse."""
    for name, module in uses:
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
            return "embedding" if len(uses) == 1 else "tied to an embedding"
        short = name.rpartition(".")[2]
        globs = next((globs for kind, globs in SPARSE_TYPES if isinstance(module, kind)), ())
        if not any(fnmatchcase(short, glob) for glob in globs):
            return "bias" if "bias" in short else f"{short} of {type(module).__name__}"
    return "1-D" if parameter.ndim < 2 else None


def _why_impossible(parameter: nn.Parameter) -> str | None:
    """The reason for which a parameter can never be sparse, or None."""
    if not parameter.requires_grad:
        return "frozen"
    if isinstance(parameter, nn.parameter.UninitializedParameter):
        return "not initialised yet: run one forward pass before sparsify()"
    if not torch.is_floating_point(parameter):
        return f"{parameter.dtype} is not a floating-point type"
    return "a scalar" if parameter.ndim == 0 else None
