"""Wrong answers to lesson 01, cell by cell, beyond the mistakes that the solutions name."""

# %% the notebook's first cell
import math

import torch
import torch.nn.functional as F

from course_lib import answer
from course_lib.lessons import mutual_information


# %% entropy: a large number added inside the logarithm
# not: overflow
@answer(mutual_information.entropy)
def entropy(p):
    return -(p * (p + 0.01).log()).sum(-1)


# %% entropy: small probabilities raised
@answer(mutual_information.entropy)
def entropy(p):
    p = p.clamp(min=0.01)
    return -(p * p.log()).sum(-1)


# %% entropy: summed over everything
# says: shape
@answer(mutual_information.entropy)
def entropy(p):
    return torch.special.entr(p).sum()


# %% entropy: one minus the sum of squares (Gini)
@answer(mutual_information.entropy)
def entropy(p):
    return 1 - p.square().sum(-1)


# %% entropy: for two axes only
# says: shape|value
@answer(mutual_information.entropy)
def entropy(p):
    return torch.special.entr(p).sum(1)


# %% entropy: p taken for logits
@answer(mutual_information.entropy)
def entropy(p):
    return torch.special.entr(p.softmax(-1)).sum(-1)


# %% entropy: positive entries picked by a mask
# says: boolean mask|shape
@answer(mutual_information.entropy)
def entropy(p):
    q = p[p > 0]
    return -(q * q.log()).sum(-1)


# %% entropy: divided by log K
@answer(mutual_information.entropy)
def entropy(p):
    return torch.special.entr(p).sum(-1) / math.log(p.shape[-1])


# %% entropy: one-hot matrix products counted in the sign
@answer(mutual_information.entropy)
def entropy(p):
    return (p * p.clamp(min=1e-30).log()).sum(-1).abs().exp()


# %% contingency_table: one-hot matrices of a million rows
# says: memory
@answer(mutual_information.contingency_table)
def contingency_table(a, b, classes_a, classes_b):
    return (F.one_hot(a, classes_a).T.float() @ F.one_hot(b, classes_b).float()).long()


# %% contingency_table: bincount
# says: bincount
@answer(mutual_information.contingency_table)
def contingency_table(a, b, classes_a, classes_b):
    cell = a * classes_b + b
    return torch.bincount(cell, minlength=classes_a * classes_b).view(classes_a, classes_b)


# %% contingency_table: a Python loop over the pairs
# says: host|loop
@answer(mutual_information.contingency_table)
def contingency_table(a, b, classes_a, classes_b):
    table = torch.zeros(classes_a, classes_b, dtype=torch.int64, device=a.device)
    for i, j in zip(a, b, strict=True):
        table[i, j] += 1
    return table


# %% contingency_table: a loop over the cells
# says: operations|loop
@answer(mutual_information.contingency_table)
def contingency_table(a, b, classes_a, classes_b):
    rows = [torch.stack([((a == i) & (b == j)).sum() for j in range(classes_b)]) for i in range(classes_a)]
    return torch.stack(rows)


# %% contingency_table: floating-point counts
# says: int64.*float32
@answer(mutual_information.contingency_table)
def contingency_table(a, b, classes_a, classes_b):
    cell = a * classes_b + b
    counts = torch.zeros(classes_a * classes_b, device=a.device)
    return counts.index_add_(0, cell, torch.ones_like(cell, dtype=torch.float)).view(classes_a, classes_b)


# %% contingency_table: columns numbered as rows, reshaped
@answer(mutual_information.contingency_table)
def contingency_table(a, b, classes_a, classes_b):
    cell = b * classes_a + a
    counts = torch.zeros(classes_a * classes_b, dtype=torch.int64, device=a.device)
    return counts.index_add_(0, cell, torch.ones_like(cell)).view(classes_a, classes_b)


# %% contingency_table: the table on the CPU
# says: CPU
@answer(mutual_information.contingency_table)
def contingency_table(a, b, classes_a, classes_b):
    table = torch.zeros(classes_a, classes_b, dtype=torch.int64)
    return table.index_put_((a, b), torch.ones_like(a), accumulate=True)


