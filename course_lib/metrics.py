"""How disentangled is a code? The scores of the literature, from codes (N, D) and ground-truth factors (N, K).

Defaults and conventions are those of disentanglement_lib (Locatello et al. 2019, https://arxiv.org/abs/1811.12359),
so that numbers can be compared with published ones: 20 equal-width bins for each latent, 10,000 points to train and
5,000 to test, batches of 64. Its known faults are not kept:

- a latent that is constant (dead) takes part in no vote and no mean that it would turn into NaN, and the number of
  active latents is a count;
- factors need not take all their values, nor occur in all combinations, nor be numbered without gaps; a factor with
  a single value is left out, with a warning;
- orientation can be scored modulo the symmetry of each shape: give any score `Symmetry()(factors)`.

A copy of a latent is a second latent with the same information: MIG and SAP are then 0 for its factor, whereas
MIG-sup, which looks at one latent at a time, does not notice it.
Everything runs on the device of the codes and draws from the caller's torch.Generator; logarithms are natural.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

BINS = 20
CPU_BLOCK = 1 << 18  # densities in one step: 1 MiB, which stays in the cache
ACCELERATOR_BLOCK = 1 << 24
OBSERVATIONS = 4096  # observations that are encoded at once


@dataclass(frozen=True)
class Symmetry:
    """Orientation modulo each shape's symmetry: merges the grid's orientations that (nearly) look alike.

    shape, orientation  the columns of these factors; shape=None where there is one shape only.
    folds               for each shape, how many rotations in a full turn leave it unchanged.
    period              grid steps in a full turn; 39 for dSprites, whose 40 orientations run from 0 to 2π inclusive, so
                        that the last is the first.

    An angle of a shape with s folds stands for itself modulo period / s steps. That is not a whole number for
    dSprites (19.5 for the ellipse, 9.75 for the square), so images rarely coincide exactly. Orientation i becomes the
    orientation j with 0 ≤ j < period / s that looks nearest (on the circle of period / s steps; of two equally near
    the smaller): at most half a step away. The heart keeps 39 orientations, the ellipse 20, the square 10. Shape and
    orientation are then dependent (only a heart can point beyond half a turn), so that scores that hold orientation
    fixed stay a little below 1 even for a code of exactly these factors.
    """

    shape: int | None = 0
    orientation: int = 2
    folds: tuple[int, ...] = (4, 2, 1)
    period: int = 39

    def nearest(self, fold: int) -> list[int]:
        """What the orientations 0, …, period become, for a shape with `fold` folds."""

        def distance(i: int, j: int) -> int:  # in 1 / fold of a step, so that it is a whole number
            difference = fold * (i - j) % self.period
            return min(difference, self.period - difference)

        candidates = range(math.ceil(self.period / fold))
        return [min(candidates, key=lambda j: distance(i, j)) for i in range(self.period + 1)]

    def __call__(self, factors: Tensor) -> Tensor:
        """Factors (N, K) int64 to a copy of them with the column of the orientation replaced."""
        _check_factors(factors)
        angle = factors[:, self.orientation]
        shape = torch.zeros_like(angle) if self.shape is None else factors[:, self.shape]
        if factors.device.type == "cpu":
            ends = {"shape": (shape, len(self.folds) - 1), "orientation": (angle, self.period)}
            for name, (column, end) in ends.items():
                if column.min() < 0 or column.max() > end:
                    got = f"values from {column.min()} to {column.max()}"
                    raise ValueError(f"symmetry: expected {name} from 0 to {end}, got {got}")
        table = torch.tensor([self.nearest(fold) for fold in self.folds], device=factors.device)
        factors = factors.clone()
        factors[:, self.orientation] = table[shape, angle]
        return factors


# ------------------------------------------------------------------ the aggregate posterior over a complete grid


@dataclass(frozen=True)
class Decomposition:
    """E_x KL(q(z|x) || N(0, I)) in three parts, in nats: I_q(x; z), TC(z) and Σ_j KL(q(z_j) || N(0, 1))."""

    mutual_information: float
    total_correlation: float
    dimension_wise_kl: float


def total_correlation(
    mean: Tensor, log_var: Tensor, generator: torch.Generator, num_samples: int = 2048
) -> float:
    """TC(z) = KL(q(z) || Π_j q(z_j)) in nats, of q(z) = (1/N) Σ_n q(z|x_n): see `kl_decomposition_exact`."""
    return kl_decomposition_exact(mean, log_var, generator, num_samples).total_correlation


@torch.no_grad()
def kl_decomposition_exact(
    mean: Tensor, log_var: Tensor, generator: torch.Generator, num_samples: int = 2048
) -> Decomposition:
    """The three parts of the VAE's KL under the exact aggregate posterior q(z) = (1/N) Σ_n N(z; μ_n, diag σ_n²).

    mean, log_var (N, D), float32 or float64, the posteriors of ALL N points of the set or grid. Densities are
    exact: each is a sum over all N posteriors, not over a minibatch. The expectation over z ~ q(z) is a mean over
    num_samples draws; their images are drawn without replacement for as long as there are any. Takes O(num_samples
    N D) time and bounded memory. Chen et al. (2018), https://arxiv.org/abs/1802.04942.
    """
    _check_posteriors(mean, log_var)
    _check_draws(generator, num_samples=num_samples)
    source = generator.device
    order = torch.randperm(len(mean), generator=generator, device=source)
    row = order[torch.arange(num_samples, device=source) % len(mean)].to(mean.device)
    noise = torch.randn(num_samples, mean.shape[1], generator=generator, device=source, dtype=mean.dtype)
    noise = noise.to(mean.device)
    z = mean[row] + (0.5 * log_var[row]).exp() * noise  # (M, D)
    log_conditional = -0.5 * (noise**2 + log_var[row] + math.log(math.tau)).sum(1)
    log_prior = -0.5 * (z**2 + math.log(math.tau)).sum(1)
    log_joint, log_marginals = _log_aggregate_posterior(z, mean, log_var)
    log_product = log_marginals.sum(1)
    parts = (log_conditional - log_joint, log_joint - log_product, log_product - log_prior)
    return Decomposition(*torch.stack(parts).double().mean(1).tolist())


def log_sum_exp(x: Tensor, dim: int) -> Tensor:
    """log Σ exp(x) over `dim`, as torch.logsumexp for finite x; differentiable.

    Terms below exp(−60) times the largest count as that much. On a CPU torch.logsumexp takes 10 to 50 times as long
    where terms fall below exp(−87): torch.exp does, as soon as a result is smaller than a normal float32.
    """
    largest = x.detach().amax(dim, keepdim=True)
    return (x - largest).clamp(min=-60).exp().sum(dim).log() + largest.squeeze(dim)


def _log_aggregate_posterior(z: Tensor, mean: Tensor, log_var: Tensor) -> tuple[Tensor, Tensor]:
    """log q(z) (M,) and log q(z_j) (M, D) of z (M, D), in blocks of at most `block` pairs of a z and a posterior."""
    block = CPU_BLOCK if z.device.type == "cpu" else ACCELERATOR_BLOCK
    columns = min(len(mean), math.isqrt(block))
    mean, log_var = mean.T.contiguous(), log_var.T.contiguous()  # (D, N): a latent is read in one piece
    parts = [_log_sums(part, mean, log_var, columns) for part in z.split(block // columns)]
    log_joint, log_marginals = (torch.cat(part) for part in zip(*parts, strict=True))
    log_n = math.log(mean.shape[1])
    return log_joint - log_n, log_marginals - log_n


def _log_sums(z: Tensor, mean: Tensor, log_var: Tensor, columns: int) -> tuple[Tensor, Tensor]:
    """log Σ_n q(z|x_n) (m,) and log Σ_n q(z_j|x_n) (m, D), from `columns` posteriors at a time.

    z (m, D); mean, log_var (D, N). The joint is a running logsumexp. The marginals need none: every z_j was drawn
    from one of these posteriors, and its own term alone is about as large as the weight 1 / σ. Exponents are kept in
    bits, since exp2 is several times as fast as exp, and above -120, where results would be denormal, and slow.
    """
    log_weight = -0.5 * (log_var + math.log(math.tau))  # (D, N)
    largest = log_weight.amax(1)
    weight = (log_weight - largest[:, None]).exp()
    scale = (-0.5 * log_var).exp() * math.sqrt(0.5 / math.log(2))
    total = log_weight.sum(0) / math.log(2)
    log_joint, marginals = z.new_full((len(z),), -math.inf), torch.zeros_like(z)
    for start in range(0, mean.shape[1], columns):
        part = slice(start, start + columns)
        joint = total[part].repeat(len(z), 1)  # (m, n)
        for j in range(len(mean)):
            bits = (z[:, j, None] - mean[j, part]).mul_(scale[j, part]).square_()  # ½ ((z - μ) / σ)² / log 2
            joint -= bits
            marginals[:, j] += bits.clamp_(max=120).neg_().exp2_() @ weight[j, part]
        log_joint = torch.logaddexp(log_joint, log_sum_exp(joint.mul_(math.log(2)), 1))
    return log_joint, marginals.log() + largest


# ------------------------------------------------------------------ scores from mutual information


@torch.no_grad()
def mutual_information_gap(codes: Tensor, factors: Tensor, *, bins: int = BINS) -> float:
    """MIG = mean over factors k of [I(z_(1); v_k) - I(z_(2); v_k)] / H(v_k), the two most informative latents of k.

    codes (N, D) with D at least 2, factors (N, K). In [0, 1]. A dead latent carries no information: it can be the
    second. Chen et al. (2018), https://arxiv.org/abs/1802.04942.
    """
    codes, columns = _prepare(codes, factors, latents=2)
    information, entropy = _mutual_information(codes, columns, bins)
    first, second = information.topk(2, dim=0).values
    return ((first - second) / entropy).mean().item()


@torch.no_grad()
def mig_sup(codes: Tensor, factors: Tensor) -> float:
    """MIG-sup = mean over latents j of the gap between the two largest I(z_j; v_k) / H(v_k) over factors k.

    codes (N, D), factors (N, K) with K at least 2. In [0, 1]: 1 if no latent tells of a second factor. Dead latents
    are left out, as in the authors' code; 0 if all are dead. Li et al. (2020), https://arxiv.org/abs/2002.10549.
    """
    codes, columns = _prepare(codes, factors, varying=2)
    information, entropy = _mutual_information(codes, columns, BINS)
    first, second = (information / entropy).topk(2, dim=1).values.T
    active = ~_dead(codes)
    return ((first - second)[active].sum() / active.sum().clamp(min=1)).item()


def _mutual_information(codes: Tensor, columns: list[Column], bins: int) -> tuple[Tensor, Tensor]:
    """I(z_j; v_k) (D, K) of binned codes and H(v_k) (K,) in nats, float64, from the counts of all pairs of values."""
    latents = codes.shape[1]
    offset = bins * torch.arange(latents, device=codes.device)  # so that no two latents share a bin
    binned = _discretise(codes, bins) + offset  # (N, D)
    information, entropy = [], []
    for column in columns:
        pair = binned * column.count + column.index[:, None]
        counts = torch.bincount(pair.flatten(), minlength=latents * bins * column.count)
        counts = counts.view(latents, bins, column.count).double()
        total = _entropy(counts.sum(1)) + _entropy(counts.sum(2)) - _entropy(counts.flatten(1))  # (D,)
        information.append(total.where(total > 1e-12, 0))  # what rounding leaves of 0 is 0
        entropy.append(_entropy(counts[:1].sum(1)))
    return torch.stack(information, dim=1), torch.cat(entropy)


def _entropy(counts: Tensor) -> Tensor:
    """H in nats of the distributions (…, V) that are given as counts."""
    n = counts.sum(-1)
    return n.log() - torch.special.xlogy(counts, counts).sum(-1) / n


def _discretise(values: Tensor, bins: int) -> Tensor:
    """The equal-width bins 0 … bins - 1 of each column of (N, D), with the edges of numpy.histogram to the last bit."""
    if type(bins) is not int or bins < 1:
        raise ValueError(f"bins: expected a positive integer, got {bins!r}")
    low, high = values.aminmax(dim=0)
    low, high = low - 0.5 * (low == high), high + 0.5 * (low == high)
    steps = torch.arange(bins, dtype=values.dtype, device=values.device)
    edges = steps * ((high - low) / bins)[:, None] + low[:, None]  # (D, bins), the left ones
    return torch.searchsorted(edges, values.T.contiguous(), right=True).T - 1


# ------------------------------------------------------------------ predicting factors: SAP and DCI


@torch.no_grad()
def sap_score(
    codes: Tensor,
    factors: Tensor,
    test_codes: Tensor | None = None,
    test_factors: Tensor | None = None,
    *,
    generator: torch.Generator | None = None,
) -> float:
    """SAP = mean over factors of the gap between the two latents that predict the factor best, each on its own.

    Prediction: the test accuracy of a linear support vector machine (squared hinge, C = 0.01, balanced classes: the
    optimum that sklearn.svm.LinearSVC approaches, solved exactly). codes (N, D) with D at least 2, factors (N, K).
    Without a test set a third of the rows is held out at random (generator; None: seeded with 0).
    Kumar et al. (2018), https://arxiv.org/abs/1711.00848.
    """
    train, test = _train_test(codes, factors, test_codes, test_factors, generator)
    codes, columns = _prepare(*train, latents=2)
    scores = [_svm_accuracy(codes, column, *test) for column in columns]
    first, second = torch.stack(scores, dim=1).topk(2, dim=0).values  # of (D, K)
    return (first - second).mean().item()


def _svm_accuracy(codes: Tensor, column: Column, test_codes: Tensor, test_factors: Tensor) -> Tensor:
    """(D,): how often a linear SVM that sees one latent predicts the factor of the test points."""
    weight, bias = _linear_svm(codes.double().T.contiguous(), column.index, column.count).unbind(-1)
    correct = []
    for z, w, b in zip(test_codes.double().T, weight, bias, strict=True):
        predicted = column.values[(z[:, None] * w + b).argmax(1)]
        correct.append((predicted == test_factors[:, column.number]).double().mean())
    return torch.stack(correct)


def _linear_svm(x: Tensor, y: Tensor, count: int) -> Tensor:
    """One-against-rest squared-hinge SVMs of each latent on its own: weight and bias, (D, V, 2).

    x (D, N) float64, y (N,) the class, 0 … count - 1. Minimises, to convergence and as liblinear defines it,
    ½(w² + b²) + 0.01 [c₊ Σ_{i in class} max(0, 1 - w x_i - b)² + c₋ Σ_{i not in class} max(0, 1 + w x_i + b)²]
    with c₊ = N / (count N_class) and c₋ = 1, or the other class's c₊ if there are two.

    A loss is positive on one side of a threshold in x, so that its sums are entries of cumulative sums over sorted x,
    and a Newton step costs O(log N). The step taken is the best of the full one and its halvings.
    """
    sums_below = _sums_below(x, y, count)
    positive = 0.01 * len(y) / (count * y.bincount(minlength=count).double())[:, None]  # (V, 1)
    negative = positive.flip(0) if count == 2 else torch.full_like(positive, 0.01)
    halvings = 0.5 ** torch.arange(12, dtype=x.dtype, device=x.device)[:, None]
    theta = x.new_zeros(len(x), count, 1, 2)
    for _ in range(100):
        _, gradient, hessian = _svm_loss(theta, sums_below, positive, negative)
        step = torch.linalg.solve_ex(hessian, -gradient[..., None])[0][..., 0]  # (D, V, 1, 2)
        candidates = theta + halvings * step  # (D, V, 12, 2)
        best = _svm_loss(candidates, sums_below, positive, negative)[0].argmin(2)
        theta = candidates.gather(2, best[..., None, None].expand_as(theta))
        if (step.abs() <= 1e-10 * (1 + theta.abs())).all():
            break
    return theta[:, :, 0]


def _sums_below(x: Tensor, y: Tensor, count: int) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """A function: thresholds (D, V, S) to Σ (1, x, x²) over x < threshold, (D, V, S, 3), in the class and outside."""
    x, order = x.sort(dim=1)
    label = y[order]  # (D, N)
    rank = label.argsort(dim=1, stable=True)  # by class, then by x
    key = label.gather(1, rank) * len(y) + rank  # ascending
    size = y.bincount(minlength=count)
    first = (size.cumsum(0) - size)[:, None]  # (V, 1), the first of each class
    latent = torch.arange(len(x), device=x.device)[:, None, None]
    number = torch.arange(count, device=x.device)[:, None]

    def cumulative(x: Tensor) -> Tensor:  # (D, N + 1, 3)
        return F.pad(torch.stack((torch.ones_like(x), x, x * x), dim=-1).cumsum(1), (0, 0, 1, 0))

    everyone, by_class = cumulative(x), cumulative(x.gather(1, rank))

    def sums_below(threshold: Tensor) -> tuple[Tensor, Tensor]:
        edge = torch.searchsorted(x, threshold.flatten(1)).view_as(threshold)
        position = torch.searchsorted(key, (edge + number * len(y)).flatten(1)).view_as(threshold)
        own = by_class[latent, position] - by_class[latent, first]
        return own, everyone[latent, edge] - own

    return sums_below


def _svm_loss(theta: Tensor, sums_below: Callable, positive: Tensor, negative: Tensor) -> tuple[Tensor, ...]:
    """Loss (D, V, S), gradient (D, V, S, 2) and Hessian (D, V, S, 2, 2) at S points theta = (w, b), (D, V, S, 2)."""
    w, b = theta.unbind(-1)
    slope = w.where(w != 0, 1e-300)
    everything = sums_below(torch.full_like(w, math.inf))
    own, rest = sums_below((1 - b) / slope)[0], sums_below((-1 - b) / slope)[1]
    rising = (w >= 0)[..., None]
    s0, s1, s2 = (positive * s for s in torch.where(rising, own, everything[0] - own).unbind(-1))
    r0, r1, r2 = (negative * r for r in torch.where(rising, everything[1] - rest, rest).unbind(-1))
    loss = 0.5 * (w * w + b * b) + (1 - b) ** 2 * s0 - 2 * (1 - b) * w * s1 + w * w * s2
    loss = loss + (1 + b) ** 2 * r0 + 2 * (1 + b) * w * r1 + w * w * r2
    h0, h1, h2 = 1 + 2 * (s0 + r0), 2 * (s1 + r1), 1 + 2 * (s2 + r2)
    gradient = torch.stack((h2 * w + h1 * b - 2 * (s1 - r1), h1 * w + h0 * b - 2 * (s0 - r0)), dim=-1)
    return loss, gradient, torch.stack((h2, h1, h1, h0), dim=-1).unflatten(-1, (2, 2))


@dataclass(frozen=True)
class DCI:
    """disentanglement, completeness in [0, 1]; informativeness: mean accuracy; importance (D, K); which model ran."""

    disentanglement: float
    completeness: float
    informativeness_train: float
    informativeness_test: float
    importance: Tensor
    method: str


def dci(
    codes: Tensor,
    factors: Tensor,
    test_codes: Tensor | None = None,
    test_factors: Tensor | None = None,
    *,
    method: Literal["gradient_boosting", "extra_trees"] = "gradient_boosting",
    generator: torch.Generator | None = None,
) -> DCI:
    """How much each latent matters (R_jk) to a classifier of each factor from all latents, fitted by scikit-learn.

    disentanglement = Σ_j w_j (1 - H_K(R_j·)) with w_j = latent j's share of R: does a latent serve one factor only?
    completeness = Σ_k w_k (1 - H_D(R_·k)): is a factor served by one latent only? Entropies to the base K or D.
    informativeness = mean accuracy over factors. "gradient_boosting" is the literature's model, and slow;
    "extra_trees" (50 trees of depth 8) is fast, and its numbers differ: compare scores of one method only.
    codes (N, D), factors (N, K), D and K at least 2. Without a test set a third of the rows is held out at random.
    The classifiers run on the CPU, seeded from the generator (None: seeded with 0). Eastwood and Williams (2018),
    https://openreview.net/forum?id=By-7dz-AZ.
    """
    if method not in ("gradient_boosting", "extra_trees"):
        raise ValueError(f'method: expected "gradient_boosting" or "extra_trees", got {method!r}')
    generator = generator or torch.Generator().manual_seed(0)
    train, test = _train_test(codes, factors, test_codes, test_factors, generator)
    _, columns = _prepare(*train, latents=2, varying=2)
    seed = _seed(generator)
    arrays = [t.cpu().numpy() for t in (*train, *test)]
    fits = [_fit_classifier(method, seed, *arrays, column.number) for column in columns]
    importance, accuracies = torch.stack([fit[0] for fit in fits], dim=1), [fit[1:] for fit in fits]
    informativeness = torch.tensor(accuracies, dtype=torch.float64).mean(0).tolist()
    scores = _concentration(importance), _concentration(importance.T)
    return DCI(*scores, *informativeness, importance, method)


def _fit_classifier(method, seed, codes, factors, test_codes, test_factors, k) -> tuple[Tensor, float, float]:
    """Importance (D,) of each latent for factor k, and the accuracy on train and test points; arrays are NumPy's."""
    from sklearn.ensemble import ExtraTreesClassifier, GradientBoostingClassifier  # a second of imports

    if method == "gradient_boosting":
        model = GradientBoostingClassifier(random_state=seed)
    else:
        model = ExtraTreesClassifier(50, max_depth=8, max_features=None, random_state=seed)
    model.fit(codes, factors[:, k])
    accuracies = model.score(codes, factors[:, k]), model.score(test_codes, test_factors[:, k])
    return torch.from_numpy(model.feature_importances_), *accuracies


