"""What cannot work is refused here, at the boundary, before anything has changed."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from rewire.core.score import Layer
from rewire.layers import SparseWeight
from rewire.sharding import is_sharded


def check_optimizer(optimizer: torch.optim.Optimizer, weights: list[SparseWeight]) -> None:
    """Raises TypeError or ValueError where training these weights with this optimizer cannot stay sparse."""
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(
            f"optimizer is a {type(optimizer).__name__}, not a torch.optim.Optimizer, so there is no step to hook. "
            "Pass the optimizer that updates the weights."
        )
    if isinstance(optimizer, torch.optim.LBFGS):
        raise TypeError(
            "LBFGS evaluates its closure several times in one step and mixes all weights in its history, so masks "
            "cannot hold. Use SGD, Adam, AdamW or any optimizer that works weight by weight."
        )
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    missing = [weight.name for weight in weights if id(weight.parameter) not in held]
    if missing:
        raise ValueError(
            f"The optimizer does not hold {', '.join(missing[:4])}{', ...' if len(missing) > 4 else ''}, so "
            f"{'its' if len(missing) == 1 else 'their'} masks would never move. Build it from model.parameters() "
            f'(after moving the model), or leave them out with exclude=["{missing[0]}"].'
        )
    for weight in weights:
        if is_sharded(weight.parameter):
            raise TypeError(
                f"{weight.name} is a DTensor (FSDP2 or tensor parallelism), which is not supported yet. Use DDP."
            )
        if hasattr(weight.parameter, "_in_backward_optimizers"):
            raise TypeError(
                f"{weight.name} is updated inside backward, where there is no step to hook. Use an ordinary "
                "optimizer.step()."
            )


def check_finite(layers: Mapping[str, Layer], step: int) -> None:
    """Raises FloatingPointError, before any topology has changed, where a gradient cannot be ranked."""
    for name, layer in layers.items():
        if not bool(layer.dense_grad().isfinite().all()):
            raise FloatingPointError(
                f"The gradient of {name} has NaN or inf at step {step}, so the weights to grow cannot be ranked; no "
                "mask was changed. Lower the learning rate, clip with sparsifier.clip_grad_norm_(1.0), or use "
                "torch.amp.GradScaler under float16."
            )
