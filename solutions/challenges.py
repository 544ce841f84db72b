"""A solution of each challenge: not the only one, and seldom the best."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from course_lib.challenges import tasks
from course_lib.challenges.tasks import mlp, train_network
from course_lib.exercise.kernels import tl

SOLUTIONS = {}


def solves(task):
    """Decorator: a solution of this challenge."""

    def enter(function):
        SOLUTIONS[task.name] = function
        return function

    return enter


@solves(tasks.fair_decision)
def without_the_group(x, a, y, new):
    """Take the direction that tells the groups apart out of x, by a map that needs no group; then a logistic regression."""
    delta = x[a == 1].mean(0) - x[a == 0].mean(0)
    within = torch.where((a == 1)[:, None], x - x[a == 1].mean(0), x - x[a == 0].mean(0))
    direction = torch.linalg.solve(within.T @ within / len(x), delta)

    def purged(v):
        return v - ((v - x.mean(0)) @ direction / (delta @ direction))[:, None] * delta

    return train_network(nn.Linear(6, 2), purged(x), y)(purged(new)).argmax(1)


@solves(tasks.turn_back)
def least_gaussian(z):
    """Independent component analysis: the axes along which z is least Gaussian, by the fixed point of its fourth moment."""
    z = z - z.mean(0)
    values, vectors = torch.linalg.eigh(z.T.cov())
    white = z @ vectors / values.sqrt()
    w = torch.linalg.qr(torch.randn(4, 4)).Q
    for _ in range(200):
        s = white @ w  # (N, 4)
        w = white.T @ s**3 / len(s) - 3 * w
        u, _, v = torch.linalg.svd(w)
        w = u @ v
    return white @ w


@solves(tasks.shared_information)
def by_ranks(x, y):
    """Ranks forget the bending; of the normal scores the correlation says all."""

    def scores(v):
        return torch.special.ndtri((v.argsort().argsort() + 0.5) / len(v))

    rho = torch.stack([scores(x), scores(y)]).corrcoef()[0, 1]
    return -0.5 * math.log(1 - rho**2)


@solves(tasks.repair_critic)
def repaired_critic(y, z):
    """Shuffle z alone; logits, not probabilities, into the loss; the logarithm of the mean of e^T."""
    critic = mlp(2, 64, 64, 1)
    optimiser = torch.optim.Adam(critic.parameters(), lr=3e-3)
    for _ in range(400):
        order = torch.randperm(len(y))
        joint, product = critic(torch.cat([y, z], 1)), critic(torch.cat([y, z[order]], 1))
        loss = F.softplus(-joint).mean() + F.softplus(product).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        joint, product = critic(torch.cat([y, z], 1)), critic(torch.cat([y, z[torch.randperm(len(z))]], 1))
        return (joint.mean() - product.logsumexp(0).squeeze() + math.log(len(z))).item()


@solves(tasks.repair_vae)
def repaired_vae(x):
    """Train the encoder, too; σ = exp(½ log_var); the likelihood is a sum over pixels."""
    encoder, decoder = mlp(64, 128, 20), mlp(10, 128, 64)
    optimiser = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=2e-3)
    for _ in range(1000):
        batch = x[torch.randint(len(x), (128,))]
        mean, log_var = encoder(batch).chunk(2, dim=1)
        z = mean + (0.5 * log_var).exp() * torch.randn_like(mean)
        reconstruction = F.binary_cross_entropy_with_logits(decoder(z), batch, reduction="none").sum(1).mean()
        kl = 0.5 * (mean**2 + log_var.exp() - log_var - 1).sum(1).mean()
        optimiser.zero_grad()
        (reconstruction + kl).backward()
        optimiser.step()
    return lambda x: encoder(x).chunk(2, dim=1), decoder


@solves(tasks.tightest_gaussian)
def ascent(log_joint, images):
    """Climb the ELBO in mean and log_var by reparameterised samples, from several starts; keep the best for each image."""
    best, kept = torch.full((images,), -math.inf), (torch.zeros(images, 2), torch.zeros(images, 2))
    for _ in range(4):
        mean = torch.randn(images, 2).requires_grad_()
        log_var = torch.full((images, 2), -1.0, requires_grad=True)
        optimiser = torch.optim.Adam([mean, log_var], lr=0.05)
        for _ in range(300):
            z = mean + (0.5 * log_var).exp() * torch.randn(64, images, 2)
            elbo = log_joint(z).mean(0) + 0.5 * log_var.sum(1)
            optimiser.zero_grad()
            (-elbo.sum()).backward()
            optimiser.step()
        with torch.no_grad():
            z = mean + (0.5 * log_var).exp() * torch.randn(1024, images, 2)
            elbo = log_joint(z).mean(0) + 0.5 * log_var.sum(1)
            won = (elbo > best)[:, None]
            kept = torch.where(won, mean, kept[0]), torch.where(won, log_var, kept[1])
            best = torch.maximum(elbo, best)
    return kept


@solves(tasks.batch_total_correlation)
def by_determinant(z, mean, log_var, n):
    """The covariance of the mixture, from the batch; the total correlation of a Gaussian that has it, less its bias."""
    covariance = mean.T.cov() + log_var.exp().mean(0).diag()
    total = 0.5 * (covariance.diagonal().log().sum() - torch.logdet(covariance)).item()
    pairs = mean.shape[1] * (mean.shape[1] - 1) / 2
    return total - pairs / (2 * len(z))


@solves(tasks.cheap_independence)
def total_correlation_alone(x, logits, mean, log_var, z, progress):
    """beta-TCVAE: the dependence alone is charged for, by minibatch-weighted sampling, which grows with the training."""
    reconstruction = F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(1)
    kl = 0.5 * (mean**2 + log_var.exp() - log_var - 1).sum(1)
    log_q = -0.5 * ((z[:, None] - mean) ** 2 / log_var.exp() + log_var)  # (B, B, D)
    total_correlation = log_q.sum(2).logsumexp(1) - log_q.logsumexp(1).sum(1)
    return (reconstruction + kl + 4 * min(1, 2 * progress) * total_correlation).mean()


@solves(tasks.fooled_score)
def everything_twice(v):
    """Every factor is stored twice: each latent still votes for its own factor, and the gap between the two best is zero."""
    return 3 * torch.cat([v, v], 1)


@solves(tasks.hidden_dependence)
def by_neighbours(z, k=5):
    """Nearest neighbours: how many points are as near in one coordinate as the k-th is in both (Kraskov, Stögbauer, Grassberger)."""
    apart = (z[:, None] - z).abs()  # (N, N, 2)
    reach = apart.amax(2).kthvalue(k + 1, dim=1).values  # the point itself is the first
    closer = (apart < reach[:, None, None]).sum(1) - 1  # (N, 2)
    psi = torch.special.digamma
    return (psi(torch.tensor(float(k))) + math.log(len(z)) - psi(closer + 1.0).sum(1).mean()).item()


@solves(tasks.unlabelled_target)
def confident_first(x, y, target):
    """Both domains on one scale; then the classifier's own surest labels of the target teach it, more of them each time."""

    def scaled(v):
        return (v - v.mean()) / v.std()

    x, target = scaled(x), scaled(target)
    model = train_network(mlp(64, 64, 10), x, y)
    for share in (0.2, 0.4, 0.6, 0.8, 1.0, 1.0):
        surest, label = model(target).detach().softmax(1).max(1)
        rows = surest.topk(int(share * len(target))).indices
        model = train_network(mlp(64, 64, 10), torch.cat([x, target[rows]]), torch.cat([y, label[rows]]))
    return model(target).argmax(1)


