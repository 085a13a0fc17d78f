"""Time of one topology update of ResNet-50 (25 million weights), and the bytes kept between steps.

python benchmarks/topology_update.py [--method dst_ee] [--threads 2] [--json]
"""

import torch
from measure import interleaved, median_ms, parser, write

import rewire
from rewire.tasks.models import build


def main() -> None:
    flags = parser(__doc__, rounds=7)
    flags.add_argument("--method", choices=["set_itop", "rigl_itop", "dst_ee"], default="dst_ee")
    flags.add_argument("--sparsity", type=float, default=0.9)
    flags.add_argument("--threads", type=int, default=2)
    arguments = flags.parse_args()
    torch.set_num_threads(arguments.threads)
    model = build("resnet50_imagenet", classes=1000, size=224)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    method = rewire.METHODS[arguments.method](steps=100_000, every=100)
    sparsifier = rewire.sparsify(model, optimizer, method, sparsity=arguments.sparsity)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)

    def step() -> None:
        sparsifier.watch()
        optimizer.step()

    contenders = {"step": step, "update": sparsifier.update}
    seconds = interleaved(contenders, rounds=arguments.rounds, warmup=2)["update"]
    weights = sum(mask.numel() for mask in sparsifier.masks.values())
    row = {
        "method": arguments.method,
        "weights": weights,
        "sparsity": arguments.sparsity,
        "threads": arguments.threads,
        "rounds": arguments.rounds,
        "update_ms": median_ms(seconds),
        "bytes_per_weight": round(sparsifier.nbytes / weights, 4),
    }
    write("topology-update", row, arguments)


if __name__ == "__main__":
    main()
