"""Wrong answers to lesson 07, cell by cell, beyond the mistakes that the solutions name."""

# %% the notebook's first cell
import torch
import torch.nn.functional as F

from course_lib import answer
from course_lib.lessons import correlated_factors, mutual_information


# %% correlated_joint: the first two factors, whatever the pair
@answer(correlated_factors.correlated_joint)
def correlated_joint(sizes, pair, sigma):
    grid = torch.meshgrid(*[torch.linspace(0, 1, n, device=sigma.device) for n in sizes], indexing="ij")
    weights = torch.exp(-((grid[0] - grid[1]) ** 2) / (2 * sigma**2))
    return weights / weights.sum()


# %% correlated_joint: all pairs of factors
@answer(correlated_factors.correlated_joint)
def correlated_joint(sizes, pair, sigma):
    grid = torch.meshgrid(*[torch.linspace(0, 1, n, device=sigma.device) for n in sizes], indexing="ij")
    weights = 1.0
    for k in range(1, len(sizes)):
        weights = weights * torch.exp(-((grid[k - 1] - grid[k]) ** 2) / (2 * sigma**2))
    return weights / weights.sum()


# %% correlated_joint: a table of two factors only
# says: shape
@answer(correlated_factors.correlated_joint)
def correlated_joint(sizes, pair, sigma):
    u, v = (torch.linspace(0, 1, sizes[k], device=sigma.device) for k in pair)
    weights = torch.exp(-((u[:, None] - v) ** 2) / (2 * sigma**2))
    return weights / weights.sum()


# %% correlated_joint: sigma not squared
@answer(correlated_factors.correlated_joint)
def correlated_joint(sizes, pair, sigma):
    grid = torch.meshgrid(*[torch.linspace(0, 1, n, device=sigma.device) for n in sizes], indexing="ij")
    weights = torch.exp(-((grid[pair[0]] - grid[pair[1]]) ** 2) / (2 * sigma))
    return weights / weights.sum()


# %% correlated_joint: a plus in the exponent
@answer(correlated_factors.correlated_joint)
def correlated_joint(sizes, pair, sigma):
    grid = torch.meshgrid(*[torch.linspace(0, 1, n, device=sigma.device) for n in sizes], indexing="ij")
    weights = torch.exp((grid[pair[0]] - grid[pair[1]]) ** 2 / (2 * sigma**2))
    return weights / weights.sum()


# %% correlated_joint: made on the CPU
# says: CPU
@answer(correlated_factors.correlated_joint)
def correlated_joint(sizes, pair, sigma):
    grid = torch.meshgrid(*[torch.linspace(0, 1, n) for n in sizes], indexing="ij")
    weights = torch.exp(-((grid[pair[0]] - grid[pair[1]]) ** 2) / (2 * sigma**2))
    return weights / weights.sum()


# %% correlated_joint: meshgrid with axes exchanged
# says: shape|value
@answer(correlated_factors.correlated_joint)
def correlated_joint(sizes, pair, sigma):
    axes = [torch.linspace(0, 1, n, device=sigma.device) for n in sizes]
    grid = torch.meshgrid(*axes, indexing="xy")
    weights = torch.exp(-((grid[pair[0]] - grid[pair[1]]) ** 2) / (2 * sigma**2))
    return weights / weights.sum()


# %% correlated_joint: sigma as a Python number
# says: host
@answer(correlated_factors.correlated_joint)
def correlated_joint(sizes, pair, sigma):
    grid = torch.meshgrid(*[torch.linspace(0, 1, n, device=sigma.device) for n in sizes], indexing="ij")
    weights = torch.exp(-((grid[pair[0]] - grid[pair[1]]) ** 2) / (2 * float(sigma) ** 2))
    return weights / weights.sum()


# %% sample_correlated: without replacement
# says: .
@answer(correlated_factors.sample_correlated)
def sample_correlated(joint, n, generator):
    cell = torch.rand(n, generator=generator, device=joint.device).argsort() % joint.numel()
    return torch.stack(torch.unravel_index(cell, joint.shape), dim=1)


