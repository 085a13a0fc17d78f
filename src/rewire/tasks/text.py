"""Text as numbered characters: tiny Shakespeare, random crops to learn from, and windows to measure by."""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from rewire.tasks.batches import seed_of

SOURCE = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
FILE = "tinyshakespeare.txt"
SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"


@dataclass(frozen=True, eq=False)
class Text:
    """A text in three parts that follow each other; the number i stands for the character `vocabulary[i]`.

    Learn from `train`, choose by `validation`, read `test` once, at the end. `note` is a remark that belongs beside
    every figure measured on this text.
    """

    name: str
    vocabulary: str
    train: Int64[Tensor, " train"]
    validation: Int64[Tensor, " validation"]
    test: Int64[Tensor, " test"]
    note: str = ""

    def __repr__(self) -> str:
        note = f", {self.note}" if self.note else ""
        return (
            f"Text({self.name}: {len(self.train)} training, {len(self.validation)} validation and {len(self.test)} "
            f"test characters, {len(self.vocabulary)} different ones{note})"
        )


def shakespeare(folder: str | Path | None = None) -> Text:
    """Tiny Shakespeare: 1 115 394 characters, 65 different ones, from `tinyshakespeare.txt` in `folder`.

    The training part is that of nanoGPT; its validation part is halved here, into validation and test. Where the file
    is not the usual one, byte for byte, the `note` says so.

    Reference: A. Karpathy, "The Unreasonable Effectiveness of Recurrent Neural Networks", 2015,
    https://github.com/karpathy/char-rnn
    """
    advice = f"Save {SOURCE} as {FILE} and type: --data DIR, where DIR is the folder that holds it."
    if folder is None:
        raise ValueError(f"The task shakespeare has no text yet: no folder was given. {advice}")
    path = Path(folder) / FILE
    if not path.is_file():
        raise FileNotFoundError(f"No tiny Shakespeare: there is no file {path}. {advice}")
    content = path.read_bytes()
    official = hashlib.sha256(content).hexdigest() == SHA256
    try:
        characters = content.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} cannot be read as text: {error}. {advice}") from error
    return text_of("shakespeare", characters, "" if official else "not the usual file (checksum differs)")


def outline() -> Text:
    """Tiny Shakespeare in its sizes alone: as many characters, of which as many are different."""
    return text_of("shakespeare", "".join(chr(ord("0") + place % 65) for place in range(1_115_394)))


def text_of(name: str, characters: str, note: str = "") -> Text:
    """The characters numbered in sorted order, the first 90 % to learn from, then 5 % and 5 %.

    >>> text_of("example", "abcab" * 20)
    Text(example: 90 training, 5 validation and 5 test characters, 3 different ones)
    """
    vocabulary = "".join(sorted(set(characters)))
    number = {character: place for place, character in enumerate(vocabulary)}
    numbers = torch.tensor([number[character] for character in characters], dtype=torch.int64)
    first = len(numbers) * 9 // 10
    second = first + (len(numbers) - first) // 2
    return Text(name, vocabulary, numbers[:first], numbers[first:second], numbers[second:], note)