def _concentration(importance: Tensor) -> float:
    """Σ_r w_r (1 - H(row r) / log columns), w_r = the row's share of all importance (rows, columns)."""
    rows = importance + 1e-11  # so that a row of zeros has an entropy
    probability = rows / rows.sum(1, keepdim=True)
    entropy = torch.special.entr(probability).sum(1) / math.log(importance.shape[1])
    share = importance.sum(1) if importance.sum() > 0 else torch.ones(len(importance), dtype=importance.dtype)
    return ((1 - entropy) * share / share.sum()).sum().item()


# ------------------------------------------------------------------ scores from a representation and a sampler


class Sampler(Protocol):
    """What the scores below draw from; `GroupSampler` serves for any table of factors.

    varying: the factors (columns) that take more than one value, the only ones that are held fixed.
    sampler(fixed, n, generator): fixed (G,) int64 holds one of them for each of G groups. Returns G · n observations,
    group after group, (G · n, …): within a group of n that factor has one value, drawn anew for each group, and
    everything else is random.
    """

    varying: tuple[int, ...]

    def __call__(self, fixed: Tensor, n: int, generator: torch.Generator) -> Tensor: ...


class GroupSampler:
    """Groups of rows of a table, alike in one factor; uniform over the rows, so grids may be incomplete.

    factors (N, K) int64, one row for each point of the grid or data set. observe: row numbers (M,) to
    observations (M, …); None: the row numbers are the observations.

        table = grid.factors(torch.arange(len(grid)))
        GroupSampler(table, lambda rows: sprites.images(table[rows]))  # represent: images to codes
        GroupSampler(table)                                            # represent: lambda rows: codes[rows]
    """

    def __init__(self, factors: Tensor, observe: Callable[[Tensor], Tensor] | None = None):
        _check_factors(factors)
        columns = [_column(column) for column in factors.T]
        self.varying = _varying(columns)
        self.observe = observe
        self.index = torch.stack([column.index for column in columns])  # (K, N)
        self.order = self.index.argsort(dim=1, stable=True)  # rows by value
        largest = max(column.count for column in columns)
        self.size = torch.stack([column.index.bincount(minlength=largest) for column in columns])  # (K, V)
        self.start = self.size.cumsum(1) - self.size

    def __call__(self, fixed: Tensor, n: int, generator: torch.Generator) -> Tensor:
        device, source = self.index.device, generator.device
        first = torch.randint(self.index.shape[1], fixed.shape, generator=generator, device=source).to(device)
        pick = torch.randint(2**62, (len(fixed), n), generator=generator, device=source).to(device)
        fixed = fixed.to(device)
        value = self.index[fixed, first]  # (G,)
        position = self.start[fixed, value][:, None] + pick % self.size[fixed, value][:, None]
        rows = self.order[fixed[:, None], position].flatten()
        return rows if self.observe is None else self.observe(rows)