# %% sample_correlated: the global generator
# says: generator
@answer(correlated_factors.sample_correlated)
def sample_correlated(joint, n, generator):
    cell = torch.multinomial(joint.flatten(), n, replacement=True)
    return torch.stack(torch.unravel_index(cell, joint.shape), dim=1)


# %% sample_correlated: torch.distributions, which take no generator
# says: generator
@answer(correlated_factors.sample_correlated)
def sample_correlated(joint, n, generator):
    cell = torch.distributions.Categorical(probs=joint.flatten(), validate_args=False).sample((n,))
    return torch.stack(torch.unravel_index(cell, joint.shape), dim=1)


# %% sample_correlated: factors are rows
# says: shape
@answer(correlated_factors.sample_correlated)
def sample_correlated(joint, n, generator):
    cell = torch.multinomial(joint.flatten(), n, replacement=True, generator=generator)
    return torch.stack(torch.unravel_index(cell, joint.shape))


# %% sample_correlated: cell numbers
# says: shape
@answer(correlated_factors.sample_correlated)
def sample_correlated(joint, n, generator):
    return torch.multinomial(joint.flatten(), n, replacement=True, generator=generator)


# %% sample_correlated: columns in reverse
@answer(correlated_factors.sample_correlated)
def sample_correlated(joint, n, generator):
    cell = torch.multinomial(joint.flatten(), n, replacement=True, generator=generator)
    columns = []
    for size in reversed(joint.shape):
        columns.append(cell % size)
        cell = cell // size
    return torch.stack(columns, dim=1)


# %% sample_correlated: every n-th share, in order
@answer(correlated_factors.sample_correlated)
def sample_correlated(joint, n, generator):
    shares = joint.flatten().double().cumsum(0)
    u = (torch.arange(n, device=joint.device) + 0.5) / n
    cell = torch.searchsorted(shares, u * shares[-1], right=True)
    return torch.stack(torch.unravel_index(cell, joint.shape), dim=1)


# %% sample_correlated: equal steps from a random start, in order
# says: independent|in order|sorted
@answer(correlated_factors.sample_correlated)
def sample_correlated(joint, n, generator):
    shares = joint.flatten().double().cumsum(0)
    start = torch.rand(1, generator=generator, device=joint.device, dtype=torch.float64)
    u = (torch.arange(n, device=joint.device) + start) / n
    cell = torch.searchsorted(shares, u * shares[-1], right=True)
    return torch.stack(torch.unravel_index(cell, joint.shape), dim=1)


# %% sample_correlated: sorted
# says: independent|in order|sorted
@answer(correlated_factors.sample_correlated)
def sample_correlated(joint, n, generator):
    cell = torch.multinomial(joint.flatten(), n, replacement=True, generator=generator).sort().values
    return torch.stack(torch.unravel_index(cell, joint.shape), dim=1)


# %% sample_correlated: one uniform number against all cells
# says: memory
@answer(correlated_factors.sample_correlated)
def sample_correlated(joint, n, generator):
    shares = joint.flatten().cumsum(0)
    u = torch.rand(n, 1, generator=generator, device=joint.device)
    cell = (u >= shares[:-1]).sum(1)
    return torch.stack(torch.unravel_index(cell, joint.shape), dim=1)


# %% sample_correlated: floats
# says: int64|float
@answer(correlated_factors.sample_correlated)
def sample_correlated(joint, n, generator):
    cell = torch.multinomial(joint.flatten(), n, replacement=True, generator=generator)
    return torch.stack(torch.unravel_index(cell, joint.shape), dim=1).float()


# %% sample_correlated: on the CPU, then moved
# says: CPU
@answer(correlated_factors.sample_correlated)
def sample_correlated(joint, n, generator):
    u = torch.rand(n, generator=generator).to(joint.device)
    shares = joint.flatten().cumsum(0)
    cell = torch.searchsorted(shares, u * shares[-1], right=True).clamp(max=joint.numel() - 1)
    return torch.stack(torch.unravel_index(cell, joint.shape), dim=1)


# %% accuracy_bound: the accuracy of the first attribute
@answer(correlated_factors.accuracy_bound)
def accuracy_bound(joint):
    return joint.amax(-1).sum(-1)