@solves(tasks.shifted_labels)
def by_frequency(x, y, target):
    """How often each digit occurs in the target, by expectation maximisation, corrects the classifier's probabilities."""
    model = nn.Linear(64, 10)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(100):
        loss = F.cross_entropy(model(x), y) + 1e-2 * model.weight.square().sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    before = y.bincount(minlength=10) / len(y)
    p, frequency = model(target).detach().softmax(1), before
    for _ in range(50):
        corrected = p * frequency / before
        corrected = corrected / corrected.sum(1, keepdim=True)
        frequency = corrected.mean(0)
    return corrected.argmax(1)


@solves(tasks.unseen_domain)
def light_removed(x, y, domain):
    """The domains differ by a plane of light: fit one to each image, and take it away, wherever it comes from."""
    axis = torch.linspace(-1, 1, 8)
    plane = torch.stack([torch.ones(64), axis.repeat_interleave(8), axis.repeat(8)], 1)
    basis = torch.linalg.qr(plane).Q  # (64, 3)

    def flat(v):
        return v - v @ basis @ basis.T

    model = train_network(mlp(64, 64, 10), flat(x), y)
    return lambda images: model(flat(images)).argmax(1)


@solves(tasks.unpaired_translation)
def optimal_transport(a, b, new):
    """The linear map that takes the mean and covariance of a to those of b with the least effort."""

    a, b, new = a.double(), b.double(), new.double()  # the smallest variances are of 1e-7

    def root(m, power):
        values, vectors = torch.linalg.eigh(m)
        return vectors @ torch.diag(values.clamp(min=1e-9) ** power) @ vectors.T

    def covariance(v):
        return v.T.cov() + 1e-6 * torch.eye(64)

    ca, cb = covariance(a), covariance(b)
    half, inverse = root(ca, 0.5), root(ca, -0.5)
    return (new - a.mean(0)) @ (inverse @ root(half @ cb @ half, 0.5) @ inverse) + b.mean(0)


