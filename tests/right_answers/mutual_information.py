"""Right answers to lesson 01, cell by cell."""

# %% the notebook's first cell
import math

import torch
import torch.nn.functional as F
from torch import nn

from course_lib import answer
from course_lib.lessons import mutual_information


# %% entropy: torch.special.entr
@answer(mutual_information.entropy)
def entropy(p):
    return torch.special.entr(p).sum(-1)


# %% entropy: torch.xlogy
@answer(mutual_information.entropy)
def entropy(p):
    return -torch.xlogy(p, p).sum(dim=-1)


# %% entropy: torch.where on zeros
@answer(mutual_information.entropy)
def entropy(p):
    return torch.where(p > 0, -p * torch.log(p), 0.0).sum(-1)


# %% entropy: the logarithm of p, but at least of the smallest float
@answer(mutual_information.entropy)
def entropy(p):
    log_p = p.clamp(min=torch.finfo(p.dtype).tiny).log()
    return -torch.einsum("...k,...k->...", p, log_p)


# %% entropy: NaN replaced by 0
@answer(mutual_information.entropy)
def entropy(p):
    return -(p * p.log()).nan_to_num(nan=0.0).sum(-1)


# %% entropy: torch.distributions
@answer(mutual_information.entropy)
def entropy(p):
    return torch.distributions.Categorical(probs=p, validate_args=False).entropy()


# %% entropy: log K minus the divergence from the uniform distribution
@answer(mutual_information.entropy)
def entropy(p):
    K = p.shape[-1]
    uniform = torch.full_like(p, -math.log(K))
    return math.log(K) - F.kl_div(uniform, p, reduction="none").sum(-1)


# %% entropy: cross-entropy with itself
@answer(mutual_information.entropy)
def entropy(p):
    rows = p.reshape(-1, p.shape[-1])
    logits = (rows + 1e-30).log()
    return F.cross_entropy(logits, rows, reduction="none").view(p.shape[:-1])


# %% entropy: in float64, cast back
@answer(mutual_information.entropy)
def entropy(p):
    q = p.double()
    return -(q * q.clamp_min(1e-300).log()).sum(-1).to(p.dtype)


# %% contingency_table: the hint, literally
@answer(mutual_information.contingency_table)
def contingency_table(a, b, classes_a, classes_b):
    cell = a * classes_b + b
    table = torch.zeros(classes_a * classes_b, dtype=torch.int64, device=a.device)
    return table.index_add_(0, cell, torch.ones_like(cell)).view(classes_a, classes_b)


# %% contingency_table: index_put that accumulates
@answer(mutual_information.contingency_table)
def contingency_table(a, b, classes_a, classes_b):
    table = torch.zeros(classes_a, classes_b, dtype=torch.long, device=a.device)
    return table.index_put((a, b), torch.ones_like(a), accumulate=True)


# %% contingency_table: scatter_add
@answer(mutual_information.contingency_table)
def contingency_table(a, b, classes_a, classes_b):
    flat = a.new_zeros(classes_a * classes_b)
    return flat.scatter_add(0, b + classes_b * a, torch.ones_like(a)).reshape(classes_a, classes_b)


# %% contingency_table: sorted cells and their borders
@answer(mutual_information.contingency_table)
def contingency_table(a, b, classes_a, classes_b):
    cells = (a * classes_b + b).sort().values
    borders = torch.arange(classes_a * classes_b + 1, device=a.device)
    return torch.searchsorted(cells, borders).diff().view(classes_a, classes_b)


# %% contingency_table: put_ that accumulates
@answer(mutual_information.contingency_table)
def contingency_table(a, b, classes_a, classes_b):
    table = torch.zeros((classes_a, classes_b), dtype=torch.int64, device=a.device)
    return table.put_(a * classes_b + b, torch.ones_like(b), accumulate=True)


# %% contingency_table: columns first, then transposed
@answer(mutual_information.contingency_table)
def contingency_table(a, b, classes_a, classes_b):
    ones = torch.ones((), dtype=torch.int64, device=a.device).expand_as(a)
    counts = torch.zeros(classes_b * classes_a, dtype=torch.int64, device=a.device)
    return counts.scatter_reduce(0, b * classes_a + a, ones, "sum").view(classes_b, classes_a).T


