"""Two small layers of given weights and gradients, for tables that are worked by hand.

A table is text. Rows end with "/"; a mask is written row by row, as "1001 0110".
"""

import hashlib

import torch
from torch import Tensor, nn

import rewire

FIRST, SECOND = "0.weight", "1.weight"


def table(text: str) -> Tensor:
    return torch.tensor([[float(number) for number in row.split()] for row in text.split("/")], dtype=torch.float64)


def bits(text: str) -> Tensor:
    return torch.tensor([[letter == "1" for letter in row] for row in text.split()])


def words(mask: Tensor) -> str:
    return " ".join("".join("1" if active else "0" for active in row) for row in mask.tolist())


def key(name: str, step: int, seed: int = 0) -> int:
    """The seed of a layer's randomness at a step, as documented: the first 8 bytes of a hash, halved."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}/{step}".encode()).digest()[:8], "big") >> 1


def draws(name: str, step: int, shape: tuple[int, int]) -> Tensor:
    """What random growth draws for every place of a layer."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(key(name, step)))


def drawn(kept: str, name: str, step: int, count: int, never: str = "") -> str:
    """The mask `kept` and the `count` places of highest draw beside it, outside of `never` too."""
    mask = bits(kept)
    closed = mask | bits(never) if never else mask
    values = draws(name, step, tuple(mask.shape)).masked_fill(closed, -1)
    return words(mask | (values >= values.flatten().sort(descending=True).values[count - 1]))


def gumbels(name: str, step: int, shape: tuple[int, int], stream: int) -> Tensor:
    """The Gumbel variables, -ln(-ln(1 - uniform)), by which places of a layer are drawn in proportion to a score."""
    generator = torch.Generator().manual_seed(key(name, step) ^ (0xC475 + stream))
    uniform = torch.rand(shape, dtype=torch.float64, generator=generator)
    return -(-(1 - uniform).log()).log()


def lots(kept: str, scores: str, name: str, step: int, count: int, stream: int) -> str:
    """The mask `kept` and `count` more places, drawn without replacement in proportion to the scores.

    The highest ln(score) + Gumbel win; where scores are 0, after all others.
    """
    mask, values = bits(kept), table(scores)
    noise = gumbels(name, step, tuple(mask.shape), stream)
    order = torch.where(values > 0, values.log() + noise, noise - 1000).masked_fill(mask, -torch.inf)
    return words(mask | (order >= order.flatten().sort(descending=True).values[count - 1]))


class Run:
    """A model of two layers, its optimizer and its sparsifier; `step` takes the gradients of both layers."""

    def __init__(
        self,
        method: rewire.Method,
        weights: tuple[str, str],
        masks: tuple[str, str] | None = None,
        *,
        lr: float = 1.0,
        momentum: float = 0.0,
        **options: object,
    ) -> None:
        tables = [table(text) for text in weights]
        self.model = nn.Sequential(*(nn.Linear(t.shape[1], t.shape[0], bias=False).double() for t in tables))
        with torch.no_grad():
            for layer, values in zip(self.model, tables, strict=True):
                layer.weight.copy_(values)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=lr, momentum=momentum)
        if masks is not None:
            options["start"] = dict(zip((FIRST, SECOND), map(bits, masks), strict=True))
        self.updates: list[rewire.Update] = []
        self.sparsifier = rewire.sparsify(self.model, self.optimizer, method, on_update=self.updates.append, **options)

    def step(self, first: str | Tensor | None = None, second: str | Tensor | None = None) -> None:
        """One optimizer step in which the loss has these gradients; None for 0 everywhere."""
        gradients = (table(given) if isinstance(given, str) else given for given in (first, second))
        loss = torch.zeros((), dtype=torch.float64)
        for layer, gradient in zip(self.model, gradients, strict=True):
            loss = loss + (layer.weight * (0.0 if gradient is None else gradient)).sum()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    @property
    def masks(self) -> tuple[str, ...]:
        return tuple(words(mask) for mask in self.sparsifier.masks.values())

    @property
    def trained(self) -> tuple[str, ...]:
        return tuple(words(mask) for mask in self.sparsifier.trained.values())

    @property
    def counts(self) -> tuple[int, ...]:
        return tuple(int(mask.sum()) for mask in self.sparsifier.masks.values())

    @property
    def weights(self) -> tuple[Tensor, ...]:
        return tuple(layer.weight.detach() for layer in self.model)

    def kept(self, name: str, buffer: str) -> Tensor:
        """What is kept beside a weight under this name."""
        return self.sparsifier.state_dict()["layers"][name]["buffers"][buffer]

    def holds(self, first: str, second: str) -> None:
        """Asserts the weights of both layers."""
        for weight, expected in zip(self.weights, (first, second), strict=True):
            torch.testing.assert_close(weight, table(expected), rtol=0, atol=1e-12)