@solves(tasks.worst_group)
def groups_alike(x, y, a):
    """Every group counts the same, and large weights cost: what is rare must not be learnt by heart."""
    group = 2 * y + a
    weight = 1 / group.bincount()[group].float()
    model = nn.Linear(22, 2)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(300):
        loss = (weight * F.cross_entropy(model(x), y, reduction="none")).sum() / weight.sum()
        optimiser.zero_grad()
        (loss + 0.03 * model.weight.square().sum()).backward()
        optimiser.step()
    return lambda new: model(new).argmax(1)


@solves(tasks.unknown_groups)
def twice(x, y):
    """Train twice: what the first classifier gets wrong stands for the rare groups, and weighs more the second time."""
    first = nn.Linear(22, 2)
    optimiser = torch.optim.Adam(first.parameters(), lr=1e-2)
    for _ in range(300):
        loss = F.cross_entropy(first(x), y) + 0.03 * first.weight.square().sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    wrong = first(x).argmax(1) != y
    weight = torch.where(wrong, len(x) / 2 / wrong.sum(), len(x) / 2 / (~wrong).sum())
    second = train_network(nn.Linear(22, 2), x, y, weight)
    return lambda new: second(new).argmax(1)


@solves(tasks.few_passes)
def by_matrix_products(z, mean, log_var):
    """An exponent is a quadratic in z: z², z and 1 times what belongs to the posterior. A product of matrices writes it in one pass."""
    precision = (-log_var).exp()
    constant = mean.square() * precision + log_var + math.log(2 * math.pi)
    posterior = -0.5 * torch.stack([precision, -2 * mean * precision, constant])  # (3, N, D)
    code = torch.stack([z.square(), z, torch.ones_like(z)])  # (3, B, D)
    each = torch.bmm(code.permute(2, 1, 0), posterior.permute(2, 0, 1))  # (D, B, N)
    joint = code.permute(1, 0, 2).flatten(1) @ posterior.permute(1, 0, 2).flatten(1).T  # (B, N)
    return torch.cat([joint.logsumexp(1)[None], each.logsumexp(2)]).T - math.log(len(mean))


@solves(tasks.small_blocks)
def eight_rows(B, N):
    """Eight rows share the sectors of a column. They do not fit at once, so a first pass keeps top and total, and a second one writes."""

    def softmax_kernel(x, out, B, N, ROWS: tl.constexpr, BLOCK: tl.constexpr):
        row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
        top = tl.full([ROWS], float("-inf"), tl.float32)
        total = tl.zeros([ROWS], tl.float32)
        for first in range(0, N, BLOCK):
            column = first + tl.arange(0, BLOCK)
            inside = (row < B)[:, None] & (column < N)[None, :]
            values = tl.load(x + row[:, None] + column[None, :] * B, mask=inside, other=float("-inf"))
            higher = tl.maximum(top, tl.max(values, 1))
            total = total * tl.exp(top - higher) + tl.sum(tl.exp(values - higher[:, None]), 1)
            top = higher
        for first in range(0, N, BLOCK):
            column = first + tl.arange(0, BLOCK)
            inside = (row < B)[:, None] & (column < N)[None, :]
            values = tl.load(x + row[:, None] + column[None, :] * B, mask=inside, other=float("-inf"))
            share = tl.exp(values - top[:, None]) / total[:, None]
            tl.store(out + row[:, None] * N + column[None, :], share, mask=inside)

    return softmax_kernel, -(-B // 8), {"ROWS": 8, "BLOCK": 256}


@solves(tasks.gaussian_in_time)
def two_moments(x):
    """White data are a rotation of the sources; the covariance of neighbours in time turns with it, and is diagonal for the sources alone."""
    x = x - x.mean(0)
    values, vectors = torch.linalg.eigh(x.T.cov())
    z = x @ vectors / values.sqrt()
    lagged = z[1:].T @ z[:-1] / len(z)
    return z @ torch.linalg.eigh((lagged + lagged.T) / 2).eigenvectors


@solves(tasks.erased_for_mlp)
def meet_halfway(x, a):
    """Each Gaussian group moves, by the linear map of optimal transport, to the Gaussian that lies between the two."""

    def root(m):
        values, vectors = torch.linalg.eigh(m)
        return vectors @ torch.diag(values.sqrt()) @ vectors.T

    groups = [x[a == k] for k in (0, 1)]
    covariances, middle = [group.T.cov() for group in groups], sum(group.mean(0) for group in groups) / 2
    between = sum(covariances) / 2
    for _ in range(20):  # the fixed point that is as far from one group as from the other
        half = root(between)
        inverse = torch.linalg.inv(half)
        spread = sum(root(half @ c @ half) for c in covariances) / 2
        between = inverse @ spread @ spread @ inverse
    z = torch.empty_like(x)
    for k, (group, c) in enumerate(zip(groups, covariances, strict=True)):
        half = root(c)
        inverse = torch.linalg.inv(half)
        z[a == k] = middle + (group - group.mean(0)) @ (inverse @ root(half @ between @ half) @ inverse)
    return z
