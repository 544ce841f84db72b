"""Seconds of each score on 10,000 points (5,000 to test), beside plain versions: `python benchmarks/metrics.py [--dci]`.

The plain versions loop over latents and factors, or over batches of 64, with NumPy and scikit-learn. Both see the same
codes: ten latents, mixed and noisy, of the five factors of dSprites. --dci adds DCI both ways, which takes minutes.
"""

from __future__ import annotations

import sys
import time

import numpy as np
import torch
from sklearn.metrics import mutual_info_score
from sklearn.svm import LinearSVC

from course_lib import metrics
from course_lib.datasets.grid import FactorGrid

GRID = FactorGrid(("shape", "scale", "orientation", "x", "y"), (3, 6, 40, 32, 32))


def sample(n: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    factors = GRID.sample(n, generator)
    scaled = factors / (torch.tensor(GRID.sizes) - 1)
    mix = torch.randn(5, 10, generator=torch.Generator().manual_seed(1))
    return scaled @ (mix + 2 * torch.eye(5, 10)) + 0.1 * torch.randn(n, 10, generator=generator), factors


def information(codes: np.ndarray, factors: np.ndarray) -> np.ndarray:
    binned = [np.digitize(z, np.histogram(z, 20)[1][:-1]) for z in codes.T]
    return np.array([[mutual_info_score(v, z) for v in factors.T] for z in binned])


def plain_mig(codes, factors, test_codes, test_factors):
    best = np.sort(information(codes, factors), axis=0)
    return np.mean((best[-1] - best[-2]) / [mutual_info_score(v, v) for v in factors.T])


def plain_sap(codes, factors, test_codes, test_factors):
    table = np.zeros((codes.shape[1], factors.shape[1]))
    for j, k in np.ndindex(table.shape):
        model = LinearSVC(C=0.01, class_weight="balanced").fit(codes[:, [j]], factors[:, k])
        table[j, k] = np.mean(model.predict(test_codes[:, [j]]) == test_factors[:, k])
    best = np.sort(table, axis=0)
    return np.mean(best[-1] - best[-2])


def plain_factor_vae(codes, factors, test_codes, test_factors):
    rng = np.random.default_rng(0)
    variance = codes[rng.integers(len(codes), size=10_000)].var(0, ddof=1)
    rows = [[np.flatnonzero(v == value) for value in range(v.max() + 1)] for v in factors.T]
    votes = np.zeros((2, factors.shape[1], codes.shape[1]), dtype=int)
    for i in range(15_000):
        k = rng.integers(factors.shape[1])
        group = rng.choice(rows[k][factors[rng.integers(len(factors)), k]], 64)
        votes[int(i >= 10_000), k, np.argmin(codes[group].var(0, ddof=1) / variance)] += 1
    return votes[1][votes[0].argmax(0), np.arange(codes.shape[1])].sum() / 5_000


def factor_vae(codes, factors, test_codes, test_factors):
    sampler = metrics.GroupSampler(factors)
    return metrics.factor_vae_score(
        lambda rows: codes[rows], sampler, torch.Generator().manual_seed(0)
    ).eval_accuracy


SCORES = {
    "MIG": (lambda c, f, *_: metrics.mutual_information_gap(c, f), plain_mig),
    "SAP": (metrics.sap_score, plain_sap),
    "FactorVAE": (factor_vae, plain_factor_vae),
}


def seconds(function, *arguments, repeats: int = 3) -> tuple[float, float]:
    """The best wall-clock time of some calls, and what they return."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        value = function(*arguments)
        times.append(time.perf_counter() - start)
    return min(times), float(value)


def main() -> None:
    generator = torch.Generator().manual_seed(0)
    data = (*sample(10_000, generator), *sample(5_000, generator))
    arrays = tuple(t.numpy() for t in data)
    print(f"{'score':<12}{'ours s':>9}{'plain s':>9}{'ratio':>7}{'ours':>9}{'plain':>9}")
    for name, (ours, plain) in SCORES.items():
        (fast, value), (slow, reference) = seconds(ours, *data), seconds(plain, *arrays)
        print(f"{name:<12}{fast:9.3f}{slow:9.3f}{slow / fast:7.1f}{value:9.4f}{reference:9.4f}")
    for method in ("extra_trees", "gradient_boosting") if "--dci" in sys.argv else ("extra_trees",):
        start = time.perf_counter()
        result = metrics.dci(*data, method=method)
        parts = f"disentanglement {result.disentanglement:.3f}, completeness {result.completeness:.3f}"
        print(f"DCI, {result.method}: {time.perf_counter() - start:.1f} s, {parts}")
    posteriors = (
        torch.randn(20_000, 10, generator=generator),
        torch.randn(20_000, 10, generator=generator) - 3,
    )
    taken, value = seconds(metrics.total_correlation, *posteriors, generator, 512, repeats=1)
    print(
        f"exact total correlation: {1e9 * taken / (512 * 20_000 * 10):.2f} ns for each density, {value:.3f} nats"
    )


if __name__ == "__main__":
    main()