@dataclass(frozen=True)
class BetaVAEScore:
    """Accuracy of the classifier on its training and on new points: eval_accuracy is the score."""

    train_accuracy: float
    eval_accuracy: float


@torch.no_grad()
def beta_vae_score(
    represent: Callable[[Tensor], Tensor],
    sampler: Sampler,
    generator: torch.Generator,
    *,
    batch_size: int = 64,
    num_train: int = 10_000,
    num_eval: int = 5_000,
) -> BetaVAEScore:
    """Which factor was held? Guessed by a linear classifier from mean |z₁ - z₂| over batch_size pairs that share it.

    represent: observations (M, …) to codes (M, D). Reaches 1 early, and depends a little on the scale of the codes
    (the logistic regression is regularised). Higgins et al. (2017), https://openreview.net/forum?id=Sy2fzU9gl.
    """
    from sklearn.linear_model import LogisticRegression  # a second of imports

    _check_draws(generator, batch_size=batch_size, num_train=num_train, num_eval=num_eval)
    if len(sampler.varying) < 2:
        raise ValueError(f"expected two factors that vary, to tell one from the other, got {sampler.varying}")
    points = []
    for count in (num_train, num_eval):
        label = _random_factors(sampler, count, generator)
        pairs = _groups(represent, sampler, label, 2, generator, batch_size)
        distances = ((z[:, 0] - z[:, 1]).abs().unflatten(0, (-1, batch_size)) for z in pairs)
        features = torch.cat([distance.mean(1) for distance in distances])  # (count, D)
        points += [features.cpu().numpy(), label.cpu().numpy()]
    model = LogisticRegression(random_state=_seed(generator)).fit(*points[:2])
    return BetaVAEScore(model.score(*points[:2]), model.score(*points[2:]))