# %% discrete_mutual_information: three entropies
@answer(mutual_information.discrete_mutual_information)
def discrete_mutual_information(table):
    joint = table / table.sum((-2, -1), keepdim=True)
    h_a = torch.special.entr(joint.sum(-1)).sum(-1)
    h_b = torch.special.entr(joint.sum(-2)).sum(-1)
    return h_a + h_b - torch.special.entr(joint).sum((-2, -1))


# %% discrete_mutual_information: the student's own entropy
@answer(mutual_information.discrete_mutual_information)
def discrete_mutual_information(table):
    joint = table / table.sum(dim=(-2, -1), keepdim=True)
    h = mutual_information.entropy
    return h(joint.sum(-1)) + h(joint.sum(-2)) - h(joint.flatten(start_dim=-2))


# %% discrete_mutual_information: KL, a logarithm at a time
@answer(mutual_information.discrete_mutual_information)
def discrete_mutual_information(table):
    p = table / table.sum((-2, -1), keepdim=True)
    pa, pb = p.sum(-1, keepdim=True), p.sum(-2, keepdim=True)
    return (torch.xlogy(p, p) - torch.xlogy(p, pa) - torch.xlogy(p, pb)).sum((-2, -1))


# %% discrete_mutual_information: the formula, where p is positive
@answer(mutual_information.discrete_mutual_information)
def discrete_mutual_information(table):
    p = table.float() / table.float().sum((-2, -1), keepdim=True)
    product = p.sum(-1, keepdim=True) * p.sum(-2, keepdim=True)
    ratio = torch.where(p > 0, p / product, 1.0)
    return (p * ratio.log()).sum((-2, -1))


# %% discrete_mutual_information: H(a) − H(a | b), with own helper
def plogp(p):
    return torch.xlogy(p, p)


@answer(mutual_information.discrete_mutual_information)
def discrete_mutual_information(table):
    joint = table / table.sum((-2, -1), keepdim=True)
    b = joint.sum(-2)
    conditional = -plogp(joint).sum((-2, -1)) + plogp(b).sum(-1)
    return -plogp(joint.sum(-1)).sum(-1) - conditional


# %% discrete_mutual_information: counts, normalised at the end
@answer(mutual_information.discrete_mutual_information)
def discrete_mutual_information(table):
    n = table.to(torch.float64)
    total = n.sum((-2, -1))
    rows, columns = n.sum(-1), n.sum(-2)
    nats = torch.xlogy(n, n).sum((-2, -1)) - torch.xlogy(rows, rows).sum(-1)
    nats = nats - torch.xlogy(columns, columns).sum(-1) + torch.xlogy(total, total)
    return (nats / total).float()


# %% discrete_mutual_information: F.kl_div against the logarithm of the product
@answer(mutual_information.discrete_mutual_information)
def discrete_mutual_information(table):
    joint = table / table.sum((-2, -1), keepdim=True)
    product = torch.einsum("...k,...l->...kl", joint.sum(-1), joint.sum(-2))
    log_product = product.clamp(min=torch.finfo(torch.float32).tiny).log()
    return F.kl_div(log_product, joint, reduction="none").sum((-2, -1))


# %% gaussian_total_correlation: slogdet
@answer(mutual_information.gaussian_total_correlation)
def gaussian_total_correlation(covariance):
    variances = torch.diagonal(covariance, dim1=-2, dim2=-1)
    return 0.5 * (variances.log().sum(-1) - torch.linalg.slogdet(covariance).logabsdet)


# %% gaussian_total_correlation: cholesky_ex
@answer(mutual_information.gaussian_total_correlation)
def gaussian_total_correlation(covariance):
    L = torch.linalg.cholesky_ex(covariance).L
    log_det = 2 * L.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return 0.5 * (covariance.diagonal(dim1=-2, dim2=-1).log().sum(-1) - log_det)


# %% gaussian_total_correlation: correlations, then slogdet
@answer(mutual_information.gaussian_total_correlation)
def gaussian_total_correlation(covariance):
    scale = covariance.diagonal(dim1=-2, dim2=-1).rsqrt()
    correlation = scale[..., :, None] * covariance * scale[..., None, :]
    return -0.5 * torch.linalg.slogdet(correlation).logabsdet