# %% contingency_table: index_put without accumulate
@answer(mutual_information.contingency_table)
def contingency_table(a, b, classes_a, classes_b):
    table = torch.zeros(classes_a, classes_b, dtype=torch.int64, device=a.device)
    return table.index_put((a, b), torch.ones_like(a))


# %% contingency_table: as many rows as labels occur
# says: host|size|shape
@answer(mutual_information.contingency_table)
def contingency_table(a, b, classes_a, classes_b):
    classes_b = int(b.max()) + 1
    cell = a * classes_b + b
    counts = torch.zeros(classes_a * classes_b, dtype=torch.int64, device=a.device)
    return counts.index_add_(0, cell, torch.ones_like(cell)).view(classes_a, classes_b)


# %% discrete_mutual_information: NaN at an empty row
# says: NaN
@answer(mutual_information.discrete_mutual_information)
def discrete_mutual_information(table):
    p = table / table.sum((-2, -1), keepdim=True)
    pa, pb = p.sum(-1, keepdim=True), p.sum(-2, keepdim=True)
    return torch.xlogy(p, p / (pa * pb)).sum((-2, -1))


# %% discrete_mutual_information: F.kl_div, NaN at an empty row
# says: NaN
@answer(mutual_information.discrete_mutual_information)
def discrete_mutual_information(table):
    p = table / table.sum((-2, -1), keepdim=True)
    pa, pb = p.sum(-1, keepdim=True), p.sum(-2, keepdim=True)
    return F.kl_div((pa * pb).log(), p, reduction="none").sum((-2, -1))


# %% discrete_mutual_information: all tables normalised together
@answer(mutual_information.discrete_mutual_information)
def discrete_mutual_information(table):
    joint = table / table.sum()
    h = mutual_information.entropy
    return h(joint.sum(-1)) + h(joint.sum(-2)) - h(joint.flatten(-2))


# %% discrete_mutual_information: averaged over the cells
@answer(mutual_information.discrete_mutual_information)
def discrete_mutual_information(table):
    p = table / table.sum((-2, -1), keepdim=True)
    product = p.sum(-1, keepdim=True) * p.sum(-2, keepdim=True)
    return torch.where(p > 0, p * (p / product).log(), 0).mean((-2, -1))


# %% discrete_mutual_information: for one table only
# says: shape
@answer(mutual_information.discrete_mutual_information)
def discrete_mutual_information(table):
    joint = table / table.sum()
    h = torch.special.entr
    return h(joint.sum(-1)).sum() + h(joint.sum(-2)).sum() - h(joint).sum()


# %% discrete_mutual_information: rows and columns from the front
@answer(mutual_information.discrete_mutual_information)
def discrete_mutual_information(table):
    joint = table / table.sum((-2, -1), keepdim=True)
    h = torch.special.entr
    return h(joint.sum(1)).sum(-1) + h(joint.sum(0)).sum(-1) - h(joint).sum((-2, -1))


# %% discrete_mutual_information: normalised by the smaller entropy
@answer(mutual_information.discrete_mutual_information)
def discrete_mutual_information(table):
    joint = table / table.sum((-2, -1), keepdim=True)
    h = mutual_information.entropy
    a, b = h(joint.sum(-1)), h(joint.sum(-2))
    return (a + b - h(joint.flatten(-2))) / torch.minimum(a, b)


# %% discrete_mutual_information: a small number added to every cell
@answer(mutual_information.discrete_mutual_information)
def discrete_mutual_information(table):
    joint = table / table.sum((-2, -1), keepdim=True) + 1e-3
    product = joint.sum(-1, keepdim=True) * joint.sum(-2, keepdim=True)
    return (joint * (joint / product).log()).sum((-2, -1))


# %% discrete_mutual_information: float64 for integer tables
# says: float32.*float64
@answer(mutual_information.discrete_mutual_information)
def discrete_mutual_information(table):
    joint = table.double() / table.sum((-2, -1), keepdim=True)
    h = torch.special.entr
    return h(joint.sum(-1)).sum(-1) + h(joint.sum(-2)).sum(-1) - h(joint).sum((-2, -1))


