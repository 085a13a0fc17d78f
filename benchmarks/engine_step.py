"""Time and memory of a training step on the CPU engine against the same step of dense torch, interleaved in one run.

    python benchmarks/engine_step.py --model vgg19 --batch 64 --sparsity 0.95 --budget uniform --threads 1 [--json]

Both sides train the same network (CIFAR's VGG-19 and ResNet-50, or an MLP 784-1000-1000-1000-10) on the same random
images with SGD and momentum. Dense is torch eager, channels_last. First it is checked that both compute the same loss
and the same gradients. On one thread the CPU time of the calling thread counts, on more the wall clock: let nothing
else run. In vgg19-drop-in what a sparse layer gives is converted into an ordinary tensor, as if nothing else knew the
engine's layout.

  ratio         dense_ms over engine_ms: how many times faster a step is
  flops         the share of the dense FLOPs that the active weights need
  peak          share of the processor's multiply-add peak that the engine's products reach, batch norm and all included
  update_steps  what a step with a topology update takes on top of another, in dense steps
  kept          bytes between steps over dense training's: values, gradients, momentum, indices, visits
  peak_mb       most memory during steps, in a process of its own, on top of what it had before the model
"""

import argparse
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable

import torch
import torch.nn.functional as F
from measure import PackedLinear, clock, interleaved, parser, restart_with_allocator_settings, write
from torch import Tensor, nn

import rewire
from rewire.engine.library import isa, kernels
from rewire.metrics.flops import forward_flops, sparse_flops
from rewire.tasks.models import build
from rewire.tasks.models.mlp import mlp

INTERVAL = 1000  # steps between updates: none falls into the timed rounds; they are timed on their own
DROP_IN = "-drop-in"
TURN_S = 0.2  # seconds of steps of one side before it is the other's turn; a longer step is a turn alone
SIDES = ("dense", "engine")


def network(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    """Returns the dense model and the shape of one image."""
    if name == "mlp":
        return mlp(784, [1000, 1000, 1000], 10), (784,)
    return build(name.removesuffix(DROP_IN), classes=10).to(memory_format=torch.channels_last), (3, 32, 32)


class Training:
    """One side's model and its step."""

    def __init__(self, side: str, arguments: argparse.Namespace) -> None:
        torch.manual_seed(0)
        self.model, image = network(arguments.model)
        self.images = torch.randn(arguments.batch, *image)
        if len(image) == 3:
            self.images = self.images.contiguous(memory_format=torch.channels_last)
        self.labels = torch.randint(0, 10, (arguments.batch,))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-3, momentum=0.9)
        self.sparsifier: rewire.Sparsifier | None = None
        if side == "packed":
            for module in self.model.modules():
                if isinstance(module, nn.Linear):
                    module.forward = lambda x, m=module: PackedLinear.apply(x, m.weight, m.bias)  # type: ignore
        if side == "engine":
            self.sparsifier = rewire.sparsify(
                self.model,
                self.optimizer,
                rewire.dst_ee(10 * INTERVAL, every=INTERVAL),
                sparsity=arguments.sparsity,
                distribution=arguments.budget,
                engine="cpu",
            )
            if arguments.model.endswith(DROP_IN):
                for name in self.sparsifier.masks:
                    layer = self.model.get_submodule(name.rpartition(".")[0])
                    layer.register_forward_hook(lambda module, args, y: y.contiguous())

    def loss(self) -> Tensor:
        return F.cross_entropy(self.model(self.images), self.labels)

    def step(self) -> None:
        self.loss().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def update_step(self) -> None:
        """A step with a topology update."""
        assert self.sparsifier is not None
        self.sparsifier.watch()
        self.loss().backward()
        self.optimizer.step()
        self.sparsifier.update()
        self.optimizer.zero_grad()

    def kept_bytes(self) -> int:
        """Values, gradients and momentum, and what the sparsifier keeps."""
        parameters = sum(p.nbytes for p in self.model.parameters())
        state = sum(v.nbytes for s in self.optimizer.state.values() for v in s.values() if isinstance(v, Tensor))
        return 2 * parameters + state + (self.sparsifier.nbytes if self.sparsifier else 0)


def check(engine: Training) -> float:
    """Returns how far the engine's gradients are from the same network's in dense torch.

    As the norm of the difference over the norm, of all parameters together. Raises where loss or gradients disagree.
    """
    assert engine.sparsifier is not None
    # Not channels_last: there torch's batch norm is less exact than either.
    dense, masks = engine.sparsifier.to_dense().to(memory_format=torch.contiguous_format), engine.sparsifier.masks
    loss = F.cross_entropy(dense(engine.images.contiguous()), engine.labels)
    loss.backward()
    found = engine.loss()
    found.backward()
    assert abs(found.item() - loss.item()) < 1e-4 * loss.item(), (found, loss)
    gradients = dict(engine.model.named_parameters())
    far = near = 0.0
    for name, parameter in dense.named_parameters():
        wanted, got = parameter.grad, gradients[name].grad
        if name in masks:
            wanted, got = wanted[masks[name]], got[masks[name]] if got.shape == wanted.shape else got
        far += float((got - wanted).square().sum())
        near += float(wanted.square().sum())
    difference = (far / near) ** 0.5
    assert difference < 0.05, difference  # a ReLU near 0 may fall on the other side, which a deep network multiplies
    engine.optimizer.zero_grad()
    return difference


