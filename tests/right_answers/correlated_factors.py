"""Right answers to lesson 07, cell by cell."""

# %% the notebook's first cell
import math

import torch
import torch.nn.functional as F

from course_lib import answer
from course_lib.lessons import correlated_factors, mutual_information


# %% correlated_joint: the hint, literally
@answer(correlated_factors.correlated_joint)
def correlated_joint(sizes, pair, sigma):
    def u(k):
        shape = [1] * len(sizes)
        shape[k] = sizes[k]
        return (torch.arange(sizes[k], device=sigma.device) / (sizes[k] - 1)).view(shape)

    i, j = pair
    weights = (-(u(i) - u(j)).square() / (2 * sigma**2)).exp().expand(*sizes)
    return weights / weights.sum()


# %% correlated_joint: meshgrid
@answer(correlated_factors.correlated_joint)
def correlated_joint(sizes, pair, sigma):
    axes = [torch.linspace(0, 1, size, device=sigma.device) for size in sizes]
    grid = torch.meshgrid(*axes, indexing="ij")
    weights = torch.exp(-((grid[pair[0]] - grid[pair[1]]) ** 2) / (2 * sigma**2))
    return weights / weights.sum()


# %% correlated_joint: a softmax of the logarithms
@answer(correlated_factors.correlated_joint)
def correlated_joint(sizes, pair, sigma):
    coordinates = torch.meshgrid(
        *[torch.arange(n, device=sigma.device, dtype=torch.float32) for n in sizes], indexing="ij"
    )
    first, second = (coordinates[k] / (sizes[k] - 1) for k in pair)
    log_weights = -0.5 * ((first - second) / sigma) ** 2
    return log_weights.flatten().softmax(0).view(*sizes)


# %% correlated_joint: a table of two factors, normalised, then spread over the others
@answer(correlated_factors.correlated_joint)
def correlated_joint(sizes, pair, sigma):
    i, j = sorted(pair)
    u = torch.linspace(0, 1, sizes[i], device=sigma.device)[:, None]
    v = torch.linspace(0, 1, sizes[j], device=sigma.device)[None, :]
    table = torch.exp(-((u - v) ** 2) / (2 * sigma**2))
    table = table / table.sum()
    others = math.prod(sizes) // (sizes[i] * sizes[j])
    shape = [n if k in pair else 1 for k, n in enumerate(sizes)]
    return (table.reshape(shape) / others).expand(*sizes)


# %% correlated_joint: cell by number
@answer(correlated_factors.correlated_joint)
def correlated_joint(sizes, pair, sigma):
    cell, u = torch.arange(math.prod(sizes), device=sigma.device), {}
    for k in reversed(range(len(sizes))):
        u[k] = (cell % sizes[k]) / (sizes[k] - 1)
        cell = cell // sizes[k]
    weights = torch.exp(-((u[pair[0]] - u[pair[1]]) ** 2) / (2 * sigma * sigma))
    return (weights / weights.sum()).reshape(tuple(sizes))


# %% sample_correlated: the hint, literally
@answer(correlated_factors.sample_correlated)
def sample_correlated(joint, n, generator):
    borders = joint.flatten().double().cumsum(0)
    u = torch.rand(n, generator=generator, device=joint.device, dtype=torch.float64) * borders[-1]
    cell = torch.searchsorted(borders, u, right=True)
    columns = []
    for size in reversed(joint.shape):
        columns.append(cell % size)
        cell = cell // size
    return torch.stack(columns[::-1], dim=1)


# %% sample_correlated: torch.multinomial
@answer(correlated_factors.sample_correlated)
def sample_correlated(joint, n, generator):
    cell = torch.multinomial(joint.flatten(), n, replacement=True, generator=generator)
    return torch.stack(torch.unravel_index(cell, joint.shape), dim=1)


