"""Dense phases: what is done to a model while it is still dense, before a method prunes it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable

import torch
from torch import nn


class DensePhase(ABC):
    """A change of the model that lasts from `sparsify` to the first topology update. A frozen value."""

    @abstractmethod
    def begin_(self, model: nn.Module, names: Iterable[str], optimizer: torch.optim.Optimizer) -> None:
        """Changes the model's weights of these names, and gives what it trains besides to the optimizer."""

    def after_step_(  # noqa: B027
        self, model: nn.Module, names: Iterable[str], optimizer: torch.optim.Optimizer, step: int, budget: int
    ) -> None:
        """Hears of every step taken while the change lasts. budget: weights planned for the end, of all layers."""

    @abstractmethod
    def end_(self, model: nn.Module, names: Iterable[str]) -> None:
        """Takes the change away: the same Parameters are weights again, with the values that the model computed by."""
