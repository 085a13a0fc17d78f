"""Time of one Linear layer's training on the CPU engine, beside what else there is, interleaved in one run.

    python benchmarks/engine_linear.py --size 1000x1000 --sparsity 0.95 --batch 128 --threads 1 [--json]

A layer of `outputs x inputs` takes forward and backward, with the gradients of input, weight and bias (`_ms`), and the
same with a step of SGD with momentum behind it (`_step_ms`). All get the same ordinary tensors and give such, so the
engine's conversions into its layout and out of it count. First every result is checked against dense torch. On one
thread the CPU time of the calling thread counts, on more the wall clock: let nothing else run.

  dense      F.linear
  packed     oneDNN's packed linear, dense too, which is the faster of the two on some processors
  engine     rewire with engine="cpu"
  csr        torch's own sparse matrices in CSR, in an autograd function written here. What torch 2.13 has does not
             train alone: the backward of F.linear fails for them, that of `weight @ x` gives the gradient of the weight
             dense, and SGD takes no CSR parameter. The function keeps the values as a 1-D parameter, as rewire does,
             and asks torch for the three products.
  sparselab  SparseLab's SparseLinear, which is Linear only; left empty, with a reason, where it is not installed:
             pip install sparselab
"""

import argparse
import importlib.util
import sys
import warnings
from typing import Any

import torch
import torch.nn.functional as F
from measure import PackedLinear, clock, interleaved, median_ms, parser, restart_with_allocator_settings, write
from torch import Tensor, nn

import rewire
from rewire.engine.library import isa, kernels

TURN_S = 0.05  # seconds of calls of one contender before it is the next one's turn
ERROR = 1e-5  # most that a result may be off, as the norm of the difference over the norm


class Dense:
    """F.linear, and what the others share: a weight with zeros, a bias, an optimizer of both."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self.weight, self.bias = nn.Parameter(weight.clone()), nn.Parameter(bias.clone())
        self.prepare()
        self.optimizer = torch.optim.SGD([self.weight, self.bias], lr=1e-3, momentum=0.9)

    def prepare(self) -> None:
        """Puts the weight into the contender's own form."""

    def product(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)

    def dense(self, values: Tensor) -> Tensor:
        """Returns a weight or its gradient as a dense matrix."""
        return values

    def train(self, x: Tensor, dy: Tensor) -> None:
        """Forward and backward."""
        self.optimizer.zero_grad()
        x.grad = None
        self.product(x).backward(dy)

    def step(self, x: Tensor, dy: Tensor) -> None:
        self.train(x, dy)
        self.optimizer.step()


class Packed(Dense):
    """oneDNN's packed linear."""

    def product(self, x: Tensor) -> Tensor:
        return PackedLinear.apply(x, self.weight, self.bias)


class Engine(Dense):
    """rewire's CPU engine, with a topology that does not move."""

    def prepare(self) -> None:
        outputs, inputs = self.weight.shape
        self.layer = nn.Linear(inputs, outputs)
        with torch.no_grad():
            self.layer.weight.copy_(self.weight)
            self.layer.bias.copy_(self.bias)
        optimizer = torch.optim.SGD(self.layer.parameters())  # that of Dense takes its place
        start = {"weight": self.weight.detach() != 0}
        self.sparsifier = rewire.sparsify(self.layer, optimizer, rewire.static(), start=start, engine="cpu")
        self.mask = start["weight"]
        self.weight, self.bias = self.layer.weight, self.layer.bias

    def product(self, x: Tensor) -> Tensor:
        return self.layer(x)

    def dense(self, values: Tensor) -> Tensor:
        return torch.zeros(self.mask.shape).masked_scatter_(self.mask, values)


class Matrix:
    """A topology in CSR, and its transpose, whose values are a permutation of it."""

    def __init__(self, weight: Tensor) -> None:
        csr = weight.to_sparse_csr()
        numbered = torch.sparse_csr_tensor(csr.crow_indices(), csr.col_indices(), torch.arange(csr._nnz()) + 1.0)
        turned = numbered.to_dense().T.contiguous().to_sparse_csr()
        self.values, self.order = csr.values(), turned.values().long() - 1
        self.indices, self.shape = (csr.crow_indices(), csr.col_indices()), weight.shape
        self.turned = turned.crow_indices(), turned.col_indices()

    def of(self, values: Tensor) -> Tensor:
        return torch.sparse_csr_tensor(*self.indices, values, self.shape, check_invariants=False)

    def transposed(self, values: Tensor) -> Tensor:
        return torch.sparse_csr_tensor(*self.turned, values[self.order], self.shape[::-1], check_invariants=False)