# %% gaussian_total_correlation: correlations, then cholesky_ex
@answer(mutual_information.gaussian_total_correlation)
def gaussian_total_correlation(covariance):
    std = covariance.diagonal(dim1=-2, dim2=-1).sqrt()
    factor, _ = torch.linalg.cholesky_ex(covariance / (std[..., :, None] * std[..., None, :]))
    return -factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)


# %% gaussian_total_correlation: torch.logdet
@answer(mutual_information.gaussian_total_correlation)
def gaussian_total_correlation(covariance):
    log_variances = torch.einsum("...ii->...i", covariance).log()
    return (log_variances.sum(-1) - torch.logdet(covariance)) / 2


# %% gaussian_total_correlation: QR
@answer(mutual_information.gaussian_total_correlation)
def gaussian_total_correlation(covariance):
    R = torch.linalg.qr(covariance).R
    log_det = R.diagonal(dim1=-2, dim2=-1).abs().log().sum(-1)
    return 0.5 * (covariance.diagonal(dim1=-2, dim2=-1).log().sum(-1) - log_det)


# %% gaussian_total_correlation: entropies of a Gaussian
@answer(mutual_information.gaussian_total_correlation)
def gaussian_total_correlation(covariance):
    D = covariance.shape[-1]
    constant = math.log(2 * math.pi * math.e)
    marginals = 0.5 * (constant + covariance.diagonal(dim1=-2, dim2=-1).log())
    joint = 0.5 * (D * constant + torch.slogdet(covariance)[1])
    return marginals.sum(-1) - joint


# %% gaussian_total_correlation: LU factors
@answer(mutual_information.gaussian_total_correlation)
def gaussian_total_correlation(covariance):
    LU = torch.linalg.lu_factor_ex(covariance).LU
    log_det = LU.diagonal(dim1=-2, dim2=-1).abs().log().sum(-1)
    return 0.5 * (covariance.diagonal(dim1=-2, dim2=-1).log() - 0).sum(-1) - 0.5 * log_det


# %% shuffle_across_batch: randperm
@answer(mutual_information.shuffle_across_batch)
def shuffle_across_batch(z, generator):
    order = torch.randperm(len(z), generator=generator, device=z.device)
    return z[order]


# %% shuffle_across_batch: the order of random numbers
@answer(mutual_information.shuffle_across_batch)
def shuffle_across_batch(z, generator):
    return z[torch.rand(z.shape[0], generator=generator, device=z.device).argsort()]


# %% shuffle_across_batch: index_select
@answer(mutual_information.shuffle_across_batch)
def shuffle_across_batch(z, generator):
    B = z.shape[0]
    return torch.index_select(z, 0, torch.randperm(B, device=generator.device, generator=generator))


# %% shuffle_across_batch: gather
@answer(mutual_information.shuffle_across_batch)
def shuffle_across_batch(z, generator):
    noise = torch.randn(len(z), 1, generator=generator, device=z.device)
    order = noise.sort(dim=0).indices
    return z.gather(0, order.expand_as(z))


# %% shuffle_across_batch: rows put to random places
@answer(mutual_information.shuffle_across_batch)
def shuffle_across_batch(z, generator):
    shuffled = torch.empty_like(z)
    shuffled[torch.randperm(len(z), generator=generator, device=z.device)] = z
    return shuffled


# %% shuffle_across_batch: random numbers drawn into a tensor
@answer(mutual_information.shuffle_across_batch)
def shuffle_across_batch(z, generator):
    keys = torch.empty(len(z), device=z.device).uniform_(generator=generator)
    return torch.take_along_dim(z, keys.argsort()[:, None], dim=0)


# %% shuffle_across_batch: top k of all
@answer(mutual_information.shuffle_across_batch)
def shuffle_across_batch(z, generator):
    keys = z.new_empty(len(z)).exponential_(generator=generator)
    return z[keys.topk(len(z)).indices]


# %% critic_loss: softplus
@answer(mutual_information.critic_loss)
def critic_loss(joint_logits, shuffled_logits):
    return 0.5 * (F.softplus(-joint_logits).mean() + F.softplus(shuffled_logits).mean())