# %% gaussian_total_correlation: the Cholesky factor that reports errors
# says: cholesky_ex|host
@answer(mutual_information.gaussian_total_correlation)
def gaussian_total_correlation(covariance):
    log_det = 2 * torch.linalg.cholesky(covariance).diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return 0.5 * (covariance.diagonal(dim1=-2, dim2=-1).log().sum(-1) - log_det)


# %% gaussian_total_correlation: half the log determinant from Cholesky
@answer(mutual_information.gaussian_total_correlation)
def gaussian_total_correlation(covariance):
    log_det = torch.linalg.cholesky_ex(covariance).L.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return 0.5 * (covariance.diagonal(dim1=-2, dim2=-1).log().sum(-1) - log_det)


# %% gaussian_total_correlation: the product of the variances, which underflows
# says: overflow|infinity|underflow|NaN
@answer(mutual_information.gaussian_total_correlation)
def gaussian_total_correlation(covariance):
    variances = covariance.diagonal(dim1=-2, dim2=-1)
    return 0.5 * (variances.prod(-1).log() - torch.linalg.slogdet(covariance).logabsdet)


# %% gaussian_total_correlation: the first two variables only
@answer(mutual_information.gaussian_total_correlation)
def gaussian_total_correlation(covariance):
    rho2 = covariance[..., 0, 1] ** 2 / (covariance[..., 0, 0] * covariance[..., 1, 1])
    return -0.5 * torch.log(1 - rho2)


# %% gaussian_total_correlation: the sum over pairs of variables
@answer(mutual_information.gaussian_total_correlation)
def gaussian_total_correlation(covariance):
    v = covariance.diagonal(dim1=-2, dim2=-1)
    rho2 = (covariance**2 / (v[..., :, None] * v[..., None, :])).triu(1)
    return -0.5 * torch.log1p(-rho2).sum((-2, -1))


# %% gaussian_total_correlation: the diagonal of the first two axes
# says: shape|raised|value
@answer(mutual_information.gaussian_total_correlation)
def gaussian_total_correlation(covariance):
    variances = covariance.diagonal()
    return 0.5 * (variances.log().sum(-1) - torch.linalg.slogdet(covariance).logabsdet)


# %% gaussian_total_correlation: the variances are detached
# says: gradient
@answer(mutual_information.gaussian_total_correlation)
def gaussian_total_correlation(covariance):
    variances = covariance.diagonal(dim1=-2, dim2=-1).detach()
    return 0.5 * (variances.log().sum(-1) - torch.linalg.slogdet(covariance).logabsdet)


# %% gaussian_total_correlation: logdet only of the sign
@answer(mutual_information.gaussian_total_correlation)
def gaussian_total_correlation(covariance):
    sign, _ = torch.linalg.slogdet(covariance)
    return 0.5 * covariance.diagonal(dim1=-2, dim2=-1).log().sum(-1) - 0.5 * sign


# %% shuffle_across_batch: moved around by a random distance
# not: replacement
@answer(mutual_information.shuffle_across_batch)
def shuffle_across_batch(z, generator):
    distance = torch.randint(1, len(z), (1,), generator=generator, device=z.device)
    return z[(torch.arange(len(z), device=z.device) + distance) % len(z)]


# %% shuffle_across_batch: two halves exchanged, at random
@answer(mutual_information.shuffle_across_batch)
def shuffle_across_batch(z, generator):
    half = len(z) // 2
    swap = torch.rand(half, 1, generator=generator, device=z.device) < 0.5
    first, second = z[:half], z[half : 2 * half]
    parts = torch.where(swap, second, first), torch.where(swap, first, second), z[2 * half :]
    return torch.cat(parts)


# %% shuffle_across_batch: the global generator seeded from the given one
@answer(mutual_information.shuffle_across_batch)
def shuffle_across_batch(z, generator):
    torch.manual_seed(generator.initial_seed())
    return z[torch.randperm(len(z), device=z.device)]


# %% shuffle_across_batch: the generator is put back to its seed
# says: same
@answer(mutual_information.shuffle_across_batch)
def shuffle_across_batch(z, generator):
    generator.manual_seed(0)
    return z[torch.randperm(len(z), generator=generator, device=z.device)]