# %% accuracy_bound: the most frequent cell
@answer(correlated_factors.accuracy_bound)
def accuracy_bound(joint):
    return joint.flatten(-2).amax(-1)


# %% accuracy_bound: the larger of the two
@answer(correlated_factors.accuracy_bound)
def accuracy_bound(joint):
    q = joint.sum(-1, keepdim=True) * joint.sum(-2, keepdim=True)
    return torch.maximum(joint, q).sum((-2, -1))


# %% accuracy_bound: one minus the mutual information
@answer(correlated_factors.accuracy_bound)
def accuracy_bound(joint):
    q = joint.sum(-1, keepdim=True) * joint.sum(-2, keepdim=True)
    return 1 - (joint * (joint / q).log()).sum((-2, -1))


# %% accuracy_bound: summed over the tables
# says: shape
@answer(correlated_factors.accuracy_bound)
def accuracy_bound(joint):
    q = joint.sum(-1, keepdim=True) * joint.sum(-2, keepdim=True)
    return torch.minimum(joint, q).sum()


# %% accuracy_bound: margins of the first axes
# says: value|shape|raised|size
@answer(correlated_factors.accuracy_bound)
def accuracy_bound(joint):
    q = joint.sum(0, keepdim=True) * joint.sum(1, keepdim=True)
    return torch.minimum(joint, q).sum((-2, -1))


# %% accuracy_bound: squared differences
@answer(correlated_factors.accuracy_bound)
def accuracy_bound(joint):
    q = joint.sum(-1, keepdim=True) * joint.sum(-2, keepdim=True)
    return 1 - 0.5 * (joint - q).square().sum((-2, -1))


# %% conditional_mutual_information: given y
@answer(correlated_factors.conditional_mutual_information)
def conditional_mutual_information(table):
    p = (table / table.sum((-3, -2, -1), keepdim=True)).transpose(-1, -2)
    h = torch.special.entr
    h_xa, h_ya = h(p.sum(-2)).sum((-2, -1)), h(p.sum(-3)).sum((-2, -1))
    return h_xa + h_ya - h(p).sum((-3, -2, -1)) - h(p.sum((-3, -2))).sum(-1)


# %% conditional_mutual_information: a table normalised inside every group
@answer(correlated_factors.conditional_mutual_information)
def conditional_mutual_information(table):
    p = table / table.sum((-3, -2), keepdim=True).clamp(min=1e-30)
    h = torch.special.entr
    h_xa, h_ya = h(p.sum(-2)).sum((-2, -1)), h(p.sum(-3)).sum((-2, -1))
    return h_xa + h_ya - h(p).sum((-3, -2, -1)) - h(p.sum((-3, -2))).sum(-1)


# %% conditional_mutual_information: NaN in an empty group
# says: NaN
@answer(correlated_factors.conditional_mutual_information)
def conditional_mutual_information(table):
    p = table / table.sum((-3, -2, -1), keepdim=True)
    p_a = p.sum((-3, -2))
    inside = mutual_information.discrete_mutual_information(p.movedim(-1, -3))
    return (p_a * inside).sum(-1)


# %% conditional_mutual_information: xlogy of a ratio, NaN where a margin is 0
# says: NaN
@answer(correlated_factors.conditional_mutual_information)
def conditional_mutual_information(table):
    p = table / table.sum((-3, -2, -1), keepdim=True)
    ratio = p * p.sum((-3, -2), keepdim=True) / (p.sum(-2, keepdim=True) * p.sum(-3, keepdim=True))
    return torch.xlogy(p, ratio).sum((-3, -2, -1))


# %% conditional_mutual_information: all tables normalised together
@answer(correlated_factors.conditional_mutual_information)
def conditional_mutual_information(table):
    p = table / table.sum()
    h = torch.special.entr
    h_xa, h_ya = h(p.sum(-2)).sum((-2, -1)), h(p.sum(-3)).sum((-2, -1))
    return h_xa + h_ya - h(p).sum((-3, -2, -1)) - h(p.sum((-3, -2))).sum(-1)