@dataclass(frozen=True)
class FactorVAEScore:
    """Accuracy of the majority vote on its training and on new votes: eval_accuracy is the score."""

    train_accuracy: float
    eval_accuracy: float
    active_latents: int


@torch.no_grad()
def factor_vae_score(
    represent: Callable[[Tensor], Tensor],
    sampler: Sampler,
    generator: torch.Generator,
    *,
    batch_size: int = 64,
    num_train: int = 10_000,
    num_eval: int = 5_000,
    num_variance_estimate: int = 10_000,
    threshold: float = 0.05,
) -> FactorVAEScore:
    """Which factor was held? Guessed from argmin_j Var_local(z_j) / Var_global(z_j) over batch_size points sharing it.

    represent: observations (M, …) to codes (M, D). The guess for each latent is the factor it voted for most often in
    num_train votes; the score is how often the guess is right in num_eval others. Latents of a variance below
    `threshold` have collapsed and do not vote (it is absolute: the codes of a VAE are on the scale of its prior), and
    constant ones never do; no latent left: score 0. This is the definition of lesson 04's exercise. disentanglement_lib
    compares the standard deviation with .05 and so lets latents vote that carry almost nothing.
    Kim and Mnih (2018), https://arxiv.org/abs/1802.05983.
    """
    _check_draws(generator, batch_size=batch_size, num_train=num_train, num_eval=num_eval)
    _check_draws(generator, num_variance_estimate=num_variance_estimate)
    anything = torch.full((num_variance_estimate,), sampler.varying[0])
    codes = torch.cat([z[:, 0] for z in _groups(represent, sampler, anything, 1, generator)])
    variance = codes.var(0)
    active = (variance >= threshold) & ~_dead(codes)
    latents = int(active.sum())
    if latents == 0:
        return FactorVAEScore(0.0, 0.0, 0)
    votes, end = [], max(sampler.varying) + 1
    for count in (num_train, num_eval):
        label = _random_factors(sampler, count, generator)
        groups = _groups(represent, sampler, label, batch_size, generator)
        vote = torch.cat([(z[..., active].var(1) / variance[active]).argmin(1) for z in groups])  # (count,)
        pair = vote * end + label.to(vote.device)
        votes.append(pair.bincount(minlength=latents * end).view(latents, end))
    guess = votes[0].argmax(1, keepdim=True)
    return FactorVAEScore(*(v.gather(1, guess).sum().item() / v.sum().item() for v in votes), latents)