# %% shuffle_across_batch: Python's random
# says: generator|host
@answer(mutual_information.shuffle_across_batch)
def shuffle_across_batch(z, generator):
    import random

    order = list(range(len(z)))
    random.shuffle(order)
    return z[torch.tensor(order, device=z.device)]


# %% shuffle_across_batch: NumPy's random
# says: generator
@answer(mutual_information.shuffle_across_batch)
def shuffle_across_batch(z, generator):
    import numpy as np

    return z[torch.from_numpy(np.random.permutation(len(z))).to(z.device)]


# %% shuffle_across_batch: the order is drawn on the CPU
# says: CPU
@answer(mutual_information.shuffle_across_batch)
def shuffle_across_batch(z, generator):
    return z[torch.randperm(len(z), generator=generator)]


# %% shuffle_across_batch: drawn on the CPU, then moved
# says: CPU
@answer(mutual_information.shuffle_across_batch)
def shuffle_across_batch(z, generator):
    return z[torch.randperm(len(z), generator=generator).to(z.device)]


# %% shuffle_across_batch: shuffles its argument itself
# says: changes its input in place
@answer(mutual_information.shuffle_across_batch)
def shuffle_across_batch(z, generator):
    z[:] = z[torch.randperm(len(z), generator=generator, device=z.device)]
    return z


# %% shuffle_across_batch: all but the first row
@answer(mutual_information.shuffle_across_batch)
def shuffle_across_batch(z, generator):
    order = 1 + torch.randperm(len(z) - 1, generator=generator, device=z.device)
    return torch.cat([z[:1], z[order]])


# %% shuffle_across_batch: backwards, or not
@answer(mutual_information.shuffle_across_batch)
def shuffle_across_batch(z, generator):
    shift = torch.randperm(len(z), generator=generator, device=z.device)[0]
    return z.flip(0)[(torch.arange(len(z), device=z.device) + shift) % len(z)]


# %% critic_loss: soft_margin_loss, which overflows
# says: overflow|infinity
@answer(mutual_information.critic_loss)
def critic_loss(joint_logits, shuffled_logits):
    joint = F.soft_margin_loss(joint_logits, torch.ones_like(joint_logits))
    shuffled = F.soft_margin_loss(shuffled_logits, -torch.ones_like(shuffled_logits))
    return 0.5 * (joint + shuffled)


# %% critic_loss: relu and log1p, without a gradient at logit 0
# says: gradient
@answer(mutual_information.critic_loss)
def critic_loss(joint_logits, shuffled_logits):
    def softplus(t):
        return t.relu() + (-t.abs()).exp().log1p()

    return 0.5 * (softplus(-joint_logits).mean() + softplus(shuffled_logits).mean())


# %% critic_loss: clamped probabilities
@answer(mutual_information.critic_loss)
def critic_loss(joint_logits, shuffled_logits):
    joint = joint_logits.sigmoid().clamp(1e-7, 1 - 1e-7)
    shuffled = shuffled_logits.sigmoid().clamp(1e-7, 1 - 1e-7)
    return -0.5 * (joint.log().mean() + (1 - shuffled).log().mean())


# %% critic_loss: binary_cross_entropy of probabilities, cut off at 100
@answer(mutual_information.critic_loss)
def critic_loss(joint_logits, shuffled_logits):
    joint = F.binary_cross_entropy(joint_logits.sigmoid(), torch.ones_like(joint_logits))
    shuffled = F.binary_cross_entropy(shuffled_logits.sigmoid(), torch.zeros_like(shuffled_logits))
    return 0.5 * (joint + shuffled)


# %% critic_loss: a small number inside the logarithm
@answer(mutual_information.critic_loss)
def critic_loss(joint_logits, shuffled_logits):
    joint, shuffled = joint_logits.sigmoid(), shuffled_logits.sigmoid()
    return -0.5 * ((joint + 1e-8).log().mean() + (1 - shuffled + 1e-8).log().mean())


# %% critic_loss: the average of a difference
@answer(mutual_information.critic_loss)
def critic_loss(joint_logits, shuffled_logits):
    return 0.5 * (F.softplus(-joint_logits).mean() - F.softplus(-shuffled_logits).mean())