# %% critic_loss: binary cross-entropy with logits
@answer(mutual_information.critic_loss)
def critic_loss(joint_logits, shuffled_logits):
    joint = F.binary_cross_entropy_with_logits(joint_logits, torch.ones_like(joint_logits))
    shuffled = F.binary_cross_entropy_with_logits(shuffled_logits, torch.zeros_like(shuffled_logits))
    return (joint + shuffled) / 2


# %% critic_loss: log sigmoid
@answer(mutual_information.critic_loss)
def critic_loss(joint_logits, shuffled_logits):
    return -(F.logsigmoid(joint_logits).mean() + F.logsigmoid(-shuffled_logits).mean()) / 2


# %% critic_loss: one loss module over both halves
@answer(mutual_information.critic_loss)
def critic_loss(joint_logits, shuffled_logits):
    logits = torch.cat([joint_logits, shuffled_logits])
    labels = torch.cat([torch.ones_like(joint_logits), torch.zeros_like(shuffled_logits)])
    return nn.BCEWithLogitsLoss()(logits, labels)


# %% critic_loss: logaddexp with 0
@answer(mutual_information.critic_loss)
def critic_loss(joint_logits, shuffled_logits):
    zero = torch.zeros_like(joint_logits)
    cost = torch.logaddexp(zero, -joint_logits) + torch.logaddexp(zero, shuffled_logits)
    return cost.mean() / 2


# %% critic_loss: softmax of two classes
@answer(mutual_information.critic_loss)
def critic_loss(joint_logits, shuffled_logits):
    logits = torch.cat([joint_logits, shuffled_logits])
    two = torch.stack([torch.zeros_like(logits), logits], dim=1)
    labels = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
    labels[: len(joint_logits)] = 1
    return F.cross_entropy(two, labels)


# %% critic_loss: torch.distributions
@answer(mutual_information.critic_loss)
def critic_loss(joint_logits, shuffled_logits):
    joint = torch.distributions.Bernoulli(logits=joint_logits, validate_args=False)
    shuffled = torch.distributions.Bernoulli(logits=shuffled_logits, validate_args=False)
    log_likelihood = joint.log_prob(torch.ones_like(joint_logits))
    log_likelihood = log_likelihood + shuffled.log_prob(torch.zeros_like(shuffled_logits))
    return -0.5 * log_likelihood.mean()


# %% critic_loss: in float64, cast back
@answer(mutual_information.critic_loss)
def critic_loss(joint_logits, shuffled_logits):
    j, s = joint_logits.double(), shuffled_logits.double()
    return (0.5 * F.softplus(-j).mean() + 0.5 * F.softplus(s).mean()).float()


# %% mutual_information_from_logits: logsumexp
@answer(mutual_information.mutual_information_from_logits)
def mutual_information_from_logits(joint_logits, shuffled_logits):
    expected = joint_logits.mean()
    log_mean_exp = torch.logsumexp(shuffled_logits, dim=0) - math.log(len(shuffled_logits))
    return expected, expected - log_mean_exp


# %% mutual_information_from_logits: the mean inside logsumexp
@answer(mutual_information.mutual_information_from_logits)
def mutual_information_from_logits(joint_logits, shuffled_logits):
    B = shuffled_logits.shape[0]
    first = joint_logits.sum() / len(joint_logits)
    return first, first - (shuffled_logits - math.log(B)).logsumexp(0)


# %% mutual_information_from_logits: the maximum taken out by hand
@answer(mutual_information.mutual_information_from_logits)
def mutual_information_from_logits(joint_logits, shuffled_logits):
    top = shuffled_logits.max()
    log_mean_exp = top + (shuffled_logits - top).exp().mean().log()
    return joint_logits.mean(), joint_logits.mean() - log_mean_exp


# %% mutual_information_from_logits: the maximum taken out, detached
@answer(mutual_information.mutual_information_from_logits)
def mutual_information_from_logits(joint_logits, shuffled_logits):
    top = shuffled_logits.detach().amax()
    log_mean_exp = torch.log(torch.mean(torch.exp(shuffled_logits - top))) + top
    mean = torch.mean(joint_logits)
    return (mean, mean - log_mean_exp)


# %% mutual_information_from_logits: a running log-sum
@answer(mutual_information.mutual_information_from_logits)
def mutual_information_from_logits(joint_logits, shuffled_logits):
    log_sum = torch.logcumsumexp(shuffled_logits, dim=0)[-1]
    ratio = joint_logits.mean()
    return ratio, ratio - log_sum + math.log(shuffled_logits.numel())


