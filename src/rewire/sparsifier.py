"""The Sparsifier: the one stateful object, hooked around the user's own `optimizer.step()`.

Over 300 lines, because the order of one step and what the user may call belong together; layers, storage, start and
checks have files of their own.
"""

from __future__ import annotations

import copy
import gc
import warnings
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from torch.utils.weak import WeakIdKeyDictionary

from rewire.accounts import Accounts, Budget
from rewire.checks import (
    check_engine,
    check_finite,
    check_optimizer,
    check_phase,
    check_state,
    check_structure,
    check_values,
    warn_of_foreign_state,
)
from rewire.core.budget import Distribution
from rewire.core.method import Method
from rewire.core.names import unwrap
from rewire.core.phase import DensePhase
from rewire.core.pruner import Pruner
from rewire.core.pull import Pull
from rewire.core.score import Score, layer_key
from rewire.core.share import Keep, Terms
from rewire.core.structure import Structure
from rewire.core.update import next_topology, trained_units
from rewire.engine import swap
from rewire.engine.choice import Choice, settled
from rewire.layers import Pattern, choose
from rewire.masked import Masked
from rewire.start import begin
from rewire.storage import Due, Storage, gradient_hook

FORMAT = 1  # of state_dict()

_taken: WeakIdKeyDictionary = WeakIdKeyDictionary()  # weight -> weak reference to its sparsifier


def _is_taken(parameter: nn.Parameter) -> bool:
    """Returns whether a sparsifier that still lives has the weight; one goes with its optimizer."""
    if parameter in _taken and _taken[parameter]() is not None:
        gc.collect()  # optimizer and sparsifier hold each other, so an abandoned pair may still be there
    return parameter in _taken and _taken[parameter]() is not None


def _keeps_zeros(optimizer: torch.optim.Optimizer) -> bool:
    """Returns whether a weight of 0 with a gradient and a state of 0 stays so; False where that is not known."""
    kind = type(optimizer)  # exactly: a subclass may do more
    if kind in (torch.optim.Adam, torch.optim.AdamW):
        return all(group["eps"] > 0 for group in optimizer.param_groups)  # 0 / 0 else
    return kind is torch.optim.SGD


class Topology(NamedTuple):
    """Units of a layer that are active, and those that the optimizer trains; None for as before."""

    active: Bool[Tensor, "groups units"]
    trained: Bool[Tensor, "groups units"] | None


@dataclass(frozen=True)
class Update:
    """What one topology update did.

    step: optimizer steps taken. moved: by layer, weights that are active now and were not before. active: by layer,
    active weights now. exploration: share of weights that have been active at least once. churn: moved over active.
    energy: ||W - W*M||^2 / ||W||^2 over all sparse layers, W the weights before and M the mask after the update: the
    share of the squared weights that was dropped.
    """

    step: int
    moved: Mapping[str, int]
    active: Mapping[str, int]
    exploration: float
    churn: float
    energy: float