# %% critic_loss: one number for each pair
# says: scalar
@answer(mutual_information.critic_loss)
def critic_loss(joint_logits, shuffled_logits):
    return 0.5 * (F.softplus(-joint_logits) + F.softplus(shuffled_logits))


# %% critic_loss: hinge
@answer(mutual_information.critic_loss)
def critic_loss(joint_logits, shuffled_logits):
    return 0.5 * ((1 - joint_logits).relu().mean() + (1 + shuffled_logits).relu().mean())


# %% critic_loss: only the joint half has a gradient
# says: gradient
@answer(mutual_information.critic_loss)
def critic_loss(joint_logits, shuffled_logits):
    return 0.5 * (F.softplus(-joint_logits).mean() + F.softplus(shuffled_logits.detach()).mean())


# %% critic_loss: logits cut off at 50
@answer(mutual_information.critic_loss)
def critic_loss(joint_logits, shuffled_logits):
    joint, shuffled = joint_logits.clamp(-50, 50), shuffled_logits.clamp(-50, 50)
    return 0.5 * ((1 + (-joint).exp()).log().mean() + (1 + shuffled.exp()).log().mean())


# %% mutual_information_from_logits: exp in float64, which overflows later
# says: overflow|infinity
@answer(mutual_information.mutual_information_from_logits)
def mutual_information_from_logits(joint_logits, shuffled_logits):
    log_mean_exp = shuffled_logits.double().exp().mean().log().float()
    return joint_logits.mean(), joint_logits.mean() - log_mean_exp


# %% mutual_information_from_logits: the two numbers exchanged
@answer(mutual_information.mutual_information_from_logits)
def mutual_information_from_logits(joint_logits, shuffled_logits):
    ratio = joint_logits.mean()
    return ratio - shuffled_logits.logsumexp(0) + math.log(len(shuffled_logits)), ratio


# %% mutual_information_from_logits: the exponentials of the joint pairs
@answer(mutual_information.mutual_information_from_logits)
def mutual_information_from_logits(joint_logits, shuffled_logits):
    ratio = joint_logits.mean()
    return ratio, ratio - joint_logits.logsumexp(0) + math.log(len(joint_logits)) + 0 * shuffled_logits.sum()


# %% mutual_information_from_logits: the f-divergence bound
@answer(mutual_information.mutual_information_from_logits)
def mutual_information_from_logits(joint_logits, shuffled_logits):
    ratio = joint_logits.mean()
    return ratio, ratio - (shuffled_logits.clamp(max=80) - 1).exp().mean()


# %% mutual_information_from_logits: a list
# says: tuple
@answer(mutual_information.mutual_information_from_logits)
def mutual_information_from_logits(joint_logits, shuffled_logits):
    ratio = joint_logits.mean()
    return [ratio, ratio - shuffled_logits.logsumexp(0) + math.log(len(shuffled_logits))]


# %% mutual_information_from_logits: one tensor of two numbers
# says: tuple
@answer(mutual_information.mutual_information_from_logits)
def mutual_information_from_logits(joint_logits, shuffled_logits):
    ratio = joint_logits.mean()
    bound = ratio - shuffled_logits.logsumexp(0) + math.log(len(shuffled_logits))
    return torch.stack([ratio, bound])


# %% mutual_information_from_logits: the normaliser without a gradient
# says: gradient
@answer(mutual_information.mutual_information_from_logits)
def mutual_information_from_logits(joint_logits, shuffled_logits):
    ratio = joint_logits.mean()
    return ratio, ratio - shuffled_logits.detach().logsumexp(0) + math.log(len(shuffled_logits))


# %% mutual_information_from_logits: log2 of the batch
@answer(mutual_information.mutual_information_from_logits)
def mutual_information_from_logits(joint_logits, shuffled_logits):
    ratio = joint_logits.mean()
    return ratio, ratio - shuffled_logits.logsumexp(0) + math.log2(len(shuffled_logits))


# %% leakage: bincount
# says: bincount
@answer(mutual_information.leakage)
def leakage(a, logits):
    p = torch.bincount(a, minlength=logits.shape[1]) / len(a)
    return mutual_information.entropy(p) - F.cross_entropy(logits, a)