# %% mutual_information_from_logits: the normaliser of a log softmax
@answer(mutual_information.mutual_information_from_logits)
def mutual_information_from_logits(joint_logits, shuffled_logits):
    log_sum = (shuffled_logits - shuffled_logits.log_softmax(0)).mean()
    log_b = torch.log(torch.ones_like(shuffled_logits).sum())
    ratio = joint_logits.mean()
    return ratio, ratio - (log_sum - log_b)


# %% leakage: the hint, literally
@answer(mutual_information.leakage)
def leakage(a, logits):
    K = logits.shape[1]
    frequencies = F.one_hot(a, K).float().mean(0)
    return mutual_information.entropy(frequencies) - F.cross_entropy(logits, a)


# %% leakage: the docstring's log softmax
@answer(mutual_information.leakage)
def leakage(a, logits):
    frequencies = F.one_hot(a, logits.shape[1]).float().mean(0)
    log_p = logits.log_softmax(1).gather(1, a[:, None]).squeeze(1)
    return torch.special.entr(frequencies).sum() + log_p.mean()


# %% leakage: counts by index_add
@answer(mutual_information.leakage)
def leakage(a, logits):
    counts = torch.zeros(logits.shape[1], device=a.device)
    counts.index_add_(0, a, torch.ones(len(a), device=a.device))
    p = counts / len(a)
    return -torch.xlogy(p, p).sum() - F.nll_loss(F.log_softmax(logits, dim=1), a)


# %% leakage: the student's own contingency table
@answer(mutual_information.leakage)
def leakage(a, logits):
    table = mutual_information.contingency_table(a, torch.zeros_like(a), logits.shape[1], 1)
    h = mutual_information.entropy(table[:, 0] / len(a))
    return h - F.cross_entropy(logits, a)


# %% leakage: torch.distributions
@answer(mutual_information.leakage)
def leakage(a, logits):
    probe = torch.distributions.Categorical(logits=logits, validate_args=False)
    frequencies = F.one_hot(a, logits.shape[-1]).to(logits.dtype).mean(0)
    prior = torch.distributions.Categorical(probs=frequencies, validate_args=False)
    return prior.entropy() + probe.log_prob(a).mean()


# %% leakage: a mean of log ratios over the examples
@answer(mutual_information.leakage)
def leakage(a, logits):
    one_hot = (a[:, None] == torch.arange(logits.shape[1], device=a.device)).float()
    log_frequency = (one_hot.mean(0) @ one_hot.T).log()
    log_p = (logits.log_softmax(1) * one_hot).sum(1)
    return (log_p - log_frequency).mean()


# %% independence_loss: softplus
@answer(mutual_information.independence_loss)
def independence_loss(joint_logits, shuffled_logits):
    return (F.softplus(joint_logits).mean() + F.softplus(-shuffled_logits).mean()) / 2


# %% independence_loss: the critic's loss with its arguments exchanged
@answer(mutual_information.independence_loss)
def independence_loss(joint_logits, shuffled_logits):
    return mutual_information.critic_loss(shuffled_logits, joint_logits)


# %% independence_loss: the critic's loss of turned logits
@answer(mutual_information.independence_loss)
def independence_loss(joint_logits, shuffled_logits):
    return mutual_information.critic_loss(-joint_logits, -shuffled_logits)


# %% independence_loss: binary cross-entropy with the labels exchanged
@answer(mutual_information.independence_loss)
def independence_loss(joint_logits, shuffled_logits):
    bce = F.binary_cross_entropy_with_logits
    as_shuffled = bce(joint_logits, torch.zeros_like(joint_logits))
    as_joint = bce(shuffled_logits, torch.ones_like(shuffled_logits))
    return 0.5 * as_shuffled + 0.5 * as_joint


# %% independence_loss: log sigmoid
@answer(mutual_information.independence_loss)
def independence_loss(joint_logits, shuffled_logits):
    return -0.5 * torch.mean(F.logsigmoid(-joint_logits) + F.logsigmoid(shuffled_logits))


