"""Language modelling as a task: which character comes next?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rewire.measures import MEASURES, Measure
from rewire.tasks.data import fingerprint
from rewire.tasks.task import Batch, Part, Task
from rewire.tasks.text import Crops, Text, bits, evaluate, next_character_loss


@dataclass(frozen=True, eq=False)
class NextCharacter(Task):
    """Crops of a text, a network that gives scores for the character after each, and cross-entropy.

    make: returns the network. context: characters that it can read at once. batch_size: crops. seed: of their places.
    """

    text: Text
    make: Callable[[], nn.Module]
    context: int
    batch_size: int
    seed: int = 0
    measures: tuple[Measure, ...] = (MEASURES["bits_per_character"], MEASURES["loss"])
    unit: str = "crops"

    @property
    def note(self) -> str:  # type: ignore[override]
        return self.text.note

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.text.vocabulary, self.text.train, self.text.validation, self.text.test)

    def model(self) -> nn.Module:
        return self.make()

    @property
    def steps(self) -> int:
        return len(self.source("cpu"))

    def source(self, device: torch.device | str, rank: int = 0, world_size: int = 1) -> Crops:
        return Crops(
            self.text.train,
            batch_size=self.batch_size,
            context=self.context,
            device=device,
            seed=self.seed,
            rank=rank,
            world_size=world_size,
        )

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return next_character_loss(output, target)

    def score(self, model: nn.Module, part: Part, device: torch.device | str) -> dict[str, float]:
        text = self.text.test if part == "test" else self.text.validation
        nats = evaluate(model, text, context=self.context, batch_size=self.batch_size)
        return {"bits_per_character": bits(nats), "loss": nats}

    def example(self, count: int) -> Batch:
        draws = torch.Generator().manual_seed(0)
        tokens = torch.randint(0, len(self.text.vocabulary), (count, self.context + 1), generator=draws)
        return tokens[:, :-1], tokens[:, 1:]

    def sample(self, batches: int, device: torch.device | str) -> list[Batch]:
        found = list(zip(range(batches), self.source(device).epoch(-1), strict=False))
        return [batch for _, batch in found]