class Crops:
    """The batches of any epoch, each determined by (seed, epoch, position) alone, as those of `Batches` are.

    A batch is `batch_size` crops of `context` characters from anywhere in the text, and as targets the same crops one
    character further. An epoch is as many batches as have room for the text once. Its places are drawn at once on the
    CPU, so `epoch(e, start=k)` equals skipping k batches, bit for bit, and rank r of `world_size` gets the r-th part of
    each batch that one process would get.

    Args:
        text: the part to learn from; it is kept on `device`.
        batch_size: crops in the global batch, over all ranks.
        context: characters in a crop.

    >>> crops = Crops(torch.arange(100), batch_size=2, context=8)
    >>> len(crops)
    6
    >>> inputs, targets = next(crops.epoch(0))
    >>> inputs.shape, torch.equal(targets, inputs + 1)
    (torch.Size([2, 8]), True)
    """

    def __init__(
        self,
        text: Int64[Tensor, " n"],
        *,
        batch_size: int,
        context: int,
        device: torch.device | str = "cpu",
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if not 1 <= context < len(text):
            raise ValueError(
                f"context {context} gives no crop: there are {len(text)} characters to draw from, and the last one of "
                f"a crop needs a next one. Use a context from 1 to {len(text) - 1}."
            )
        if batch_size < 1:
            raise ValueError(f"batch_size {batch_size} leaves a batch without a crop. Use at least 1.")
        if batch_size % world_size:
            raise ValueError(
                f"batch_size {batch_size} is not a multiple of the {world_size} processes, so their parts would differ "
                f"and their mean gradient would not be that of the batch. "
                f"Use batch_size {batch_size - batch_size % world_size or world_size}."
            )
        self.text = text.to(device)
        self.batch_size, self.context, self.seed = batch_size, context, seed
        self.rank, self.world_size = rank, world_size

    def __len__(self) -> int:
        """Batches in an epoch, at least one."""
        return max(1, len(self.text) // (self.batch_size * self.context))

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Int64[Tensor, "b c"], Int64[Tensor, "b c"]]]:
        """This rank's inputs and targets of each batch of that epoch, from batch `start` on."""
        generator = torch.Generator().manual_seed(seed_of(self.seed, epoch))
        places = torch.randint(len(self.text) - self.context, (len(self), self.batch_size), generator=generator)
        share = self.batch_size // self.world_size
        places = places[start:, self.rank * share : (self.rank + 1) * share].to(self.text.device)
        further = torch.arange(self.context + 1, device=self.text.device)
        for firsts in places:
            crops = self.text[firsts[:, None] + further]
            yield crops[:, :-1], crops[:, 1:]


def windows(
    text: Int64[Tensor, " n"], *, context: int, batch_size: int
) -> Iterator[tuple[Int64[Tensor, "b c"], Int64[Tensor, "b c"]]]:
    """Inputs and targets of consecutive windows, at most `batch_size` at once; the last window may be shorter.

    Every character but the first is a target exactly once, and what comes before its window is not seen.

    >>> [(x.tolist(), y.tolist()) for x, y in windows(torch.arange(6), context=2, batch_size=2)]
    [([[0, 1], [2, 3]], [[1, 2], [3, 4]]), ([[4]], [[5]])]
    """
    inputs, targets = text[:-1], text[1:]
    whole = len(inputs) // context * context
    for first in range(0, whole, batch_size * context):
        part = slice(first, min(whole, first + batch_size * context))
        yield inputs[part].unflatten(0, (-1, context)), targets[part].unflatten(0, (-1, context))
    if whole < len(inputs):
        yield inputs[None, whole:], targets[None, whole:]


def next_character_loss(
    scores: Float[Tensor, "b c vocabulary"], targets: Int64[Tensor, "b c"], reduction: str = "mean"
) -> Float[Tensor, ""]:
    """Cross-entropy of the next character in nats, the mean (or the "sum") over all places of all crops."""
    return F.cross_entropy(scores.flatten(0, 1).float(), targets.flatten(), reduction=reduction)


def evaluate(model: nn.Module, text: Int64[Tensor, " n"], *, context: int, batch_size: int = 64) -> float:
    """Nats per character of the model on the text, the mean over consecutive `windows`; its mode is as before.

    Raises ValueError for a text without a second character, of which there would be nothing to foretell.
    """
    if len(text) < 2:
        raise ValueError(
            f"A text of {len(text)} characters has no next character to be measured by. Give one of at least 2."
        )
    training, device = model.training, next(model.parameters()).device
    model.eval()
    total = torch.zeros((), dtype=torch.float64, device=device)
    with torch.inference_mode():
        for inputs, targets in windows(text.to(device), context=context, batch_size=batch_size):
            total += next_character_loss(model(inputs), targets, "sum")
    model.train(training)
    return total.item() / (len(text) - 1)


def bits(nats: float) -> float:
    """Bits from nats: per character if those are.

    >>> round(bits(1.4697), 3)
    2.12
    """
    return nats / math.log(2)