# %% conditional_mutual_information: the two margins exchanged in sign
@answer(correlated_factors.conditional_mutual_information)
def conditional_mutual_information(table):
    p = table / table.sum((-3, -2, -1), keepdim=True)
    h = torch.special.entr
    h_xa, h_ya = h(p.sum(-2)).sum((-2, -1)), h(p.sum(-3)).sum((-2, -1))
    return h(p).sum((-3, -2, -1)) + h(p.sum((-3, -2))).sum(-1) - h_xa - h_ya


# %% conditional_mutual_information: I(x; (y, a))
@answer(correlated_factors.conditional_mutual_information)
def conditional_mutual_information(table):
    return mutual_information.discrete_mutual_information(table.flatten(-2))


# %% conditional_mutual_information: interaction information
@answer(correlated_factors.conditional_mutual_information)
def conditional_mutual_information(table):
    with_both = mutual_information.discrete_mutual_information(table.flatten(-2))
    with_a = mutual_information.discrete_mutual_information(table.sum(-2))
    return with_both - with_a - mutual_information.discrete_mutual_information(table.sum(-1))


# %% conditional_mutual_information: a small number in every cell
@answer(correlated_factors.conditional_mutual_information)
def conditional_mutual_information(table):
    p = table / table.sum((-3, -2, -1), keepdim=True) + 1e-3
    ratio = p * p.sum((-3, -2), keepdim=True) / (p.sum(-2, keepdim=True) * p.sum(-3, keepdim=True))
    return (p * ratio.log()).sum((-3, -2, -1))


# %% conditional_mutual_information: a loop over the tables
# says: loop|operations
@answer(correlated_factors.conditional_mutual_information)
def conditional_mutual_information(table):
    h = torch.special.entr
    result = []
    for t in table.reshape(-1, *table.shape[-3:]):
        p = t / t.sum()
        result.append(h(p.sum(1)).sum() + h(p.sum(0)).sum() - h(p).sum() - h(p.sum((0, 1))).sum())
    return torch.stack(result).view(table.shape[:-3])


# %% gaussian_conditional_mutual_information: the blocks of Σ, not of S
@answer(correlated_factors.gaussian_conditional_mutual_information)
def gaussian_conditional_mutual_information(covariance, x, y):
    n = x + y
    s12 = covariance[..., :n, n:]
    S = covariance[..., :n, :n] - s12 @ torch.linalg.solve_ex(covariance[..., n:, n:], s12.mT)[0]
    log_det = torch.linalg.slogdet
    xx, yy = covariance[..., :x, :x], covariance[..., x:n, x:n]
    return 0.5 * (log_det(xx)[1] + log_det(yy)[1] - log_det(S)[1])


# %% gaussian_conditional_mutual_information: the precision's own block, not inverted
@answer(correlated_factors.gaussian_conditional_mutual_information)
def gaussian_conditional_mutual_information(covariance, x, y):
    S = torch.linalg.inv_ex(covariance).inverse[..., : x + y, : x + y]
    log_det = torch.linalg.slogdet
    return -0.5 * (log_det(S[..., :x, :x])[1] + log_det(S[..., x:, x:])[1] - log_det(S)[1])


# %% gaussian_conditional_mutual_information: torch.linalg.solve
# says: solve_ex|host
@answer(correlated_factors.gaussian_conditional_mutual_information)
def gaussian_conditional_mutual_information(covariance, x, y):
    n = x + y
    s12 = covariance[..., :n, n:]
    S = covariance[..., :n, :n] - s12 @ torch.linalg.solve(covariance[..., n:, n:], s12.mT)
    log_det = torch.linalg.slogdet
    return 0.5 * (log_det(S[..., :x, :x])[1] + log_det(S[..., x:, x:])[1] - log_det(S)[1])


# %% gaussian_conditional_mutual_information: y counted twice
@answer(correlated_factors.gaussian_conditional_mutual_information)
def gaussian_conditional_mutual_information(covariance, x, y):
    n = x + y
    s12 = covariance[..., :n, n:]
    S = covariance[..., :n, :n] - s12 @ torch.linalg.solve_ex(covariance[..., n:, n:], s12.mT)[0]
    log_det = torch.linalg.slogdet
    return 0.5 * (log_det(S[..., :y, :y])[1] + log_det(S[..., y:, y:])[1] - log_det(S)[1])