# %% leakage: F.one_hot without a number of classes
# says: host|size
@answer(mutual_information.leakage)
def leakage(a, logits):
    p = F.one_hot(a).float().mean(0)
    return mutual_information.entropy(p) - F.cross_entropy(logits, a)


# %% leakage: the entropy of the probe's own answers
@answer(mutual_information.leakage)
def leakage(a, logits):
    p = logits.softmax(1).mean(0)
    return mutual_information.entropy(p) - F.cross_entropy(logits, a)


# %% leakage: the mean entropy of the probe's answers
@answer(mutual_information.leakage)
def leakage(a, logits):
    p = F.one_hot(a, logits.shape[1]).float().mean(0)
    return mutual_information.entropy(p) - mutual_information.entropy(logits.softmax(1)).mean()


# %% leakage: not below 0
@answer(mutual_information.leakage)
def leakage(a, logits):
    p = F.one_hot(a, logits.shape[1]).float().mean(0)
    return (mutual_information.entropy(p) - F.cross_entropy(logits, a)).clamp(min=0)


# %% leakage: the probe's accuracy in nats
@answer(mutual_information.leakage)
def leakage(a, logits):
    return (logits.argmax(1) == a).float().mean() * math.log(logits.shape[1])


# %% leakage: NaN at a label that does not occur
# says: NaN
@answer(mutual_information.leakage)
def leakage(a, logits):
    p = F.one_hot(a, logits.shape[1]).float().mean(0)
    return -(p * p.log()).sum() - F.cross_entropy(logits, a)


# %% leakage: unique labels
# says: size
@answer(mutual_information.leakage)
def leakage(a, logits):
    _, counts = a.unique(return_counts=True)
    p = counts / len(a)
    return mutual_information.entropy(p) - F.cross_entropy(logits, a)


# %% independence_loss: the logarithm of 1 − σ
# says: overflow|infinity|NaN
@answer(mutual_information.independence_loss)
def independence_loss(joint_logits, shuffled_logits):
    joint, shuffled = joint_logits.sigmoid(), shuffled_logits.sigmoid()
    return -0.5 * ((1 - joint).log().mean() + shuffled.log().mean())


# %% independence_loss: towards a critic that cannot tell
@answer(mutual_information.independence_loss)
def independence_loss(joint_logits, shuffled_logits):
    logits = torch.cat([joint_logits, shuffled_logits])
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, 0.5))


# %% independence_loss: the difference of the mean logits
@answer(mutual_information.independence_loss)
def independence_loss(joint_logits, shuffled_logits):
    return joint_logits.mean() - shuffled_logits.mean()


# %% independence_loss: squared logits
@answer(mutual_information.independence_loss)
def independence_loss(joint_logits, shuffled_logits):
    return 0.5 * (joint_logits.square().mean() + shuffled_logits.square().mean())


# %% independence_loss: summed over the batch
@answer(mutual_information.independence_loss)
def independence_loss(joint_logits, shuffled_logits):
    return 0.5 * (F.softplus(joint_logits).sum() + F.softplus(-shuffled_logits).sum())


# %% independence_loss: shuffled logits detached
# says: gradient
@answer(mutual_information.independence_loss)
def independence_loss(joint_logits, shuffled_logits):
    return mutual_information.critic_loss(shuffled_logits.detach(), joint_logits)


# %% independence_loss: log 2 minus the critic's loss
@answer(mutual_information.independence_loss)
def independence_loss(joint_logits, shuffled_logits):
    return math.log(2) - mutual_information.critic_loss(joint_logits, shuffled_logits)


# %% mmd2: all differences, (M, N, D)
# says: memory
@answer(mutual_information.mmd2)
def mmd2(x, y, bandwidth):
    def kernel(a, b):
        return (-(a[:, None] - b[None]).square().sum(-1) / (2 * bandwidth**2)).exp()

    def within(a):
        k = kernel(a, a)
        return (k.sum() - k.trace()) / (len(a) * (len(a) - 1))

    return within(x) + within(y) - 2 * kernel(x, y).mean()


