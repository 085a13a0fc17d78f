"""Time of a training step in masked mode against the same step of dense training, interleaved in one run.

    python benchmarks/masked_step.py --model resnet20 --threads 2 [--compile] [--json]

A masked step is an ordinary dense step plus masking, so the ratio can only be above 1: this measures how little.
The steps that update the topology are timed on their own and averaged in at one in `--every`.
"""

import torch
from measure import interleaved, median_ms, parser, restart_with_allocator_settings, write

import rewire
from rewire.core.method import Method
from rewire.tasks.models import build

INTERVAL = 10  # of the updates that are timed; the result is stated for --every


def main() -> None:
    flags = parser(__doc__, rounds=40)
    flags.add_argument("--model", choices=["mlp", "resnet20", "vgg19"], default="resnet20")
    flags.add_argument("--batch", type=int, default=128)
    flags.add_argument("--sparsity", type=float, default=0.95)
    flags.add_argument("--every", type=int, default=100, help="steps between two updates, in the stated ratio")
    flags.add_argument("--threads", type=int, default=2)
    flags.add_argument("--compile", action="store_true", help="torch.compile both models")
    flags.add_argument("--untouched", action="store_true", help="as sparsify's argument of that name")
    arguments = flags.parse_args()
    restart_with_allocator_settings()
    torch.set_num_threads(arguments.threads)
    images = torch.randn(arguments.batch, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (arguments.batch,))
    steps = 1000 * INTERVAL

    def contender(method: Method | None):
        model = build(arguments.model, classes=10).to(memory_format=torch.channels_last)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4)
        if method is not None:
            rewire.sparsify(model, optimizer, method, sparsity=arguments.sparsity, untouched=arguments.untouched)
        forward = torch.compile(model) if arguments.compile else model

        def step() -> None:
            torch.nn.functional.cross_entropy(forward(images), labels).backward()
            optimizer.step()
            optimizer.zero_grad()

        return step

    # Two warm-up rounds, then the first update falls into round INTERVAL - 3, counted from 0.
    seconds = interleaved(
        {"dense": contender(None), "masked": contender(rewire.dst_ee(steps, every=INTERVAL))},
        rounds=arguments.rounds,
        warmup=2,
    )
    due = [t for turn, t in enumerate(seconds["masked"], start=3) if turn % INTERVAL == 0]
    plain = [t for turn, t in enumerate(seconds["masked"], start=3) if turn % INTERVAL]
    dense, masked, update = median_ms(seconds["dense"]), median_ms(plain), median_ms(due)
    average = ((arguments.every - 1) * masked + update) / arguments.every
    row = {
        "model": arguments.model,
        "batch": arguments.batch,
        "sparsity": arguments.sparsity,
        "threads": arguments.threads,
        "compile": arguments.compile,
        "untouched": arguments.untouched,
        "rounds": arguments.rounds,
        "dense_ms": dense,
        "masked_ms": masked,
        "update_step_ms": update,
        "every": arguments.every,
        "ratio": round(average / dense, 4),
    }
    write("masked-step", row, arguments)


if __name__ == "__main__":
    main()