# %% gaussian_conditional_mutual_information: the determinant of the last matrix added
@answer(correlated_factors.gaussian_conditional_mutual_information)
def gaussian_conditional_mutual_information(covariance, x, y):
    n = x + y
    s12 = covariance[..., :n, n:]
    S = covariance[..., :n, :n] - s12 @ torch.linalg.solve_ex(covariance[..., n:, n:], s12.mT)[0]
    log_det = torch.linalg.slogdet
    return 0.5 * (log_det(S[..., :x, :x])[1] + log_det(S[..., x:, x:])[1] + log_det(S)[1])


# %% gaussian_conditional_mutual_information: H(a) forgotten in the chain rule
@answer(correlated_factors.gaussian_conditional_mutual_information)
def gaussian_conditional_mutual_information(covariance, x, y):
    rows = [*range(x), *range(x + y, covariance.shape[-1])]
    i = torch.arange(covariance.shape[-1], device=covariance.device)
    xa = torch.cat([i[:x], i[x + y :]])
    assert len(rows) == len(xa)
    log_det = torch.linalg.slogdet
    s_xa = covariance[..., xa[:, None], xa]
    return 0.5 * (log_det(s_xa)[1] + log_det(covariance[..., x:, x:])[1] - log_det(covariance)[1])


# %% gaussian_conditional_mutual_information: the conditional covariance without a gradient
# says: gradient
@answer(correlated_factors.gaussian_conditional_mutual_information)
def gaussian_conditional_mutual_information(covariance, x, y):
    n = x + y
    s12, s22 = covariance[..., :n, n:], covariance[..., n:, n:].detach()
    S = covariance[..., :n, :n] - s12 @ torch.linalg.solve_ex(s22, s12.mT)[0]
    log_det = torch.linalg.slogdet
    return 0.5 * (log_det(S[..., :x, :x])[1] + log_det(S[..., x:, x:])[1] - log_det(S)[1])


# %% linear_optimum: eigh, whose gradient is NaN at correlation 0
# says: eigenvalue|eigh
@answer(correlated_factors.linear_optimum)
def linear_optimum(correlation, noise):
    one = torch.ones_like(correlation)
    eye = torch.eye(2, device=correlation.device)
    S = torch.stack([one, correlation, correlation, one], -1).unflatten(-1, (2, 2))
    X = S + noise[..., None, None] * eye
    values, vectors = torch.linalg.eigh(X)
    whiten = vectors @ torch.diag_embed(values.rsqrt()) @ vectors.mT
    base = S @ torch.linalg.inv_ex(X).inverse
    scale = torch.diag_embed((whiten @ S).diagonal(dim1=-2, dim2=-1))
    return base, scale @ whiten, eye.expand_as(base) / (1 + noise)[..., None, None]


# %% linear_optimum: second and third exchanged
# says: order|exchanged|swapped
@answer(correlated_factors.linear_optimum)
def linear_optimum(correlation, noise):
    def matrix(u, v):
        p, q = (u + v) / 2, (u - v) / 2
        return torch.stack([p, q, q, p], dim=-1).unflatten(-1, (2, 2))

    u, v = 1 + correlation, 1 - correlation
    whiten = matrix((u + noise).rsqrt(), (v + noise).rsqrt())
    scale = 0.5 * (u * (u + noise).rsqrt() + v * (v + noise).rsqrt())
    gain = 1 / (1 + noise)
    base = matrix(u / (u + noise), v / (v + noise))
    return base, matrix(gain, gain), scale[..., None, None] * whiten


# %% linear_optimum: the whole matrix scales, not its diagonal
@answer(correlated_factors.linear_optimum)
def linear_optimum(correlation, noise):
    def matrix(u, v):
        p, q = (u + v) / 2, (u - v) / 2
        return torch.stack([p, q, q, p], dim=-1).unflatten(-1, (2, 2))

    u, v = 1 + correlation, 1 - correlation
    whiten = matrix((u + noise).rsqrt(), (v + noise).rsqrt())
    gain = 1 / (1 + noise)
    base = matrix(u / (u + noise), v / (v + noise))
    return base, whiten @ matrix(u, v) @ whiten, matrix(gain, gain)