# %% mmd2: y has as many points as x
@answer(mutual_information.mmd2)
def mmd2(x, y, bandwidth):
    def kernel(a, b):
        return (-torch.cdist(a, b).square() / (2 * bandwidth**2)).exp()

    n = len(x)
    kx, ky = kernel(x, x), kernel(y, y)
    return (kx.sum() + ky.sum() - 2 * n) / (n * (n - 1)) - 2 * kernel(x, y).mean()


# %% mmd2: the cross term without its diagonal, too
@answer(mutual_information.mmd2)
def mmd2(x, y, bandwidth):
    def mean_kernel(a, b):
        k = (-torch.cdist(a, b).square() / (2 * bandwidth**2)).exp()
        return (k.sum() - k.diagonal().sum()) / (k.numel() - min(len(a), len(b)))

    return mean_kernel(x, x) + mean_kernel(y, y) - 2 * mean_kernel(x, y)


# %% mmd2: its square root
@answer(mutual_information.mmd2)
def mmd2(x, y, bandwidth):
    def kernel(a, b):
        return (-torch.cdist(a, b).square() / (2 * bandwidth**2)).exp()

    def within(a):
        return (kernel(a, a).sum() - len(a)) / (len(a) * (len(a) - 1))

    return (within(x) + within(y) - 2 * kernel(x, y).mean()).abs().sqrt()


# %% mmd2: the kernel of the means
@answer(mutual_information.mmd2)
def mmd2(x, y, bandwidth):
    return (x.mean(0) - y.mean(0)).square().sum() / (2 * bandwidth**2)


# %% mmd2: the constant of the normal density
@answer(mutual_information.mmd2)
def mmd2(x, y, bandwidth):
    def kernel(a, b):
        k = (-torch.cdist(a, b).square() / (2 * bandwidth**2)).exp()
        return k / (bandwidth * math.sqrt(2 * math.pi))

    def within(a):
        k = kernel(a, a)
        return (k.sum() - k.trace()) / (len(a) * (len(a) - 1))

    return within(x) + within(y) - 2 * kernel(x, y).mean()


# %% mmd2: a loop over the points of x
# says: loop|memory
@answer(mutual_information.mmd2)
def mmd2(x, y, bandwidth):
    def row(p, b):
        return (-(p - b).square().sum(1) / (2 * bandwidth**2)).exp()

    def within(a):
        total = sum(row(p, a).sum() for p in a) - len(a)
        return total / (len(a) * (len(a) - 1))

    cross = sum(row(p, y).sum() for p in x) / (len(x) * len(y))
    return within(x) + within(y) - 2 * cross


# %% mmd2: not below 0
@answer(mutual_information.mmd2)
def mmd2(x, y, bandwidth):
    def kernel(a, b):
        return (-torch.cdist(a, b).square() / (2 * bandwidth**2)).exp()

    def within(a):
        return (kernel(a, a).sum() - len(a)) / (len(a) * (len(a) - 1))

    return (within(x) + within(y) - 2 * kernel(x, y).mean()).clamp(min=0)


# %% entropy: NumPy
# says: NumPy
@answer(mutual_information.entropy)
def entropy(p):
    import numpy as np

    q = p.numpy()
    return torch.from_numpy(-np.sum(q * np.log(np.maximum(q, 1e-30)), axis=-1))


# %% discrete_mutual_information: a batch of tables only
# says: shape|dimension|value|raised
@answer(mutual_information.discrete_mutual_information)
def discrete_mutual_information(table):
    joint = table / table.flatten(1).sum(1)[:, None, None]
    h = mutual_information.entropy
    return h(joint.sum(2)) + h(joint.sum(1)) - h(joint.flatten(1))


# %% mmd2: the diagonal is subtracted from the cross term instead
@answer(mutual_information.mmd2)
def mmd2(x, y, bandwidth):
    def kernel(a, b):
        return (-torch.cdist(a, b).square() / (2 * bandwidth**2)).exp()

    return kernel(x, x).mean() + kernel(y, y).mean() - 2 * kernel(x, y).mean() - 1 / len(x) - 1 / len(y)