def median_ms(call: Callable[[], None], now: Callable[[], float], rounds: int) -> float:
    seconds = []
    for _ in range(rounds):
        start = now()
        call()
        seconds.append(now() - start)
    return 1e3 * statistics.median(seconds)


def multiply_add_peak(threads: int, now: Callable[[], float]) -> float:
    """Returns FLOPs per second of multiply-adds in registers."""
    start = now()
    done = kernels().rw_multiply_add(20_000_000 // 28, threads)
    return done / (now() - start)


def peak_mb(side: str, arguments: argparse.Namespace) -> float:
    """Returns the most memory that a side's steps take, measured in a process of its own."""
    flags = {"model": arguments.model, "batch": arguments.batch, "sparsity": arguments.sparsity}
    flags |= {"budget": arguments.budget, "threads": arguments.threads, "memory": side}
    command = [sys.executable, __file__, *(f"--{name}={value}" for name, value in flags.items())]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def memory_of(side: str, arguments: argparse.Namespace) -> float:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    training = Training(side, arguments)
    for _ in range(4):
        training.step()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def main() -> None:
    flags = parser(__doc__, rounds=15)
    flags.add_argument("--model", choices=["vgg19", "vgg19-drop-in", "resnet50", "mlp"], default="vgg19")
    flags.add_argument("--batch", type=int, help="images; 64, and 128 for the MLP, unless given")
    flags.add_argument("--sparsity", type=float, default=0.95)
    flags.add_argument("--budget", choices=["uniform", "erk"], default="uniform")
    flags.add_argument("--threads", type=int, default=1)
    flags.add_argument("--memory", choices=SIDES, help=argparse.SUPPRESS)
    arguments = flags.parse_args()
    arguments.batch = arguments.batch or (128 if arguments.model == "mlp" else 64)
    if arguments.memory:
        torch.set_num_threads(arguments.threads)
        print(memory_of(arguments.memory, arguments))
        return
    memory = {side: peak_mb(side, arguments) for side in SIDES}  # without the settings below, which hoard memory
    restart_with_allocator_settings()
    torch.set_num_threads(arguments.threads)
    now = clock(arguments.threads)
    sides = SIDES + (("packed",) if arguments.model == "mlp" else ())
    training = {side: Training(side, arguments) for side in sides}
    engine = training["engine"]
    assert engine.sparsifier is not None
    difference = check(engine)
    flops = forward_flops(network(arguments.model)[0], engine.images[:1])
    density = {name: float(mask.float().mean()) for name, mask in engine.sparsifier.masks.items()}
    multiply_add = multiply_add_peak(arguments.threads, now)
    seconds = interleaved(
        {side: training[side].step for side in sides}, arguments.rounds, warmup=2, now=now, turn_s=TURN_S
    )
    after = multiply_add_peak(arguments.threads, now)
    if not 0.9 < after / multiply_add < 1.1:
        print(f"The processor's speed changed during the run: {multiply_add:.3g}, then {after:.3g}.", file=sys.stderr)
    ms = {side: 1e3 * statistics.median(values) for side, values in seconds.items()}
    update_ms = median_ms(engine.update_step, now, 3) - ms["engine"]
    needed = 3 * sparse_flops(flops, density) * arguments.batch  # forward, and two products back
    row = {
        "model": arguments.model,
        "batch": arguments.batch,
        "sparsity": arguments.sparsity,
        "budget": arguments.budget,
        "threads": arguments.threads,
        "isa": isa(),
        "rounds": arguments.rounds,
        "dense_ms": round(ms["dense"], 3),
        "engine_ms": round(ms["engine"], 3),
        "ratio": round(ms["dense"] / ms["engine"], 3),
        "packed_linear_ms": round(ms["packed"], 3) if "packed" in ms else "",
        "packed_linear_ratio": round(ms["packed"] / ms["engine"], 3) if "packed" in ms else "",
        "flops": round(sparse_flops(flops, density) / sum(flops.values()), 4),
        "peak": round(needed / (ms["engine"] / 1e3) / multiply_add, 3),
        "peak_gflops": round(multiply_add / 1e9),
        "update_steps": round(update_ms / ms["dense"], 3),
        "kept": round(engine.kept_bytes() / training["dense"].kept_bytes(), 4),
        "dense_peak_mb": round(memory["dense"]),
        "engine_peak_mb": round(memory["engine"]),
        "gradient_difference": f"{difference:.1e}",
    }
    write("engine", row, arguments)


if __name__ == "__main__":
    main()