# %% linear_optimum: the third is the identity
@answer(correlated_factors.linear_optimum)
def linear_optimum(correlation, noise):
    def matrix(u, v):
        p, q = (u + v) / 2, (u - v) / 2
        return torch.stack([p, q, q, p], dim=-1).unflatten(-1, (2, 2))

    u, v = 1 + correlation, 1 - correlation
    whiten = matrix((u + noise).rsqrt(), (v + noise).rsqrt())
    scale = 0.5 * (u * (u + noise).rsqrt() + v * (v + noise).rsqrt())
    base = matrix(u / (u + noise), v / (v + noise))
    one = torch.ones_like(u + noise)
    return base, scale[..., None, None] * whiten, matrix(one, one)


# %% linear_optimum: the third with one over the noise
@answer(correlated_factors.linear_optimum)
def linear_optimum(correlation, noise):
    def matrix(u, v):
        p, q = (u + v) / 2, (u - v) / 2
        return torch.stack([p, q, q, p], dim=-1).unflatten(-1, (2, 2))

    u, v = 1 + correlation, 1 - correlation
    whiten = matrix((u + noise).rsqrt(), (v + noise).rsqrt())
    scale = 0.5 * (u * (u + noise).rsqrt() + v * (v + noise).rsqrt())
    base = matrix(u / (u + noise), v / (v + noise))
    gain = 1 / noise
    return base, scale[..., None, None] * whiten, matrix(gain, gain)


# %% linear_optimum: Σ_x and Σ_s exchanged
@answer(correlated_factors.linear_optimum)
def linear_optimum(correlation, noise):
    def matrix(u, v):
        p, q = (u + v) / 2, (u - v) / 2
        return torch.stack([p, q, q, p], dim=-1).unflatten(-1, (2, 2))

    u, v = 1 + correlation, 1 - correlation
    whiten = matrix((u + noise).rsqrt(), (v + noise).rsqrt())
    scale = 0.5 * (u * (u + noise).rsqrt() + v * (v + noise).rsqrt())
    gain = 1 / (1 + noise)
    base = matrix((u + noise) / u, (v + noise) / v)
    return base, scale[..., None, None] * whiten, matrix(gain, gain)


# %% linear_optimum: the root, not its inverse, whitens
@answer(correlated_factors.linear_optimum)
def linear_optimum(correlation, noise):
    def matrix(u, v):
        p, q = (u + v) / 2, (u - v) / 2
        return torch.stack([p, q, q, p], dim=-1).unflatten(-1, (2, 2))

    u, v = 1 + correlation, 1 - correlation
    whiten = matrix((u + noise).sqrt(), (v + noise).sqrt())
    scale = 0.5 * (u * (u + noise).sqrt() + v * (v + noise).sqrt())
    gain = 1 / (1 + noise)
    base = matrix(u / (u + noise), v / (v + noise))
    return base, scale[..., None, None] * whiten, matrix(gain, gain)


# %% linear_optimum: elements in place of matrices
@answer(correlated_factors.linear_optimum)
def linear_optimum(correlation, noise):
    one, zero = torch.ones_like(correlation), torch.zeros_like(correlation)
    S = torch.stack([one, correlation, correlation, one], -1).unflatten(-1, (2, 2))
    X = S + torch.stack([noise, zero, zero, noise], -1).unflatten(-1, (2, 2))
    base = S / X
    gain = 1 / (1 + noise)
    third = torch.stack([gain, zero, zero, gain], -1).unflatten(-1, (2, 2))
    return base, base, third


# %% shuffle_within_groups: group by group
# says: loop|host|mask|size
@answer(correlated_factors.shuffle_within_groups)
def shuffle_within_groups(z, a, generator):
    result = torch.empty_like(z)
    for label in a.unique():
        rows = (a == label).nonzero().squeeze(1)
        order = torch.randperm(len(rows), generator=generator, device=z.device)
        result[rows] = z[rows[order]]
    return result