# %% sample_correlated: strides
@answer(correlated_factors.sample_correlated)
def sample_correlated(joint, n, generator):
    cell = torch.multinomial(joint.reshape(-1), n, replacement=True, generator=generator)
    columns, stride = [], joint.numel()
    for size in joint.shape:
        stride //= size
        columns.append(cell // stride % size)
    return torch.stack(columns, dim=-1)


# %% sample_correlated: a table of all cells, indexed
@answer(correlated_factors.sample_correlated)
def sample_correlated(joint, n, generator):
    axes = [torch.arange(size, device=joint.device) for size in joint.shape]
    cells = torch.cartesian_prod(*axes).view(-1, joint.ndim)
    borders = joint.flatten().cumsum(0)
    u = torch.rand(n, generator=generator, device=joint.device) * borders[-1]
    drawn = torch.bucketize(u, borders, right=True).clamp(max=joint.numel() - 1)
    return cells[drawn]


# %% sample_correlated: factor after factor, each given those before
@answer(correlated_factors.sample_correlated)
def sample_correlated(joint, n, generator):
    table = joint.double().expand(1, *joint.shape)
    row, columns = torch.zeros(n, dtype=torch.long, device=joint.device), []
    for size in joint.shape:
        borders = table.flatten(2).sum(2).cumsum(1) if table.ndim > 2 else table.cumsum(1)
        lower = torch.cat([torch.zeros_like(borders[:, :1]), borders[:, :-1]], dim=1)
        u = torch.rand(n, generator=generator, device=joint.device, dtype=torch.float64)
        point = u * borders[row, -1]
        k = torch.zeros(n, dtype=torch.long, device=joint.device)
        for value in range(1, size):
            k = torch.where(point >= lower[row, value], value, k)
        columns.append(k)
        row = row * size + k
        table = table.flatten(0, 1)
    return torch.stack(columns, dim=1)


# %% accuracy_bound: the hint, literally
@answer(correlated_factors.accuracy_bound)
def accuracy_bound(joint):
    q = joint.sum(-1, keepdim=True) * joint.sum(-2, keepdim=True)
    return torch.minimum(joint, q).sum((-2, -1))


# %% accuracy_bound: one minus half the distance
@answer(correlated_factors.accuracy_bound)
def accuracy_bound(joint):
    product = torch.einsum("...k,...l->...kl", joint.sum(-1), joint.sum(-2))
    return 1 - 0.5 * (joint - product).abs().sum(dim=(-2, -1))


# %% accuracy_bound: what p has too much, taken away
@answer(correlated_factors.accuracy_bound)
def accuracy_bound(joint):
    q = joint.sum(2 - 3, keepdim=True) @ joint.sum(-2, keepdim=True)
    return (joint - F.relu(joint - q)).flatten(-2).sum(-1)


# %% accuracy_bound: torch.where
@answer(correlated_factors.accuracy_bound)
def accuracy_bound(joint):
    rows, columns = joint.sum(-1), joint.sum(-2)
    q = rows.unsqueeze(-1) * columns.unsqueeze(-2)
    return torch.where(joint < q, joint, q).sum((-1, -2))


# %% accuracy_bound: half of sum minus difference
@answer(correlated_factors.accuracy_bound)
def accuracy_bound(joint):
    q = joint.sum(-1, keepdim=True) * joint.sum(-2, keepdim=True)
    return 0.5 * (joint + q - (joint - q).abs()).sum((-2, -1))


# %% conditional_mutual_information: the hint, literally
@answer(correlated_factors.conditional_mutual_information)
def conditional_mutual_information(table):
    p = table / table.sum((-3, -2, -1), keepdim=True)
    h_xa = torch.special.entr(p.sum(-2)).sum((-2, -1))
    h_ya = torch.special.entr(p.sum(-3)).sum((-2, -1))
    h_xya = torch.special.entr(p).sum((-3, -2, -1))
    h_a = torch.special.entr(p.sum((-3, -2))).sum(-1)
    return h_xa + h_ya - h_xya - h_a


# %% conditional_mutual_information: lesson 01's information, by the chain rule
@answer(correlated_factors.conditional_mutual_information)
def conditional_mutual_information(table):
    with_both = mutual_information.discrete_mutual_information(table.flatten(-2))
    return with_both - mutual_information.discrete_mutual_information(table.sum(-2))


# %% conditional_mutual_information: four logarithms with xlogy
@answer(correlated_factors.conditional_mutual_information)
def conditional_mutual_information(table):
    p = table / table.sum((-3, -2, -1), keepdim=True)
    p_xa, p_ya = p.sum(-2, keepdim=True), p.sum(-3, keepdim=True)
    p_a = p.sum((-3, -2), keepdim=True)
    nats = torch.xlogy(p, p) + torch.xlogy(p, p_a) - torch.xlogy(p, p_xa) - torch.xlogy(p, p_ya)
    return nats.sum((-3, -2, -1))


# %% conditional_mutual_information: the docstring's mean over the groups
@answer(correlated_factors.conditional_mutual_information)
def conditional_mutual_information(table):
    p = table.float() / table.float().sum((-3, -2, -1), keepdim=True)
    p_a = p.sum((-3, -2))
    groups = p.movedim(-1, -3)  # (…, M, K, L)
    groups = torch.where(p_a[..., None, None] > 0, groups, 1.0)
    inside = mutual_information.discrete_mutual_information(groups)
    return (p_a * inside).sum(-1)


# %% conditional_mutual_information: the ratio where p is positive
@answer(correlated_factors.conditional_mutual_information)
def conditional_mutual_information(table):
    n = table.double()
    p = n / n.sum((-3, -2, -1), keepdim=True)
    ratio = p * p.sum((-3, -2), keepdim=True) / (p.sum(-2, keepdim=True) * p.sum(-3, keepdim=True))
    return torch.where(p > 0, p * ratio.log(), 0).sum((-3, -2, -1)).float()


# %% conditional_mutual_information: entropies of lesson 01
@answer(correlated_factors.conditional_mutual_information)
def conditional_mutual_information(table):
    h = mutual_information.entropy
    p = table / table.sum(dim=(-1, -2, -3), keepdim=True)
    x_given_a = h(p.sum(-2).flatten(-2)) - h(p.sum((-2, -3)))
    x_given_ya = h(p.flatten(-3)) - h(p.sum(-3).flatten(-2))
    return x_given_a - x_given_ya


# %% gaussian_conditional_mutual_information: the hint, literally
@answer(correlated_factors.gaussian_conditional_mutual_information)
def gaussian_conditional_mutual_information(covariance, x, y):
    n = x + y
    s11, s12 = covariance[..., :n, :n], covariance[..., :n, n:]
    s21, s22 = covariance[..., n:, :n], covariance[..., n:, n:]
    S = s11 - s12 @ torch.linalg.solve_ex(s22, s21)[0]

    def log_det(m):
        return torch.linalg.slogdet(m).logabsdet

    return 0.5 * (log_det(S[..., :x, :x]) + log_det(S[..., x:, x:]) - log_det(S))


# %% gaussian_conditional_mutual_information: inv_ex
@answer(correlated_factors.gaussian_conditional_mutual_information)
def gaussian_conditional_mutual_information(covariance, x, y):
    n = x + y
    s12 = covariance[..., :n, n:]
    inverse = torch.linalg.inv_ex(covariance[..., n:, n:]).inverse
    S = covariance[..., :n, :n] - s12 @ inverse @ s12.transpose(-1, -2)
    parts = S[..., :x, :x], S[..., x:, x:], S
    xx, yy, both = (torch.linalg.slogdet(m)[1] for m in parts)
    return (xx + yy - both) / 2


# %% gaussian_conditional_mutual_information: entropies by the chain rule
@answer(correlated_factors.gaussian_conditional_mutual_information)
def gaussian_conditional_mutual_information(covariance, x, y):
    D = covariance.shape[-1]
    places = torch.arange(D, device=covariance.device)

    def log_det(rows):
        return torch.logdet(covariance[..., rows[:, None], rows])

    xa = torch.cat([places[:x], places[x + y :]])
    return 0.5 * (log_det(xa) + log_det(places[x:]) - torch.logdet(covariance) - log_det(places[x + y :]))


# %% gaussian_conditional_mutual_information: the block of the inverse
@answer(correlated_factors.gaussian_conditional_mutual_information)
def gaussian_conditional_mutual_information(covariance, x, y):
    precision = torch.linalg.inv_ex(covariance)[0][..., : x + y, : x + y]
    S = torch.linalg.inv_ex(precision)[0]
    log_det = torch.linalg.slogdet
    return 0.5 * (
        log_det(S[..., :x, :x]).logabsdet + log_det(S[..., x:, x:]).logabsdet + log_det(precision).logabsdet
    )


# %% gaussian_conditional_mutual_information: the precision alone
@answer(correlated_factors.gaussian_conditional_mutual_information)
def gaussian_conditional_mutual_information(covariance, x, y):
    n = x + y
    precision = torch.linalg.inv_ex(covariance).inverse[..., :n, :n]

    def log_det(m):
        return torch.linalg.slogdet(m).logabsdet

    # of a block matrix: the information is that of the normalised precision
    return 0.5 * (log_det(precision[..., :x, :x]) + log_det(precision[..., x:, x:]) - log_det(precision))


# %% gaussian_conditional_mutual_information: Cholesky factors
@answer(correlated_factors.gaussian_conditional_mutual_information)
def gaussian_conditional_mutual_information(covariance, x, y):
    n = x + y
    L = torch.linalg.cholesky_ex(covariance[..., n:, n:]).L
    half = torch.linalg.solve_triangular(L, covariance[..., n:, :n], upper=False)
    S = covariance[..., :n, :n] - half.mT @ half

    def half_log_det(m):
        return torch.linalg.cholesky_ex(m).L.diagonal(dim1=-2, dim2=-1).log().sum(-1)

    return half_log_det(S[..., :x, :x]) + half_log_det(S[..., x:, x:]) - half_log_det(S)


# %% linear_optimum: the hint, literally
@answer(correlated_factors.linear_optimum)
def linear_optimum(correlation, noise):
    def matrix(u, v):
        p, q = (u + v) / 2, (u - v) / 2
        return torch.stack([torch.stack([p, q], -1), torch.stack([q, p], -1)], -2)

    u, v = 1 + correlation, 1 - correlation
    base = matrix(u / (u + noise), v / (v + noise))
    whiten = matrix((u + noise) ** -0.5, (v + noise) ** -0.5)
    scale = 0.5 * (u * (u + noise) ** -0.5 + v * (v + noise) ** -0.5)
    independent = scale[..., None, None] * whiten
    gain = 1 / (1 + noise)
    return base, independent, matrix(gain, gain)


# %% linear_optimum: fixed eigenvectors
@answer(correlated_factors.linear_optimum)
def linear_optimum(correlation, noise):
    Q = torch.full((2, 2), 0.5**0.5, device=correlation.device)
    Q[1, 1] *= -1

    def rebuild(eigenvalues):
        return Q @ torch.diag_embed(eigenvalues) @ Q.T

    s = torch.stack([1 + correlation, 1 - correlation], dim=-1)
    x = s + noise[..., None]
    root = rebuild(x.rsqrt())
    cross = (root @ rebuild(s)).diagonal(dim1=-2, dim2=-1)
    identity = torch.eye(2, device=noise.device)
    return rebuild(s / x), torch.diag_embed(cross) @ root, identity / (1 + noise[..., None, None])


# %% linear_optimum: the docstring's matrices, the root of a 2 × 2 matrix in closed form
@answer(correlated_factors.linear_optimum)
def linear_optimum(correlation, noise):
    one = torch.ones_like(correlation)
    eye = torch.eye(2, device=correlation.device)
    S = torch.stack([one, correlation, correlation, one], -1).unflatten(-1, (2, 2))
    X = S + noise[..., None, None] * eye
    base = S @ torch.linalg.inv_ex(X).inverse

    determinant = (1 + noise) ** 2 - correlation**2
    root_det = determinant.sqrt()
    trace = 2 * (1 + noise)
    root = (X + root_det[..., None, None] * eye) / (trace + 2 * root_det).sqrt()[..., None, None]
    whiten = torch.linalg.inv_ex(root).inverse
    scale = torch.diag_embed((whiten @ S).diagonal(dim1=-2, dim2=-1))
    return base, scale @ whiten, eye.expand_as(base) / (1 + noise)[..., None, None]


# %% linear_optimum: numbers p and q, written out
@answer(correlated_factors.linear_optimum)
def linear_optimum(correlation, noise):
    def symmetric(p, q):
        return torch.stack([p, q, q, p], dim=-1).view(*p.shape, 2, 2)

    r, v = correlation, 1 + noise
    determinant = v * v - r * r
    base = symmetric((v - r * r) / determinant, r * noise / determinant)
    a, b = (v + r).rsqrt(), (v - r).rsqrt()
    p, q = (a + b) / 2, (a - b) / 2
    scale = p + q * r
    return base, symmetric(scale * p, scale * q), symmetric(1 / v, torch.zeros_like(v))


# %% shuffle_within_groups: the hint, literally
@answer(correlated_factors.shuffle_within_groups)
def shuffle_within_groups(z, a, generator):
    p = torch.randperm(len(z), generator=generator, device=z.device)
    source = p[a[p].argsort(stable=True)]
    place = a.argsort(stable=True)
    result = torch.empty_like(z)
    result[place] = z[source]
    return result


# %% shuffle_within_groups: the inverse of a permutation
@answer(correlated_factors.shuffle_within_groups)
def shuffle_within_groups(z, a, generator):
    order = torch.rand(len(z), generator=generator, device=z.device).argsort()
    source = order[torch.sort(a[order], stable=True).indices]
    back = a.argsort(stable=True).argsort()
    return z[source[back]]


# %% shuffle_within_groups: sorted by group, ties by chance, twice
@answer(correlated_factors.shuffle_within_groups)
def shuffle_within_groups(z, a, generator):
    def grouped():
        order = torch.randperm(len(a), generator=generator, device=z.device)
        return order[a[order].argsort(stable=True)]

    return torch.zeros_like(z).index_copy(0, grouped(), z[grouped()])


# %% shuffle_within_groups: scatter
@answer(correlated_factors.shuffle_within_groups)
def shuffle_within_groups(z, a, generator):
    noise = torch.randn(len(z), generator=generator, device=z.device)
    order = noise.sort().indices
    source = order.gather(0, a.gather(0, order).sort(stable=True).indices)
    place = a.sort(stable=True).indices
    return torch.empty_like(z).scatter(0, place[:, None].expand_as(z), z[source])


# %% shuffle_within_groups: groups numbered, keys of group and chance in float64
@answer(correlated_factors.shuffle_within_groups)
def shuffle_within_groups(z, a, generator):
    place = a.argsort(stable=True)
    grouped = a[place]
    number = (grouped != grouped.roll(1)).cumsum(0)  # of each sorted row's group
    u = torch.rand(len(a), generator=generator, device=z.device, dtype=torch.float64)
    shuffled = (number + u).argsort()
    result = torch.empty_like(z)
    result[place] = z[place[shuffled]]
    return result


# %% conditional_critic_loss: the hint, literally
@answer(correlated_factors.conditional_critic_loss)
def conditional_critic_loss(critic, own, shuffled, rest, a, classes):
    onehot = (a[:, None] == torch.arange(classes, device=a.device)).float()
    joint = critic(torch.cat([own, rest, onehot], dim=1)).squeeze(1)
    other = critic(torch.cat([shuffled, rest, onehot], dim=1)).squeeze(1)
    return mutual_information.critic_loss(joint, other)


# %% conditional_critic_loss: F.one_hot and one call of the critic
@answer(correlated_factors.conditional_critic_loss)
def conditional_critic_loss(critic, own, shuffled, rest, a, classes):
    onehot = F.one_hot(a, classes).to(own.dtype)
    both = torch.cat([torch.cat([z, rest, onehot], dim=1) for z in (own, shuffled)])
    joint, other = critic(both)[:, 0].chunk(2)
    return mutual_information.critic_loss(joint, other)


# %% conditional_critic_loss: rows of the identity
@answer(correlated_factors.conditional_critic_loss)
def conditional_critic_loss(critic, own, shuffled, rest, a, classes):
    told = torch.cat([rest, torch.eye(classes, device=a.device)[a]], dim=1)
    joint, other = critic(torch.hstack([own, told])), critic(torch.hstack([shuffled, told]))
    return mutual_information.critic_loss(joint.flatten(), other.flatten())


# %% conditional_critic_loss: softplus written out
@answer(correlated_factors.conditional_critic_loss)
def conditional_critic_loss(critic, own, shuffled, rest, a, classes):
    onehot = torch.zeros(len(a), classes, device=a.device).scatter(1, a[:, None], 1.0)
    joint = critic(torch.cat([own, rest, onehot], dim=-1))
    other = critic(torch.cat([shuffled, rest, onehot], dim=-1))
    return 0.5 * (F.softplus(-joint).mean() + F.softplus(other).mean())


# %% conditional_critic_loss: binary cross-entropy of columns
@answer(correlated_factors.conditional_critic_loss)
def conditional_critic_loss(critic, own, shuffled, rest, a, classes):
    onehot = F.one_hot(a, num_classes=classes).float()
    rows = torch.cat([own, shuffled]), torch.cat([rest, rest]), torch.cat([onehot, onehot])
    logits = critic(torch.cat(rows, dim=1))
    labels = torch.zeros_like(logits)
    labels[: len(own)] = 1
    return F.binary_cross_entropy_with_logits(logits, labels)


# %% linear_optimum: the identity and the exchange matrix
@answer(correlated_factors.linear_optimum)
def linear_optimum(correlation, noise):
    identity = torch.eye(2, device=noise.device)
    exchange = identity.flip(0)

    def of_eigenvalues(function):
        u, v = (function(s, s + noise)[..., None, None] for s in (1 + correlation, 1 - correlation))
        return 0.5 * ((u + v) * identity + (u - v) * exchange)

    base = of_eigenvalues(torch.div)
    whitener = of_eigenvalues(lambda s, x: x**-0.5)
    gain = of_eigenvalues(lambda s, x: s * x**-0.5)[..., 0, 0]
    conditional = of_eigenvalues(lambda s, x: 1 / (1 + noise))
    return base, gain[..., None, None] * whitener, conditional


# %% conditional_mutual_information: in inference mode, a batch of tables at a time
@answer(correlated_factors.conditional_mutual_information)
@torch.inference_mode()
def conditional_mutual_information(table):
    flat = table.reshape(-1, *table.shape[-3:])
    p = flat / flat.sum((1, 2, 3), keepdim=True)
    h = lambda q: torch.special.entr(q).flatten(1).sum(1)  # noqa: E731
    nats = h(p.sum(2)) + h(p.sum(1)) - h(p) - h(p.sum((1, 2)))
    return nats.view(table.shape[:-3])