def _random_factors(sampler: Sampler, count: int, generator: torch.Generator) -> Tensor:
    """(count,): a factor to hold fixed for each, on the generator's device."""
    choice = torch.randint(len(sampler.varying), (count,), generator=generator, device=generator.device)
    return torch.tensor(sampler.varying, device=generator.device)[choice]


def _groups(
    represent: Callable, sampler: Sampler, fixed: Tensor, n: int, generator: torch.Generator, repeat: int = 1
):
    """Codes (g, n, D) of `repeat` groups of n for each entry of fixed (G,), some at a time, to bound the memory."""
    for part in fixed.split(max(1, OBSERVATIONS // (n * repeat))):
        codes = represent(sampler(part.repeat_interleave(repeat), n, generator))
        _check_codes(codes, "what represent returned")
        expected = len(part) * repeat * n
        if len(codes) != expected:
            raise ValueError(f"represent: expected {expected} codes, one each, got {len(codes)}")
        yield codes.unflatten(0, (-1, n))


# ------------------------------------------------------------------ factors as columns, and checks


@dataclass(frozen=True)
class Column:
    """One factor: its column in (N, K), its distinct values (V,), and which of them each row has, (N,)."""

    number: int
    values: Tensor
    index: Tensor

    @property
    def count(self) -> int:
        return len(self.values)


def _column(values: Tensor, number: int = 0) -> Column:
    return Column(number, *values.unique(return_inverse=True))


def _varying(columns: list[Column]) -> tuple[int, ...]:
    """The columns of more than one value; warns about the others."""
    single = [k for k, column in enumerate(columns) if column.count < 2]
    if len(single) == len(columns):
        raise ValueError("factors: expected a factor that varies, but each column holds a single value")
    if single:
        warnings.warn(f"factors {single} hold a single value each: left out of the score", stacklevel=4)
    return tuple(k for k in range(len(columns)) if k not in single)


def _prepare(
    codes: Tensor, factors: Tensor, latents: int = 1, varying: int = 1
) -> tuple[Tensor, list[Column]]:
    """Checked codes (N, D), and the factors that vary; at least so many latents and varying factors are needed."""
    codes, factors = _check_pair(codes, factors)
    columns = [_column(column, k) for k, column in enumerate(factors.T)]
    columns = [columns[k] for k in _varying(columns)]
    if codes.shape[1] < latents or len(columns) < varying:
        raise ValueError(
            f"expected at least {latents} latents and {varying} factors that vary, "
            f"got {codes.shape[1]} and {len(columns)}"
        )
    return codes, columns


def _train_test(
    codes: Tensor,
    factors: Tensor,
    test_codes: Tensor | None,
    test_factors: Tensor | None,
    generator: torch.Generator | None,
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """(codes, factors) to train on and to test on: what is given, or a random two thirds and the other third."""
    if (test_codes is None) != (test_factors is None):
        raise ValueError("expected both test_codes and test_factors, or neither")
    codes, factors = _check_pair(codes, factors)
    if test_codes is not None:
        test_codes, test_factors = _check_pair(test_codes, test_factors, "test_")
        if test_codes.shape[1] != codes.shape[1] or test_factors.shape[1] != factors.shape[1]:
            raise ValueError("expected as many latents and factors to test on as to train on")
        return (codes, factors), (test_codes, test_factors)
    generator = generator or torch.Generator().manual_seed(0)
    row = torch.randperm(len(codes), generator=generator, device=generator.device).to(codes.device)
    test, train = row[: (len(codes) + 2) // 3], row[(len(codes) + 2) // 3 :]
    return (codes[train], factors[train]), (codes[test], factors[test])


def _seed(generator: torch.Generator) -> int:
    """A seed for scikit-learn."""
    return int(torch.randint(2**31 - 1, (), generator=generator, device=generator.device))


def _dead(codes: Tensor) -> Tensor:
    """(D,): which latents have one value for all N points."""
    low, high = codes.aminmax(dim=0)
    return low == high


def _check_pair(codes: Tensor, factors: Tensor, prefix: str = "") -> tuple[Tensor, Tensor]:
    """The two without their history; on the CPU instead of on Apple's GPU, which has no float64."""
    _check_codes(codes, f"{prefix}codes")
    _check_factors(factors, f"{prefix}factors")
    if len(codes) != len(factors) or codes.device != factors.device:
        raise ValueError(
            f"expected {prefix}codes and {prefix}factors with as many rows on the same device, got "
            f"{tuple(codes.shape)} on {codes.device} and {tuple(factors.shape)} on {factors.device}"
        )
    codes = codes.detach()
    return (codes.cpu(), factors.cpu()) if codes.device.type == "mps" else (codes, factors)


def _check_draws(generator: torch.Generator, **counts: int) -> None:
    if not isinstance(generator, torch.Generator):
        raise TypeError(f"generator: expected a torch.Generator, got {type(generator).__name__}")
    for name, count in counts.items():
        if type(count) is not int or count < 2:
            raise ValueError(f"{name}: expected an integer of at least 2, got {count!r}")


def _check_posteriors(mean: Tensor, log_var: Tensor) -> None:
    _check_codes(mean, "mean")
    _check_codes(log_var, "log_var")
    if mean.shape != log_var.shape or mean.dtype != log_var.dtype:
        raise ValueError(
            "expected mean and log_var of one shape (N, D) and dtype, got "
            f"{tuple(mean.shape)} {mean.dtype} and {tuple(log_var.shape)} {log_var.dtype}"
        )


def _check_codes(codes: Tensor, name: str = "codes") -> None:
    if not isinstance(codes, Tensor):
        raise TypeError(f"{name}: expected a torch.Tensor, got {type(codes).__name__}")
    if codes.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"{name}: expected float32 or float64, got {codes.dtype}; convert with .float()")
    if codes.ndim != 2 or codes.shape[1] < 1 or len(codes) < 2:
        raise ValueError(f"{name}: expected shape (N, D) with N at least 2, got {tuple(codes.shape)}")
    if codes.device.type == "cpu" and not codes.isfinite().all():
        bad = (~codes.isfinite()).any(0).nonzero().flatten().tolist()
        raise ValueError(f"{name}: expected finite numbers, but latents {bad} hold NaN or infinity")


def _check_factors(factors: Tensor, name: str = "factors") -> None:
    if not isinstance(factors, Tensor):
        raise TypeError(f"{name}: expected a torch.Tensor, got {type(factors).__name__}")
    if factors.dtype != torch.int64:
        raise TypeError(f"{name}: expected torch.int64, got {factors.dtype}; convert with .long()")
    if factors.ndim != 2 or factors.shape[1] < 1 or len(factors) < 1:
        raise ValueError(f"{name}: expected shape (N, K), got {tuple(factors.shape)}")
