"""Muon: momentum whose matrix updates are orthogonalised (Jordan et al. 2024), in fp32 for CPUs."""

from collections import defaultdict
from collections.abc import Iterable

import torch

# Quintic Newton-Schulz coefficients of the reference description: fast to about 1, never exact.
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalise(stack: torch.Tensor, steps: int = 4) -> torch.Tensor:
    """The nearest (semi-)orthogonal matrices of a [n, rows, columns] stack, approximately."""
    a, b, c = _COEFFICIENTS
    tall = stack.shape[1] > stack.shape[2]
    x = stack.transpose(1, 2) if tall else stack
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.transpose(1, 2)
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.transpose(1, 2) if tall else x


class Muon(torch.optim.Optimizer):
    """For 2-D weights of hidden layers; embeddings and gains belong to AdamW."""

    def __init__(
        self, matrices: Iterable[torch.Tensor], lr: float, momentum: float = 0.95, decay: float = 0.01
    ) -> None:
        super().__init__(list(matrices), {"lr": lr, "momentum": momentum, "decay": decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update; matrices of one shape are orthogonalised together."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[torch.Tensor]] = defaultdict(list)
            for matrix in group["params"]:
                if matrix.grad is not None:
                    by_shape[matrix.shape].append(matrix)
            for matrices in by_shape.values():
                self._update(matrices, group["lr"], group["momentum"], group["decay"])

    def _update(self, matrices: list[torch.Tensor], lr: float, momentum: float, decay: float) -> None:
        directions = []
        for matrix in matrices:
            velocity = self.state[matrix].setdefault("velocity", torch.zeros_like(matrix))
            velocity.lerp_(matrix.grad, 1 - momentum)
            directions.append(torch.lerp(matrix.grad, velocity, momentum))
        updates = orthogonalise(torch.stack(directions))
        size = 0.2 * max(matrices[0].shape) ** 0.5
        for matrix, update in zip(matrices, updates, strict=True):
            matrix.mul_(1 - lr * decay).add_(update, alpha=-lr * size)