def sparsify(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    method: Method,
    *,
    sparsity: float | Mapping[str, float] | None = None,
    distribution: Distribution | None = None,
    structure: Structure | None = None,
    start: Score | Pruner | Mapping[str, Tensor] | None = None,
    batches: Iterable[Any] | None = None,
    loss: Callable[[Any, Any], Tensor] | None = None,
    include: Iterable[Pattern] = (),
    exclude: Iterable[Pattern] = (),
    seed: int = 0,
    engine: Literal["masked", "cpu", "auto"] | Mapping[str, str] = "masked",
    example: Any = None,
    micro_batches: int = 1,
    untouched: bool = False,
    on_update: Callable[[Update], None] | None = None,
) -> Sparsifier:
    """Makes a model sparse and keeps it so while the user's own loop trains it.

    sparsity: share of the sparse layers' weights that is zero, in [0, 1); or a mapping of globs, such as
        ``{"*": 0.95, "fc": 0.5, "conv1": 0}``, where the last match wins and named layers leave the solve. An N:M
        structure fixes its own. It may be left out where `start` gives masks.
    distribution: "erk", "er" or "uniform" by the layers' shapes, "global" by the scores of `start`. By default "erk",
        and "global" where a pruner picks the first topology.
    structure: which weights switch together; by default the method's own, which is unstructured for nearly all.
    start: what picks the first topology, by default the method's own: a score (`Random()`, or `Magnitude()` to keep
        the best weights of a trained model), a pruner such as `Snip()`, or masks by name (True = active).
    batches, loss: for a pruner, some (input, target) of training and what makes a number of (output, target).
    include, exclude: globs of names, module types or functions (name, module) -> bool, see `layers.choose`.
    seed: of all randomness; the same seed gives the same run. on_update: called after every topology update.
    engine: "masked" keeps dense weights with zeros, on any device; "cpu" holds and computes the active weights alone,
        in every Linear and Conv2d that it can run: the module's `weight` becomes a 1-D Parameter of them, in the
        optimizer too. `sparsifier.engines` says which layer has which. The model's state_dict is dense with both.
        "auto" measures every layer with both, here and now, and takes the faster: `sparsifier.choices` has the
        milliseconds. A mapping of weights to "masked" or "cpu" repeats a choice; what it leaves out is "cpu".
    example: for "auto" one batch, as the model gets it in training: a tuple or a dict where it takes several arguments.
    micro_batches: backward passes to one optimizer step; only engine="cpu" must know, on the steps of updates.
    untouched: promises that only the optimizer writes to weights and its state, and nobody to gradients. After a step
        of SGD, Adam or AdamW with masked gradients inactive weights are 0 already then, and are not zeroed once more.

    Initial weights are not rescaled. Raises ValueError or TypeError, before anything is changed, where the budget,
    the structure or the optimizer cannot work.
    """
    structure, start = structure or method.structure, method.start if start is None else start
    check_values(method, structure, start)
    if swap.is_packed(model):
        raise ValueError(
            'The model holds layers of engine="cpu", which belong to a sparsifier already. Call .remove() on that, or '
            "go on with the dense model that copy.deepcopy(model) gives."
        )
    weights, dense = choose(model, include, exclude)
    check_optimizer(optimizer, weights)
    taken = next((weight.name for weight in weights if _is_taken(weight.parameter)), None)
    if taken is not None:
        raise ValueError(f"{taken} already has a sparsifier, and two would fight over it. Call .remove() on the first.")
    check_structure(structure, method, weights)
    check_phase(method, model)
    storages = {weight.name: Masked(weight, structure, method.needs) for weight in weights}
    keys = {name: layer_key(seed, name, step=0) for name in storages}
    distribution = distribution or ("global" if isinstance(start, Pruner) else "erk")
    budget, topologies = begin(
        storages, method, structure, start, sparsity, distribution, keys, model=model, batches=batches, loss=loss
    )
    check_engine(engine, micro_batches, method, model, optimizer, storages.values())
    modules, engines = swap.engines(engine, model, weights)
    for name, topology in topologies.items():
        trained = trained_units(method, storages[name].layer(0, keys[name]), topology)
        storages[name].rewire_(topology, {}, trained)
    masks = {name: storage.active for name, storage in storages.items()}
    modules, engines, choices = settled(engine, model, modules, engines, masks, example)
    # Nothing of the user's has been touched up to here.
    packed = {name: swap.pack_(module, storages.pop(name), optimizer) for name, module in modules.items()}
    if engine == "cpu" and not budget.moves:  # pruning while training begins dense
        swap.warn_of_low_sparsity(packed.values())
    all_storages: dict[str, Storage] = {name: (packed | storages)[name] for name in keys}
    if method.phase is not None:
        method.phase.begin_(unwrap(model), keys, optimizer)
    return Sparsifier(
        model,
        optimizer,
        method,
        structure,
        all_storages,
        budget,
        dense,
        engines,
        choices,
        seed,
        micro_batches,
        untouched,
        on_update,
    )