class CsrLinear(torch.autograd.Function):
    """A sparse linear layer of torch's own products."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, values: Tensor, bias: Tensor, matrix: Matrix) -> Tensor:
        ctx.matrix = matrix
        ctx.save_for_backward(x, values)
        return F.linear(x, matrix.of(values), bias)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        x, values = ctx.saved_tensors
        dx = F.linear(dy, ctx.matrix.transposed(values))
        gradient = torch.sparse.sampled_addmm(ctx.matrix.of(torch.zeros_like(values)), dy.T, x)
        return dx, gradient.values(), dy.sum(0), None


class Csr(Dense):
    """torch's sparse matrices in CSR."""

    def prepare(self) -> None:
        self.matrix = Matrix(self.weight.detach())
        self.weight = nn.Parameter(self.matrix.values.clone())

    def product(self, x: Tensor) -> Tensor:
        return CsrLinear.apply(x, self.weight, self.bias, self.matrix)

    def dense(self, values: Tensor) -> Tensor:
        return self.matrix.of(values).to_dense()


class SparseLab(Dense):
    """SparseLab's SparseLinear, given our weight in the way in which it makes its own."""

    def prepare(self) -> None:
        import sparselab

        outputs, inputs = self.weight.shape
        self.layer, self.layout = sparselab.SparseLinear(inputs, outputs, sparsity=0.99), sparselab.layout
        self.layer._csr = self.layout.from_dense(self.weight.detach(), padding_ratio=self.layer.padding_ratio)
        self.layer._values = nn.Parameter(torch.from_numpy(self.layer._csr.values))
        self.weight = self.layer._values
        self.layer.bias = self.bias

    def product(self, x: Tensor) -> Tensor:
        return self.layer(x)

    def dense(self, values: Tensor) -> Tensor:
        kept, own = self.weight.detach().clone(), self.weight.detach()
        own.copy_(values)
        matrix = self.layout.to_dense(self.layer._csr)
        own.copy_(kept)
        return matrix


CONTENDERS = {"dense": Dense, "packed": Packed, "engine": Engine, "csr": Csr, "sparselab": SparseLab}


def check(name: str, layer: Dense, dense: Dense, x: Tensor, dy: Tensor) -> None:
    """Raises AssertionError where a contender computes something else than dense torch does."""
    active = dense.weight.detach() != 0
    found = {}
    for which in (dense, layer):
        which.train(x, dy)
        gradient = which.dense(which.weight.grad)
        found[which] = which.product(x).detach(), x.grad, gradient * active, which.bias.grad.clone()
    for what, wanted, got in zip(("output", "dx", "dw", "db"), found[dense], found[layer], strict=True):
        error = float((got - wanted).norm() / wanted.norm())
        assert error < ERROR, f"{what} of {name} is off by {error:.1e}"


def size(text: str) -> tuple[int, int]:
    outputs, inputs = text.split("x")
    return int(outputs), int(inputs)


def main() -> None:
    flags = parser(__doc__, rounds=40)
    flags.add_argument("--size", type=size, default=(1000, 1000), help="outputs x inputs, such as 4096x1024")
    flags.add_argument("--batch", type=int, default=128)
    flags.add_argument("--sparsity", type=float, default=0.95)
    flags.add_argument("--threads", type=int, default=1)
    arguments = flags.parse_args()
    restart_with_allocator_settings(OMP_NUM_THREADS=str(arguments.threads))  # SparseLab brings an OpenMP of its own
    torch.set_num_threads(arguments.threads)
    warnings.filterwarnings("ignore", "Sparse|The given NumPy array")  # what torch says of CSR, and of SparseLab
    kernels()  # says what to do where there are none
    write("engine-linear", measured(arguments), arguments)


def measured(arguments: argparse.Namespace) -> dict[str, Any]:
    torch.manual_seed(0)
    outputs, inputs = arguments.size
    active = torch.zeros(outputs * inputs)
    active[torch.randperm(outputs * inputs)[: round((1 - arguments.sparsity) * outputs * inputs)]] = 1
    weight = torch.randn(outputs, inputs) * active.reshape(outputs, inputs)
    bias, dy = torch.randn(outputs), torch.randn(arguments.batch, outputs)
    x = torch.randn(arguments.batch, inputs, requires_grad=True)
    layers = {}
    for name, contender in CONTENDERS.items():
        if name == "sparselab" and importlib.util.find_spec(name) is None:
            print("SparseLab is not installed, so its columns stay empty: pip install sparselab", file=sys.stderr)
            continue
        layers[name] = contender(weight, bias)
        check(name, layers[name], layers["dense"], x, dy)
    calls = {f"{name}_ms": lambda layer=layer: layer.train(x, dy) for name, layer in layers.items()}
    calls |= {f"{name}_step_ms": lambda layer=layer: layer.step(x, dy) for name, layer in layers.items()}
    seconds = interleaved(calls, arguments.rounds, 5, clock(arguments.threads), TURN_S)
    ms = {name: median_ms(s) for name, s in seconds.items()}
    return {
        "size": f"{outputs}x{inputs}",
        "batch": arguments.batch,
        "sparsity": arguments.sparsity,
        "threads": arguments.threads,
        "isa": isa(),
        "rounds": arguments.rounds,
        **{f"{name}{part}": ms.get(f"{name}{part}", "") for part in ("_ms", "_step_ms") for name in CONTENDERS},
    }


if __name__ == "__main__":
    main()
