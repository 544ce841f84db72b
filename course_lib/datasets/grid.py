"""A complete grid of ground-truth factors, and the one-to-one map between its points and row numbers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class FactorGrid:
    """All combinations of K discrete factors, numbered with the last factor changing fastest.

    names: the K factors, in order; sizes: how many values each takes.
    Value checks run on the CPU only: on an accelerator they would make the host wait for it.
    """

    names: tuple[str, ...]
    sizes: tuple[int, ...]

    def __post_init__(self):
        if len(self.names) != len(self.sizes) or len(set(self.names)) != len(self.names) or not self.names:
            raise ValueError(
                f"expected one distinct name per size, got names={self.names}, sizes={self.sizes}"
            )
        if not all(type(size) is int and size > 0 for size in self.sizes):
            raise ValueError(f"expected positive integer sizes, got {self.sizes}")

    def __len__(self) -> int:
        return math.prod(self.sizes)

    @property
    def strides(self) -> tuple[int, ...]:
        """Rows between two neighbouring values of each factor: stride_k = Π_{j>k} size_j."""
        return tuple(math.prod(self.sizes[k + 1 :]) for k in range(len(self.sizes)))

    def factors(self, index: Tensor) -> Tensor:
        """Row numbers (N,) to factors (N, K), both int64: factor_k = ⌊index / stride_k⌋ mod size_k."""
        _check_long(index, "index", ndim=1)
        _check_range(index, "index", len(self))
        # Python numbers instead of a tensor of strides: a tensor would have to be copied to the device.
        columns = [index // stride % size for stride, size in zip(self.strides, self.sizes, strict=True)]
        return torch.stack(columns, dim=1)  # (N, K)

    def index(self, factors: Tensor) -> Tensor:
        """Factors (N, K) to row numbers (N,), both int64: index = Σ_k stride_k · factor_k."""
        self.check(factors)
        return sum(stride * column for stride, column in zip(self.strides, factors.unbind(1), strict=True))

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """n points (n, K), int64, on the generator's device, uniform."""
        if not isinstance(generator, torch.Generator):
            raise TypeError(f"expected a torch.Generator, got {type(generator).__name__}")
        if type(n) is not int or n < 0:
            raise ValueError(f"n: expected the number of points, an integer from 0, got {n!r}")
        columns = [
            torch.randint(size, (n,), generator=generator, device=generator.device) for size in self.sizes
        ]
        return torch.stack(columns, dim=1)  # (n, K)

    def check(self, factors: Tensor) -> None:
        """Raise TypeError or ValueError unless `factors` is int64 of shape (N, K) and inside the grid."""
        _check_long(factors, "factors", ndim=2)
        if factors.shape[1] != len(self.names):
            raise ValueError(
                f"factors: expected shape (N, {len(self.names)}), one column for each of {self.names}, "
                f"got {tuple(factors.shape)}"
            )
        for name, size, column in zip(self.names, self.sizes, factors.unbind(1), strict=True):
            _check_range(column, f"factor {name!r}", size)

    def restrict(self, only: dict[str, int | Sequence[int]]) -> tuple["FactorGrid", list[list[int]]]:
        """A part of the grid: the smaller grid, and for each of the K factors here the values that it keeps.

        An integer holds its factor still and takes it out of the grid; a range or list keeps those values, which
        the smaller grid numbers from 0 in that order. Factors that `only` does not name stay complete.
        """
        for name in only:
            if name not in self.names:
                raise ValueError(f"only: no factor is called {name!r}; choose from {self.names}")
        wanted = [only.get(name, range(size)) for name, size in zip(self.names, self.sizes, strict=True)]
        kept = [list(values) if isinstance(values, range | list | tuple) else [values] for values in wanted]
        for name, size, values in zip(self.names, self.sizes, kept, strict=True):
            for value in values:
                if type(value) is not int or not 0 <= value < size:
                    raise ValueError(f"only: {name!r} takes the integers 0 to {size - 1}, got {value!r}")
            if not values or len(set(values)) < len(values):
                raise ValueError(
                    f"only: expected at least one value of {name!r}, and none twice, got {values}"
                )
        varying = [k for k, values in enumerate(wanted) if not isinstance(values, int)]
        if not varying:
            raise ValueError(
                "only: expected at least one factor that is left to vary, got an integer for each"
            )
        names, sizes = zip(*((self.names[k], len(kept[k])) for k in varying), strict=True)
        return FactorGrid(names, sizes), kept


def _check_long(tensor: Tensor, name: str, ndim: int) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name}: expected a torch.Tensor, got {type(tensor).__name__}")
    if tensor.dtype != torch.int64:
        raise TypeError(f"{name}: expected dtype torch.int64, got {tensor.dtype}; convert with .long()")
    if tensor.ndim != ndim:
        raise ValueError(f"{name}: expected {ndim} dimension(s), got shape {tuple(tensor.shape)}")


def _check_range(values: Tensor, name: str, size: int) -> None:
    if values.device.type != "cpu" or values.numel() == 0:
        return
    low, high = values.aminmax()
    if low < 0 or high >= size:
        raise ValueError(f"{name}: expected values from 0 to {size - 1}, got values from {low} to {high}")
