"""DST-EE in numpy, written from the formulas alone: forward, backward, SGD with momentum, and the updates.

    drop k = ceil(fraction(t) * active) active weights of smallest |w|
    grow k of highest S = |dL/dw| + c ln(t) / (N + eps) among the inactive, the just-dropped included
    N = number of topologies that held the weight, the initial one included
    of equal scores, the lower index is kept or grown first
    fraction(t) = end + (start - end) (1 + cos(pi t / steps)) / 2

Reference: Huang et al., Dynamic Sparse Training via Balancing the Exploration-Exploitation Trade-off, DAC 2023,
section III, https://arxiv.org/abs/2211.16667
"""

import math

import numpy as np


class Network:
    """tanh(x A^T) B^T under masks, with the mean squared error, trained by SGD with momentum."""

    def __init__(self, weights: list[np.ndarray], masks: list[np.ndarray], *, lr: float, momentum: float) -> None:
        self.masks = [mask.copy() for mask in masks]
        self.weights = [weight * mask for weight, mask in zip(weights, masks, strict=True)]
        self.velocity = [np.zeros_like(weight) for weight in weights]
        self.visits = [mask.astype(int) for mask in masks]
        self.lr, self.momentum, self.steps = lr, momentum, 0

    def gradients(self, x: np.ndarray, y: np.ndarray) -> list[np.ndarray]:
        """The dense gradients of mean((tanh(x A^T) B^T - y)^2)."""
        first, second = self.weights
        hidden = np.tanh(x @ first.T)
        error = 2 * (hidden @ second.T - y) / y.size
        return [((error @ second) * (1 - hidden**2)).T @ x, error.T @ hidden]

    def step(self, gradients: list[np.ndarray]) -> None:
        self.steps += 1
        for place, (gradient, mask) in enumerate(zip(gradients, self.masks, strict=True)):
            self.velocity[place] = (self.momentum * self.velocity[place] + gradient) * mask
            self.weights[place] = (self.weights[place] - self.lr * self.velocity[place]) * mask

    def update(
        self,
        gradients: list[np.ndarray],
        *,
        fraction: float,
        c: float,
        eps: float,
        signed: bool = False,
        regrow: bool = True,
        by_layer: bool = False,
    ) -> None:
        for place, gradient in enumerate(gradients):
            mask, visits = self.masks[place], self.visits[place]
            bonus = c * math.log(self.steps) / (visits + eps)
            if by_layer:
                bonus *= np.abs(gradient)[~mask].mean()
            score = np.abs(gradient + bonus) if signed else np.abs(gradient) + bonus
            active, inactive = np.flatnonzero(mask), np.flatnonzero(~mask)
            k = math.ceil(fraction * len(active))
            if not regrow:
                k = min(k, len(inactive))
            by_magnitude = active[np.argsort(-np.abs(self.weights[place].flat[active]), kind="stable")]
            kept, dropped = np.split(by_magnitude, [len(active) - k])
            candidates = np.sort(np.concatenate([inactive, dropped])) if regrow else inactive
            grown = candidates[np.argsort(-score.flat[candidates], kind="stable")][:k]
            new = np.zeros_like(mask)
            new.flat[kept] = new.flat[grown] = True
            self.masks[place] = new
            self.weights[place] *= new
            self.velocity[place] *= new
            self.visits[place] = visits + new


def cosine(step: int, start: float, end: float, steps: int) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * step / steps)) / 2