class Sparsifier:
    """Keeps a model sparse: masks gradients, weights and optimizer state, and moves the topology when it is due.

    Made by `sparsify`. `dense` says for every other parameter why it stays dense; `engines` says for every sparse
    weight what runs it: "cpu", or "masked" and why; `choices` what engine="auto" has measured.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        method: Method,
        structure: Structure,
        storages: Mapping[str, Storage],
        budget: Budget,
        dense: Mapping[str, str],
        engines: Mapping[str, str],
        choices: Mapping[str, Choice],
        seed: int,
        micro_batches: int,
        untouched: bool,
        on_update: Callable[[Update], None] | None,
    ) -> None:
        self.method, self.structure, self.seed = method, structure, seed
        self.dense, self.engines, self.choices = dense, engines, choices
        self.updates, self._phase = 0, method.phase
        self._model = weakref.ref(unwrap(model))
        self._optimizer, self._on_update, self._micro_batches = optimizer, on_update, micro_batches
        self._storages, self._accounts = storages, Accounts(budget, method, storages)
        self._memory = method.share.start()
        self._calls = 0
        self._overflows: Tensor | None = None
        self._watching = False  # the gradients of the coming backward passes stay dense
        self._watched = False  # those of the last step were
        self._masked = False  # a gradient of the coming step was masked
        self._untouched = untouched and method.pull is None and _keeps_zeros(optimizer)
        self._stays_zero = False  # the step that is being taken leaves inactive places at 0
        self._saved_zeros: Mapping[str, int] = {}  # just loaded: active weights that were 0 when the state was saved
        self._state_seen = False
        self._state_loaded = False  # the optimizer's, maybe from a run with the other storage
        self._moved: Mapping[str, int] = dict.fromkeys(storages, 0)
        self._zero_inactive()
        this = weakref.ref(self)

        def stays_dense() -> bool:
            alive = this()
            return alive is not None and alive._before_gradient()

        self._hooks: list[RemovableHandle] = [
            storage.parameter.register_post_accumulate_grad_hook(gradient_hook(storage, stays_dense))
            for storage in self._storages.values()
        ]
        self._hooks.append(optimizer.register_step_post_hook(self._after_step))
        self._hooks.append(optimizer.register_step_pre_hook(self._before_step))
        self._hooks.append(optimizer.register_load_state_dict_post_hook(self._after_load))
        if "cpu" in engines.values():
            self._hooks.append(swap.hook_output(model))
        for storage in self._storages.values():
            _taken[storage.parameter] = this
        self._watch_next()

    # ---- what the user reads

    @property
    def step(self) -> int:
        """Optimizer steps taken; those that AMP skipped on overflow do not count."""
        self._settle()
        return self._calls

    @property
    def masks(self) -> dict[str, Bool[Tensor, "..."]]:
        """The active weights of every sparse layer, True where active; copies, by parameter name."""
        return {name: storage.mask() for name, storage in self._storages.items()}

    @property
    def trained(self) -> dict[str, Bool[Tensor, "..."]]:
        """The weights that the optimizer trains, as `masks`; the same but for methods that train more (Top-KAST)."""
        return {name: storage.trained_mask() for name, storage in self._storages.items()}

    @property
    def budget(self) -> dict[str, int]:
        """Active weights planned for the end of training, by parameter name; where layers trade, as it stands."""
        return self._accounts.end()

    @property
    def density(self) -> float:
        """Active weights over all weights of the sparse layers."""
        active = sum(storage.count() for storage in self._storages.values())
        return active / sum(storage.numel for storage in self._storages.values())

    @property
    def sparsity(self) -> float:
        """1 - density."""
        return 1 - self.density

    @property
    def exploration(self) -> float:
        """Share of the sparse layers' weights that have been active at least once (ITOP's R_s)."""
        explored = sum(storage.explored() * storage.size for storage in self._storages.values())
        return explored / sum(storage.numel for storage in self._storages.values())

    @property
    def mean_density(self) -> dict[str, float]:
        """The density of every sparse layer, by name, on average over the steps taken; before the first, as it is."""
        return self._accounts.mean(self.step)

    def planned_density(self, steps: int) -> dict[str, float]:
        """Returns the density planned for every sparse layer, by name, on average over a run of that many steps."""
        return self._accounts.planned_mean(steps)

    @property
    def nbytes(self) -> int:
        """Bytes kept between steps beside the model and the optimizer: masks or indices, visits, running means."""
        return sum(storage.nbytes for storage in self._storages.values())

    def metrics(self) -> dict[str, float]:
        """Returns a flat dict for any tracker, with figures of the whole and of each layer."""
        whole = {
            "sparsity": self.sparsity,
            "exploration": self.exploration,
            "updates": float(self.updates),
            "moved": float(sum(self._moved.values())),
        }
        layers = {
            f"{figure}/{name}": value
            for name, storage in self._storages.items()
            for figure, value in (
                ("sparsity", 1 - storage.count() / storage.numel),
                ("exploration", storage.explored() / (storage.groups * storage.units)),
                ("moved", float(self._moved[name])),
            )
        }
        return {f"rewire/{key}": value for key, value in (whole | layers).items()}

    def __deepcopy__(self, memo: dict[int, Any]) -> Sparsifier:
        raise TypeError(
            "A Sparsifier cannot be copied: its hooks belong to one model and one optimizer. Copy the model alone (an "
            "EMA is an ordinary module), or call sparsify() on the copy and load sparsifier.state_dict()."
        )

    def __repr__(self) -> str:
        return (
            f"Sparsifier({self.method.name}, {self.structure}, {len(self._storages)} sparse layers, "
            f"sparsity {self.sparsity:.4f}, step {self.step}, {self.updates} updates)"
        )

    def __str__(self) -> str:
        rows = [("layer", "shape", "sparsity", "explored", "moved last time", "engine")]
        for name, storage in self._storages.items():
            sparsity = 1 - storage.count() / storage.numel
            explored = storage.explored() / (storage.groups * storage.units)
            shape = "x".join(str(side) for side in storage.stored)
            rows.append((name, shape, f"{sparsity:.4f}", f"{explored:.4f}", str(self._moved[name]), self.engines[name]))
        columns = 6 if set(self.engines.values()) != {"masked"} else 5
        widths = [max(len(row[column]) for row in rows) for column in range(columns)]
        table = "\n".join(
            "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=False)).rstrip() for row in rows
        )
        stays = "; ".join(f"{name} ({why})" for name, why in self.dense.items())
        return f"{self!r}\n{table}\nstays dense: {stays or 'nothing'}"

    # ---- what the user does

    @torch.no_grad()
    def clip_grad_norm_(self, max_norm: float, norm_type: float = 2.0, error_if_nonfinite: bool = False) -> Tensor:
        """Clips the gradients of all the optimizer's parameters by their joint norm over *active* weights.

        Unlike `torch.nn.utils.clip_grad_norm_` it means the same on the steps of updates, where gradients are dense:
        inactive places neither count nor are scaled, so growth sees them as they are. Returns the norm.
        """
        storages = {id(storage.parameter): storage for storage in self._storages.values()}
        parameters = [p for group in self._optimizer.param_groups for p in group["params"]]
        seen: list[tuple[Tensor, Tensor | None]] = []
        for parameter in parameters:
            if parameter.grad is not None:
                storage = storages.get(id(parameter))
                seen.append((parameter.grad, storage.gradient_mask() if storage else None))
        counted = [grad if active is None else torch.where(active, grad, 0) for grad, active in seen]
        norm = nn.utils.get_total_norm(counted, norm_type, error_if_nonfinite)
        factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)
        for grad, active in seen:
            scaled = grad * factor.to(grad.device)
            grad.copy_(scaled if active is None else torch.where(active, scaled, grad))
        return norm

    def watch(self) -> None:
        """Keeps the gradients of the coming backward passes dense, for an `update()` by hand after the step."""
        self._settle()
        self._watching = True
        self._tell()

    def update(self) -> Update:
        """Moves the topology now, in loops whose schedule is their own; call `watch()` before the backward pass.

        Call it after `optimizer.step()` and before the gradients are cleared.
        """
        if not self.method.dynamic:
            raise ValueError(
                f"{self.method.name} never moves its topology, so there is nothing to update. Use a dynamic method, "
                "such as dst_ee(steps=...)."
            )
        if self.method.gradient != "never" and not self._watched:
            raise RuntimeError(
                f"{self.method.name} reads the dense gradient, but that of the last step was masked (or there was no "
                "step yet). Call sparsifier.watch() before the backward pass, then optimizer.step(), then update()."
            )
        self._settle()
        return self._update()

    def to_dense(self) -> nn.Module:
        """Returns an ordinary dense copy of the model, with zeros where inactive; the model goes on as it is."""
        model = self._model()
        if model is None:
            raise RuntimeError("The model does not exist any more, so there is nothing to copy. Keep it in a variable.")
        return swap.unhooked(copy.deepcopy(model))

    def remove(self) -> None:
        """Takes every hook away; a plain model with zeros stays, in the optimizer too."""
        self._fit_state()
        self._end_phase()
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        for storage in self._storages.values():
            _taken.pop(storage.parameter, None)
        model = self._model()
        if model is not None:
            swap.unpack_(model, self._optimizer)

    def state_dict(self) -> dict[str, Any]:
        """Returns plain containers and CPU tensors, for torch.save and `torch.load(weights_only=True)`."""
        return {
            "format": FORMAT,
            "method": repr(self.method),
            "structure": repr(self.structure),
            "budget": str(self._accounts.budget),
            "seed": self.seed,
            "step": self.step,
            "updates": self.updates,
            "moved": dict(self._moved),
            "memory": dict(self._memory),
            "accounts": self._accounts.state_dict(),
            "engines": dict(self.engines),
            "layers": {name: storage.state_dict() for name, storage in self._storages.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from a saved state. Load the model and the optimizer as well, in any order, but after sparsify();
        for a method with a dense phase (STR), whose end changes the names in the model's state, after this.

        Raises ValueError, and changes nothing, where the state is of another format, method, structure or model, or
        is not whole.
        """
        check_state(
            state,
            FORMAT,
            {"method": repr(self.method), "structure": repr(self.structure), "budget": str(self._accounts.budget)},
            {name: tuple(storage.stored) for name, storage in self._storages.items()},
        )
        layers = {name: storage.read(state["layers"][name]) for name, storage in self._storages.items()}
        if state["updates"] and self._phase is not None:
            self._end_phase()
        elif self._phase is None and self.method.phase is not None and not state["updates"]:
            raise ValueError(
                f"The saved state is of the dense phase of {self.method.name}, which this sparsifier has left; nothing "
                "was changed. Call sparsify() anew and load the state into that."
            )
        self.seed, self._calls, self.updates = state["seed"], state["step"], state["updates"]
        self._overflows, self._moved = None, dict(state["moved"])
        self._memory = dict(state["memory"])
        self._accounts.load_state_dict(state["accounts"])
        for name, storage in self._storages.items():
            storage.take_(*layers[name], {} if self._state_loaded else self._state_of(storage))
        self._zero_inactive()
        self._watched = self._masked = False
        self._saved_zeros = {name: layer["zeros"] for name, layer in state["layers"].items() if "zeros" in layer}
        self._watch_next()

    # ---- around optimizer.step()

    def _before_gradient(self) -> bool:
        """Returns whether a gradient that has just been accumulated stays dense."""
        self._fit_state()
        self._stays_zero = False  # inside of step(), by a closure
        if self._saved_zeros:
            saved, self._saved_zeros = self._saved_zeros, {}
            self._compare_zeros(saved)
        self._masked |= not self._watching
        return self._watching

    def _compare_zeros(self, saved: Mapping[str, int]) -> None:
        """Warns where the model that goes on training is not the one whose topology was loaded."""
        lost = {name: self._storages[name].zeros() - zeros for name, zeros in saved.items()}
        if any(count > 0 for count in lost.values()):
            first = next(name for name, count in lost.items() if count > 0)
            warnings.warn(
                f"{lost[first]} active weights of {first} are 0 that were not when the sparsifier's state was saved, "
                "because the model was not loaded, or was loaded before sparsify(), which zeroed them. Call "
                "model.load_state_dict() after sparsify().",
                stacklevel=2,
            )

    def _before_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        self._fit_state()  # where gradients were set by hand
        self._stays_zero = self._untouched and all(s.has_zeros(self._state_of(s)) for s in self._storages.values())

    def _after_load(self, optimizer: torch.optim.Optimizer) -> None:
        self._state_loaded = True

    def _fit_state(self) -> None:
        """Once all is loaded, in whatever order, brings optimizer state of the other storage into the shape of this."""
        if self._state_loaded:
            for storage in self._storages.values():
                storage.fit_(self._state_of(storage))
            self._state_loaded = False

    def _state_of(self, storage: Storage) -> dict[str, Any]:
        state: dict[str, Any] = self._optimizer.state.get(storage.parameter, {})
        return state

    def _after_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        self._calls += 1
        found = getattr(optimizer, "found_inf", None)  # set by GradScaler while a fused optimizer steps
        skipped = None if found is None else found > 0  # it sums over devices
        if skipped is not None:
            self._overflows = skipped.int() if self._overflows is None else self._overflows + skipped
        if self._watching:
            for storage in self._storages.values():
                storage.observe_(skipped)
        if self.method.pull is not None and (skipped is None or not bool(skipped)):
            self._pull(self.method.pull)
        if self._phase is not None and (skipped is None or not bool(skipped)):
            self._lead(self._phase)
        if not self._state_seen:  # optimizers make their state in their first step
            warn_of_foreign_state(optimizer, self._storages.values())
            self._state_seen = True
        if self._stays_zero:
            for storage in self._storages.values():
                storage.note_zeros_(self._state_of(storage))
        else:
            self._zero_inactive()
        due = self.method.dynamic and self.method.due(self._calls)
        if due:
            self._settle()
            due = self.method.due(self._calls) and (skipped is None or not bool(skipped))
        self._watched, self._masked = self._watching and not self._masked, False
        self._watch_next()  # before the update, which may raise
        if due:
            self._update()

    def _settle(self) -> None:
        """Takes back the steps that AMP skipped; waits for the device, so only where an update may be due."""
        if self._overflows is not None:
            self._calls -= int(self._overflows.item())
            self._overflows = None

    def _watch_next(self) -> None:
        """Decides whether the gradients of the coming step stay dense."""
        if self._near():
            self._settle()
        self._watching = self.method.gradient == "always" or self._near()
        self._tell()

    def _near(self) -> bool:
        """Returns whether the coming step is one whose dense gradient an update will read."""
        window = range(self._calls + 1, self._calls + 1 + self.method.window)
        return self.method.gradient == "due" and any(map(self.method.due, window))

    def _tell(self) -> None:
        """Tells the storages whether the gradients of the coming step stay dense, and what the update will do."""
        if not self._watching or self.method.gradient == "always":
            for storage in self._storages.values():
                storage.watch_(None)
            return
        step = self._calls + 1
        planned = self._accounts.plan(step)
        for name, storage in self._storages.items():
            key, fraction = layer_key(self.seed, name, step), self.method.fraction(step)
            storage.watch_(Due(self.method, step, key, planned[name], fraction, self._micro_batches))

    def _pull(self, pull: Pull) -> None:
        self._settle()
        rates = {id(p): float(group["lr"]) for group in self._optimizer.param_groups for p in group["params"]}
        for name, storage in self._storages.items():
            key = layer_key(self.seed, name, self._calls)
            storage.pull_(pull, rates[id(storage.parameter)], self._accounts.final[name], self._calls, key)

    def _lead(self, phase: DensePhase) -> None:
        self._settle()
        model = self._model()
        if model is not None:
            budget = sum(self._accounts.end().values())
            phase.after_step_(model, self._storages, self._optimizer, self._calls, budget)

    def _end_phase(self) -> None:
        """Ends the dense phase of a method that has one, where it still lasts."""
        model = self._model()
        if self._phase is not None and model is not None:
            self._phase.end_(model, self._storages)
        self._phase = None

    @torch.no_grad()
    def _zero_inactive(self) -> None:
        for storage in self._storages.values():
            storage.zero_inactive_(self._state_of(storage))

    @torch.no_grad()
    def _update(self) -> Update:
        self._end_phase()
        live = dict(self._storages)
        if self.method.gradient != "never":  # no gradient is no signal: such a layer stays as it is
            live = {name: storage for name, storage in live.items() if storage.parameter.grad is not None}
        check_finite(live.values(), self._calls, self.method.gradient != "never")
        planned = self._accounts.plan(self._calls)
        topologies: dict[str, Topology] = {}
        if isinstance(self.method.share, Keep):  # one after another, so that what scores look at is dense for one alone
            for name in live:
                topologies |= self._next_topologies({name: live[name]}, planned)
        else:
            topologies = self._next_topologies(live, planned)
        self._accounts.spend(self._calls)
        moved, energies = dict.fromkeys(self._storages, 0), []
        for name, storage in self._storages.items():
            before = storage.active_units()
            after, trained = topologies.pop(name, Topology(before, None))
            moved[name] = int((after & ~before).sum()) * storage.size
            energies.append(storage.energy(after))
            key = layer_key(self.seed, name, self._calls)
            storage.rewire_(after, self._state_of(storage), trained, key)
        self._zero_inactive()
        self.updates += 1
        self._moved = moved
        active_now = {name: storage.count() for name, storage in self._storages.items()}
        churn = sum(moved.values()) / sum(active_now.values())
        dropped, whole = map(sum, zip(*energies, strict=True))
        energy = dropped / whole if whole else 0.0
        update = Update(self._calls, moved, active_now, self.exploration, churn, energy)
        if self._on_update is not None:
            self._on_update(update)
        return update

    def _next_topologies(self, storages: Mapping[str, Storage], planned: Mapping[str, int]) -> dict[str, Topology]:
        """Returns the next topologies of layers that share their budget."""
        if not storages:
            return {}
        step, method = self._calls, self.method
        layers = {name: storage.layer(step, layer_key(self.seed, name, step)) for name, storage in storages.items()}
        ends = {name: planned[name] for name in layers}
        quotas = method.share(layers, Terms(ends, method.fraction(step), method.drop, method.regrow, self._memory))
        found = {}
        for name, layer in layers.items():
            active = next_topology(method, layer, quotas[name], storages[name].grow_scores(method, step))
            found[name] = Topology(active, trained_units(method, layer, active))
        return found