# %% shuffle_within_groups: every group rolled by one
# not: replacement
@answer(correlated_factors.shuffle_within_groups)
def shuffle_within_groups(z, a, generator):
    place = a.argsort(stable=True)
    first = torch.cat([torch.ones_like(a[:1]).bool(), a[place][1:] != a[place][:-1]])
    start = torch.where(first, torch.arange(len(a), device=a.device), 0).cummax(0).values
    size = torch.zeros_like(a).index_add(0, start, torch.ones_like(a))[start]
    rank = torch.arange(len(a), device=a.device) - start
    result = torch.empty_like(z)
    result[place] = z[place[start + (rank + 1) % size]]
    return result


# %% shuffle_within_groups: every group rolled by a random distance
@answer(correlated_factors.shuffle_within_groups)
def shuffle_within_groups(z, a, generator):
    place = a.argsort(stable=True)
    first = torch.cat([torch.ones_like(a[:1]).bool(), a[place][1:] != a[place][:-1]])
    start = torch.where(first, torch.arange(len(a), device=a.device), 0).cummax(0).values
    size = torch.zeros_like(a).index_add(0, start, torch.ones_like(a))[start]
    rank = torch.arange(len(a), device=a.device) - start
    shift = torch.randint(1, len(a), (1,), generator=generator, device=a.device)
    result = torch.empty_like(z)
    result[place] = z[place[start + (rank + shift) % size]]
    return result


# %% shuffle_within_groups: label plus chance in float32, which large labels drown
@answer(correlated_factors.shuffle_within_groups)
def shuffle_within_groups(z, a, generator):
    noise = torch.rand(len(a), generator=generator, device=z.device)
    result = torch.empty_like(z)
    result[a.argsort(stable=True)] = z[(a.float() + noise).argsort()]
    return result


# %% shuffle_within_groups: drawn on the CPU, then moved
# says: CPU
@answer(correlated_factors.shuffle_within_groups)
def shuffle_within_groups(z, a, generator):
    p = torch.randperm(len(z), generator=generator).to(z.device)
    source = p[a[p].argsort(stable=True)]
    result = torch.empty_like(z)
    result[a.argsort(stable=True)] = z[source]
    return result


# %% shuffle_within_groups: all pairs compared
# says: memory
@answer(correlated_factors.shuffle_within_groups)
def shuffle_within_groups(z, a, generator):
    noise = torch.rand(len(a), generator=generator, device=z.device)
    smaller = (a[:, None] > a) | ((a[:, None] == a) & (noise[:, None] > noise))
    rank = smaller.sum(1)
    result = torch.empty_like(z)
    result[a.argsort(stable=True)] = z[rank.argsort()]
    return result


# %% shuffle_within_groups: only the first of two groups
@answer(correlated_factors.shuffle_within_groups)
def shuffle_within_groups(z, a, generator):
    p = torch.randperm(len(z), generator=generator, device=z.device)
    source = p[a[p].argsort(stable=True)]
    result = torch.empty_like(z)
    result[a.argsort(stable=True)] = z[source]
    return torch.where((a == a.max())[:, None], z, result)


# %% shuffle_within_groups: the labels shuffled, not the rows
@answer(correlated_factors.shuffle_within_groups)
def shuffle_within_groups(z, a, generator):
    p = torch.randperm(len(z), generator=generator, device=z.device)
    return z[a[p].argsort(stable=True)]


# %% shuffle_within_groups: groups of 0, 1, 2, … taken for granted
# says: raised|group
@answer(correlated_factors.shuffle_within_groups)
def shuffle_within_groups(z, a, generator):
    onehot = F.one_hot(a, 64).float()
    noise = torch.rand(len(a), generator=generator, device=z.device)
    result = torch.empty_like(z)
    result[a.argsort(stable=True)] = z[(onehot.argmax(1) + noise).argsort()]
    return result


# %% conditional_critic_loss: one-hot columns of the labels that occur
# says: host|size|shape|raised
@answer(correlated_factors.conditional_critic_loss)
def conditional_critic_loss(critic, own, shuffled, rest, a, classes):
    onehot = F.one_hot(a).float()
    joint, other = (critic(torch.cat([z, rest, onehot], dim=1)).squeeze(1) for z in (own, shuffled))
    return mutual_information.critic_loss(joint, other)