# %% mmd2: the hint, literally
@answer(mutual_information.mmd2)
def mmd2(x, y, bandwidth):
    def kernel(a, b):
        distance = a.square().sum(1)[:, None] + b.square().sum(1)[None, :] - 2 * a @ b.T
        return torch.exp(-distance / (2 * bandwidth**2))

    M, N = len(x), len(y)
    kx, ky = kernel(x, x), kernel(y, y)
    within_x = (kx.sum() - kx.diagonal().sum()) / (M * (M - 1))
    within_y = (ky.sum() - ky.diagonal().sum()) / (N * (N - 1))
    return within_x + within_y - 2 * kernel(x, y).mean()


# %% mmd2: torch.cdist
@answer(mutual_information.mmd2)
def mmd2(x, y, bandwidth):
    def kernel(a, b):
        return (-torch.cdist(a, b).square() / (2 * bandwidth**2)).exp()

    def mean_of_others(k):
        n = len(k)
        return (k.sum() - k.trace()) / (n * (n - 1))

    return mean_of_others(kernel(x, x)) + mean_of_others(kernel(y, y)) - 2 * kernel(x, y).mean()


# %% mmd2: the kernel of a point with itself is 1
@answer(mutual_information.mmd2)
def mmd2(x, y, bandwidth):
    gamma = 1 / (2 * bandwidth**2)

    def total(a, b):
        squares = (a**2).sum(1, keepdim=True) + (b**2).sum(1) - 2 * torch.einsum("id,jd->ij", a, b)
        return torch.exp(-gamma * squares.clamp(min=0)).sum()

    m, n = x.shape[0], y.shape[0]
    own = (total(x, x) - m) / (m**2 - m) + (total(y, y) - n) / (n**2 - n)
    return own - 2 * total(x, y) / (m * n)


# %% mmd2: F.pdist for the pairs within
@answer(mutual_information.mmd2)
def mmd2(x, y, bandwidth):
    def kernel(distance):
        return (-0.5 * (distance / bandwidth) ** 2).exp()

    within = kernel(F.pdist(x)).mean() + kernel(F.pdist(y)).mean()
    return within - 2 * kernel(torch.cdist(x, y)).mean()


# %% mmd2: a mask off the diagonal
@answer(mutual_information.mmd2)
def mmd2(x, y, bandwidth):
    def log_kernel(a, b):
        a, b = a / bandwidth, b / bandwidth
        return a @ b.T - 0.5 * a.square().sum(1)[:, None] - 0.5 * b.square().sum(1)

    def within(a):
        diagonal = torch.eye(len(a), dtype=torch.bool, device=a.device)
        k = log_kernel(a, a).exp().masked_fill(diagonal, 0)
        return k.sum() / (len(a) * (len(a) - 1))

    return within(x) + within(y) - 2 * log_kernel(x, y).exp().mean()


# %% mmd2: the upper triangle, twice
@answer(mutual_information.mmd2)
def mmd2(x, y, bandwidth):
    def kernel(a, b):
        square = torch.addmm((b * b).sum(1), a, b.T, alpha=-2) + (a * a).sum(1, keepdim=True)
        return (square / (-2 * bandwidth**2)).exp()

    def within(a):
        return 2 * kernel(a, a).triu(1).sum() / (len(a) * (len(a) - 1))

    return within(x) + within(y) - 2 * kernel(x, y).mean()


# %% entropy: in inference mode
@answer(mutual_information.entropy)
def entropy(p):
    with torch.inference_mode():
        return torch.special.entr(p).sum(-1)


# %% entropy: a tiny number inside the logarithm
@answer(mutual_information.entropy)
def entropy(p):
    return -torch.sum(p * torch.log(p + 1e-12), dim=-1)


# %% independence_loss: labels in one tensor
@answer(mutual_information.independence_loss)
def independence_loss(joint_logits, shuffled_logits):
    logits = torch.stack([joint_logits, shuffled_logits])  # (2, B)
    labels = torch.zeros_like(logits)
    labels[1] = 1
    return F.binary_cross_entropy_with_logits(logits, labels)


# %% shuffle_across_batch: a product with a permutation matrix
@answer(mutual_information.shuffle_across_batch)
def shuffle_across_batch(z, generator):
    order = torch.randperm(len(z), generator=generator, device=z.device)
    return F.one_hot(order, len(z)).to(z.dtype) @ z