# %% conditional_critic_loss: the rest shuffled, too
@answer(correlated_factors.conditional_critic_loss)
def conditional_critic_loss(critic, own, shuffled, rest, a, classes):
    onehot = F.one_hot(a, classes).float()
    joint = critic(torch.cat([own, rest, onehot], dim=1)).squeeze(1)
    other = critic(torch.cat([shuffled, rest.flip(0), onehot], dim=1)).squeeze(1)
    return mutual_information.critic_loss(joint, other)


# %% conditional_critic_loss: rest before own
@answer(correlated_factors.conditional_critic_loss)
def conditional_critic_loss(critic, own, shuffled, rest, a, classes):
    onehot = F.one_hot(a, classes).float()
    joint, other = (critic(torch.cat([rest, z, onehot], dim=1)).squeeze(1) for z in (own, shuffled))
    return mutual_information.critic_loss(joint, other)


# %% conditional_critic_loss: own and shuffled in one row
# says: raised|size|shape
@answer(correlated_factors.conditional_critic_loss)
def conditional_critic_loss(critic, own, shuffled, rest, a, classes):
    onehot = F.one_hot(a, classes).float()
    logits = critic(torch.cat([own, shuffled, rest, onehot], dim=1)).squeeze(1)
    return mutual_information.critic_loss(logits, logits)


# %% conditional_critic_loss: only the codes of the critic's first class have a gradient
# says: gradient
@answer(correlated_factors.conditional_critic_loss)
def conditional_critic_loss(critic, own, shuffled, rest, a, classes):
    onehot = F.one_hot(a, classes).float()
    joint = critic(torch.cat([own, rest, onehot], dim=1)).squeeze(1)
    other = critic(torch.cat([shuffled, rest, onehot], dim=1).detach()).squeeze(1)
    return mutual_information.critic_loss(joint, other)


# %% conditional_critic_loss: the encoder's loss
@answer(correlated_factors.conditional_critic_loss)
def conditional_critic_loss(critic, own, shuffled, rest, a, classes):
    onehot = F.one_hot(a, classes).float()
    joint, other = (critic(torch.cat([z, rest, onehot], dim=1)).squeeze(1) for z in (own, shuffled))
    return mutual_information.independence_loss(joint, other)


# %% conditional_critic_loss: columns of codes that broadcast
# says: value|shape
@answer(correlated_factors.conditional_critic_loss)
def conditional_critic_loss(critic, own, shuffled, rest, a, classes):
    onehot = F.one_hot(a, classes).float()
    joint, other = (critic(torch.cat([z, rest, onehot], dim=1)) for z in (own, shuffled))
    return (F.softplus(-joint) + F.softplus(other.squeeze(1))).sum() / (2 * len(own))


# %% conditional_critic_loss: the attribute as a fraction of the classes
# says: raised|size|shape
@answer(correlated_factors.conditional_critic_loss)
def conditional_critic_loss(critic, own, shuffled, rest, a, classes):
    told = a[:, None].float() / classes
    joint, other = (critic(torch.cat([z, rest, told], dim=1)).squeeze(1) for z in (own, shuffled))
    return mutual_information.critic_loss(joint, other)


# %% correlated_joint: made on the CPU, then moved
# says: CPU
@answer(correlated_factors.correlated_joint)
def correlated_joint(sizes, pair, sigma):
    grid = torch.meshgrid(*[torch.linspace(0, 1, n) for n in sizes], indexing="ij")
    difference = (grid[pair[0]] - grid[pair[1]]).to(sigma.device)
    weights = torch.exp(-(difference**2) / (2 * sigma**2))
    return weights / weights.sum()


# %% conditional_critic_loss: the classes made on the CPU, then moved
# says: CPU
@answer(correlated_factors.conditional_critic_loss)
def conditional_critic_loss(critic, own, shuffled, rest, a, classes):
    onehot = (a[:, None] == torch.arange(classes).to(a.device)).float()
    joint, other = (critic(torch.cat([z, rest, onehot], dim=1)).squeeze(1) for z in (own, shuffled))
    return mutual_information.critic_loss(joint, other)
