"""The challenges: two a lesson. Each judge draws its data from the seed, and knows a truth that the attempt does not see."""

from __future__ import annotations

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib import metrics
from course_lib.challenges.contest import Challenge, Unmet, challenge, expect
from course_lib.datasets.digits import digits
from course_lib.datasets.sprites import Sprites
from course_lib.exercise import kernels
from course_lib.exercise.kernels import tl
from course_lib.experiments import on_the_gpu, what_it_takes
from course_lib.experiments.why_disentangle import loans
from course_lib.lessons.on_the_gpu import DEVICES, LAUNCH
from course_lib.models import mlp

# ---------------------------------------------------------------- what several judges use


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@functools.cache
def small_digits(split: str) -> tuple[Tensor, Tensor]:
    """Handwriting at 8×8 pixels: images (N, 64) in [0, 1] and labels (N,); 1,297 to train, 500 to test."""
    images, labels = digits("optdigits", split, channels=1)
    return F.interpolate(images[..., 2:30, 2:30], size=8, mode="area").flatten(1), labels


def train_network(
    model: nn.Module, x: Tensor, y: Tensor, weight: Tensor | None = None, steps: int = 300
) -> nn.Module:
    """Adam on the cross-entropy of the whole batch (x, y), weighted by example where weights (N,) are given."""
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(steps):
        loss = F.cross_entropy(model(x), y, reduction="none")
        loss = loss.mean() if weight is None else (weight * loss).sum() / weight.sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model


def accuracy(predicted: Tensor, y: Tensor) -> float:
    return (predicted == y).float().mean().item()


# ---------------------------------------------------------------- 00


@challenge("00", "A fair decision", "accuracy", highest=True)
def fair_decision(attempt, seed):
    """attempt(x, a, y, new) -> decisions (M,), 0 or 1, on people whose group is not told.

    x (N, 6), group a (N,) and recorded y (N,) of 2,000 people, as in the lesson; new (M, 6), 2,000 others.
    Accuracy on the new people's records, at a demographic parity gap of at most 0.06 between their groups.
    """
    x, a, y = loans(4000, generator(seed))
    made = expect(attempt(x[:2000], a[:2000], y[:2000], x[2000:]), (2000,), "decisions").float()
    gap = abs(made[a[2000:] == 1].mean() - made[a[2000:] == 0].mean()).item()
    if gap > 0.06:
        raise Unmet(f"a gap of at most 0.06 was asked for; this has {gap:.3f}")
    return accuracy(made, y[2000:])


@fair_decision.baseline
def same_for_all(x, a, y, new):
    return torch.full((len(new),), y.float().mean().round())


@challenge("00", "Turn it back", "MIG", highest=True)
def turn_back(attempt, seed):
    """attempt(z) -> codes (N, 4): find the axes of a code that was rotated.

    Four independent factors, uniform, were rotated by an orthogonal matrix that nobody knows: z (2000, 4). The ELBO
    cannot see such a rotation (lesson 03). What is it in z that can? Scored by MIG against the factors.
    """
    g = generator(seed)
    v = torch.rand(2000, 4, generator=g)
    rotation = torch.linalg.qr(torch.randn(4, 4, generator=g)).Q
    codes = expect(attempt((v - 0.5) * math.sqrt(12) @ rotation), (2000, 4), "codes")
    return metrics.mutual_information_gap(codes, (10 * v).long())


@turn_back.baseline
def principal_axes(z):
    return z @ torch.linalg.eigh(z.T.cov()).eigenvectors


# ---------------------------------------------------------------- 01


@challenge("01", "How much is shared", "error in nats", highest=False)
def shared_information(attempt, seed):
    """attempt(x, y) -> I(x; y) in nats, a number, from 300 pairs x (300,), y (300,).

    Six pairs of variables, from independent to close; both were bent by increasing functions, which changes no
    information. Scored by the mean absolute error against the exact value.
    """
    g, errors = generator(seed), []
    for rho in (0.0, 0.3, 0.6, 0.8, 0.9, 0.97):
        x, noise = torch.randn(2, 300, generator=g)
        y = rho * x + math.sqrt(1 - rho**2) * noise
        errors.append(abs(float(attempt(x**3, y.exp())) + 0.5 * math.log(1 - rho**2)))
    return sum(errors) / len(errors)


@shared_information.baseline
def ten_bins(x, y):
    def binned(v):
        return ((v - v.min()) / (v.max() - v.min()) * 10).long().clamp(max=9)

    joint = (10 * binned(x) + binned(y)).bincount(minlength=100).view(10, 10) / len(x)
    return (
        torch.special.entr(joint.sum(0)).sum()
        + torch.special.entr(joint.sum(1)).sum()
        - torch.special.entr(joint).sum()
    ).item()


@challenge("01", "Repair the critic: three faults", "error in nats", highest=False, seconds=20)
def repair_critic(attempt, seed):
    """attempt(y, z) -> I(y; z) in nats, a number, by a critic trained on 4,000 pairs y (4000, 1), z (4000, 1).

    The baseline is a critic with three faults; it runs, and its number means nothing. Find them, and repair it.
    Scored by the absolute error at ρ = 0.9, where the truth is 0.83 nats.
    """
    y, noise = torch.randn(2, 4000, 1, generator=generator(seed))
    z = 0.9 * y + math.sqrt(1 - 0.9**2) * noise
    return abs(float(attempt(y, z)) + 0.5 * math.log(1 - 0.9**2))


@repair_critic.baseline
def broken_critic(y, z):
    critic = mlp(2, 64, 64, 1)
    optimiser = torch.optim.Adam(critic.parameters(), lr=3e-3)
    for _ in range(400):
        order = torch.randperm(len(y))
        joint, product = critic(torch.cat([y, z], 1)), critic(torch.cat([y[order], z[order]], 1))
        loss = F.binary_cross_entropy_with_logits(joint.sigmoid(), torch.ones_like(joint))
        loss = loss + F.binary_cross_entropy_with_logits(product.sigmoid(), torch.zeros_like(product))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        joint, product = critic(torch.cat([y, z], 1)), critic(torch.cat([y, z[torch.randperm(len(z))]], 1))
        return (joint.mean() - product.exp().mean()).item()


# ---------------------------------------------------------------- 02


@challenge("02", "Repair the VAE: three faults", "nats per image", highest=False, seconds=30)
def repair_vae(attempt, seed):
    """attempt(x) -> (encode, decode): train a VAE of digits at 8×8 pixels, x (1297, 64), black or white.

    encode(x) gives mean and log_var (B, D), D at most 10; decode(z) gives logits (B, 64). The baseline has three faults, none
    of which raises. Scored on 500 other images by the negative importance-weighted bound of 64 samples, which the judge computes.
    """
    encode, decode = attempt((small_digits("train")[0] > 0.5).float())
    x, g = (small_digits("test")[0] > 0.5).float(), generator(seed)
    with torch.no_grad():
        mean, log_var = encode(x)
        if mean.shape[1] > 10:
            raise Unmet(f"at most 10 latents were asked for; this has {mean.shape[1]}")
        noise = torch.randn(64, *mean.shape, generator=g)
        z = mean + (0.5 * log_var).exp() * noise  # (64, B, D)
        logits = expect(decode(z.flatten(0, 1)), (64 * len(x), 64), "decode(z)").view(64, len(x), 64)
        log_p = -F.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none").sum(-1)
        log_w = log_p + 0.5 * (noise**2 - z**2 + log_var).sum(-1)
        return -(log_w.logsumexp(0) - math.log(64)).mean().item()


@repair_vae.baseline
def broken_vae(x):
    encoder, decoder = mlp(64, 128, 20), mlp(10, 128, 64)
    optimiser = torch.optim.Adam(decoder.parameters(), lr=2e-3)
    for _ in range(1000):
        batch = x[torch.randint(len(x), (128,))]
        mean, log_var = encoder(batch).chunk(2, dim=1)
        z = mean + log_var.exp() * torch.randn_like(mean)
        reconstruction = F.binary_cross_entropy_with_logits(decoder(z), batch)
        kl = 0.5 * (mean**2 + log_var.exp() - log_var - 1).sum(1).mean()
        optimiser.zero_grad()
        (reconstruction + kl).backward()
        optimiser.step()
    return lambda x: encoder(x).chunk(2, dim=1), decoder


@challenge("02", "The tightest Gaussian", "nats", highest=False, seconds=20)
def tightest_gaussian(attempt, seed):
    """attempt(log_joint, B) -> mean and log_var (B, 2) of the Gaussian q(z|x_b) that makes the ELBO tightest, for every image.

    There is no encoder here, and no time to train one: log_joint(z), for z (…, B, 2), gives log p(x_b, z) (…, B) of 20 images
    under a decoder of two latents, and is differentiable. Scored by the mean gap log p(x) − ELBO, both from a grid.
    """
    g = generator(seed)
    w1, w2 = torch.randn(2, 16, generator=g), 1.2 * torch.randn(16, 24, generator=g)
    x = torch.bernoulli(((torch.randn(20, 2, generator=g) @ w1).tanh() @ w2).sigmoid(), generator=g)

    def log_joint(z: Tensor) -> Tensor:
        logits = (z @ w1).tanh() @ w2
        log_p = -F.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none").sum(-1)
        return log_p - 0.5 * (z**2).sum(-1) - math.log(2 * math.pi)

    mean, log_var = (expect(t, (20, 2), "mean and log_var") for t in attempt(log_joint, 20))
    axis = torch.linspace(-6, 6, 241)
    grid = torch.cartesian_prod(axis, axis)[:, None].expand(-1, 20, -1)  # (241², 20, 2)
    log_area = 2 * math.log(0.05)
    with torch.no_grad():
        log_p_x = log_joint(grid).logsumexp(0) + log_area
        noise = torch.randn(4096, 20, 2, generator=g)
        z = mean + (0.5 * log_var).exp() * noise
        log_q = -0.5 * (noise**2 + log_var + math.log(2 * math.pi)).sum(-1)
        return (log_p_x - (log_joint(z) - log_q).mean(0)).mean().item()


@tightest_gaussian.baseline
def the_prior(log_joint, images):
    return torch.zeros(images, 2), torch.zeros(images, 2)


# ---------------------------------------------------------------- 03


@challenge("03", "Total correlation from a batch", "error in nats", highest=False)
def batch_total_correlation(attempt, seed):
    """attempt(z, mean, log_var, n) -> the total correlation of q(z), in nats, a number, from 64 of n = 2,000 posteriors.

    z, mean, log_var (64, 4): samples and their own posteriors, which are sharp. Scored by the mean absolute error of 20 batches
    against the exact value over all 2,000.
    """
    g = generator(seed)
    mix = torch.eye(4) + 0.4 * torch.randn(4, 4, generator=g)
    mean = torch.randn(2000, 4, generator=g) @ mix
    log_var = -3 + 0.3 * torch.randn(2000, 4, generator=g)
    exact = metrics.total_correlation(mean, log_var, g)
    errors = []
    for rows in torch.randperm(2000, generator=g)[:1280].view(20, 64):
        z = mean[rows] + (0.5 * log_var[rows]).exp() * torch.randn(64, 4, generator=g)
        errors.append(abs(float(attempt(z, mean[rows], log_var[rows], 2000)) - exact))
    return sum(errors) / len(errors)


@batch_total_correlation.baseline
def weighted_sampling(z, mean, log_var, n):
    log_q = -0.5 * ((z[:, None] - mean) ** 2 / log_var.exp() + log_var + math.log(2 * math.pi))  # (M, M, D)
    log_size = math.log(n * len(z))
    joint = log_q.sum(2).logsumexp(1) - log_size
    return (joint - (log_q.logsumexp(1) - log_size).sum(1)).mean().item()


@functools.cache
def ellipses() -> Tensor:
    """All ellipses at 16×16 pixels, flat: scale, x and y vary."""
    sprites = Sprites(size=16, only={"shape": 1, "orientation": 0})
    return torch.cat([x for x, _ in sprites.batches(1024)]).flatten(1)


@challenge("03", "Independence at a price", "nats of total correlation", highest=False, seconds=60)
def cheap_independence(attempt, seed):
    """attempt(x, logits, mean, log_var, z, progress) -> a scalar to minimise: the loss of a VAE of 6,144 ellipses.

    x (B, 256), logits alike, mean, log_var and z (B, 6); progress goes from 0 to 1. The network, 1,200 steps of 128 and the optimiser
    are given. The lowest exact total correlation of q(z) at a reconstruction of at most 16 nats, both over all images.
    """
    x, g = ellipses(), generator(seed)
    encoder, decoder = mlp(256, 200, 12), mlp(6, 200, 256)
    optimiser = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=2e-3)
    for step in range(1200):
        batch = x[torch.randint(len(x), (128,), generator=g)]
        mean, log_var = encoder(batch).chunk(2, dim=1)
        z = mean + (0.5 * log_var).exp() * torch.randn(mean.shape, generator=g)
        loss = attempt(batch, decoder(z), mean, log_var, z, step / 1200)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        mean, log_var = encoder(x).chunk(2, dim=1)
        z = mean + (0.5 * log_var).exp() * torch.randn(mean.shape, generator=g)
        reconstruction = (
            F.binary_cross_entropy_with_logits(decoder(z), x, reduction="none").sum(1).mean().item()
        )
    if reconstruction > 16:
        raise Unmet(f"a reconstruction of at most 16 nats was asked for; this has {reconstruction:.1f}")
    return metrics.total_correlation(mean, log_var, g)


@cheap_independence.baseline
def beta_two(x, logits, mean, log_var, z, progress):
    reconstruction = F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(1)
    kl = 0.5 * (mean**2 + log_var.exp() - log_var - 1).sum(1)
    return (reconstruction + 2 * kl).mean()


# ---------------------------------------------------------------- 04


@challenge("04", "Two scores that disagree", "FactorVAE score − MIG", highest=True)
def fooled_score(attempt, seed):
    """attempt(v) -> codes (N, D), D at most 10: a code of three factors v (N, 3), floats in [0, 1], that one score loves and the other hates.

    A score that can be gamed is no proof. 1,000 points of a grid of ten values a factor; scored by the FactorVAE score minus MIG.
    """
    grid = torch.cartesian_prod(*[torch.arange(10)] * 3)
    codes = attempt(grid / 9)
    latents = codes.shape[-1]
    if latents > 10:
        raise Unmet(f"at most 10 latents were asked for; this has {latents}")
    codes = expect(codes, (1000, latents), "codes")
    g = generator(seed)
    sampler = metrics.GroupSampler(grid)
    votes = metrics.factor_vae_score(lambda rows: codes[rows], sampler, g, num_train=800, num_eval=800)
    return votes.eval_accuracy - metrics.mutual_information_gap(codes, grid)


@fooled_score.baseline
def quarter_turn(v):
    turned = torch.stack([v[:, 0] + v[:, 1], v[:, 0] - v[:, 1], v[:, 2]], 1)
    return 3 * turned


@challenge("04", "What no covariance sees", "error in nats", highest=False, seconds=20)
def hidden_dependence(attempt, seed):
    """attempt(z) -> the total correlation of z (3000, 2), in nats, a number.

    The points lie about a circle: uncorrelated, and far from independent. Scored by the absolute error against the exact value,
    from the density on a grid.
    """
    g = generator(seed)
    angle, radius = 2 * math.pi * torch.rand(3000, generator=g), 1 + 0.2 * torch.randn(3000, generator=g)
    z = torch.stack([radius * angle.cos(), radius * angle.sin()], 1)
    axis = torch.linspace(-2.5, 2.5, 800, dtype=torch.float64)  # an even number: the density is singular at 0
    r = (axis[:, None] ** 2 + axis**2).sqrt()
    density = (torch.exp(-0.5 * ((r - 1) / 0.2) ** 2) + torch.exp(-0.5 * ((r + 1) / 0.2) ** 2)) / r
    density = density / density.sum()
    marginal = density.sum(0)
    exact = (torch.special.entr(marginal).sum() * 2 - torch.special.entr(density).sum()).item()
    return abs(float(attempt(z)) - exact)


@hidden_dependence.baseline
def by_covariance(z):
    return -0.5 * torch.logdet(z.T.corrcoef()).item()


# ---------------------------------------------------------------- 05


def turned(images: Tensor, degrees: float) -> Tensor:
    """Images (N, 64) of 8×8 pixels, rotated about their middle."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    theta = torch.tensor([[c, -s, 0.0], [s, c, 0.0]]).expand(len(images), -1, -1)
    square = images.view(-1, 1, 8, 8)
    return F.grid_sample(
        square, F.affine_grid(theta, square.shape, align_corners=False), align_corners=False
    ).flatten(1)


@challenge("05", "A target without labels", "accuracy", highest=True, seconds=20)
def unlabelled_target(attempt, seed):
    """attempt(x, y, target) -> labels (M,) of the target's images.

    x (697, 64) and y (697,): digits at 8×8 pixels with their labels. target (600, 64): other digits, turned by 15° and in a weaker contrast,
    without labels. Scored by the accuracy on them.
    """
    images, labels = small_digits("train")
    order = torch.randperm(len(images), generator=generator(seed))
    source, rest = order[600:], order[:600]
    target = 0.2 + 0.5 * turned(images[rest], 15)
    return accuracy(expect(attempt(images[source], labels[source], target), (600,), "labels"), labels[rest])


@unlabelled_target.baseline
def source_only(x, y, target):
    return train_network(mlp(64, 64, 10), x, y)(target).argmax(1)


@challenge("05", "When the labels shift", "accuracy", highest=True, seconds=20)
def shifted_labels(attempt, seed):
    """attempt(x, y, target) -> labels (M,) of the target's images, where some digits are ten times as frequent as others.

    x (697, 64), y (697,): noisy digits, all equally frequent. target (M, 64): as noisy, but 0, 1 and 2 are ten times as frequent as the rest. The images of a digit look
    alike in both domains: only the frequencies differ, and nobody tells you which. Scored by the accuracy.
    """
    g = generator(seed)
    images, labels = small_digits("train")
    noisy = images + 0.6 * torch.randn(images.shape, generator=g)
    order = torch.randperm(len(images), generator=g)
    source, rest = order[600:], order[:600]
    kept = rest[(labels[rest] < 3) | (torch.rand(600, generator=g) < 0.1)]
    return accuracy(
        expect(attempt(noisy[source], labels[source], noisy[kept]), (len(kept),), "labels"), labels[kept]
    )


@shifted_labels.baseline
def as_if_equal(x, y, target):
    return train_network(nn.Linear(64, 10), x, y, steps=100)(target).argmax(1)


# ---------------------------------------------------------------- 06


def in_light(images: Tensor, degrees: float, strength: float) -> Tensor:
    """Images (N, 64) under a light that falls from one side: a plane is added to the pixels."""
    axis = torch.linspace(-1, 1, 8)
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return images + strength * (s * axis[:, None] + c * axis).flatten()


@challenge("06", "A domain that nobody has seen", "accuracy", highest=True, seconds=20)
def unseen_domain(attempt, seed):
    """attempt(x, y, domain) -> a function from images (M, 64) to their labels (M,).

    x (1297, 64), y (1297,): digits in three domains, domain (1297,) 0, 1 or 2: light falls from the left, from the right, or is even.
    The test: 500 other digits in a fourth domain, of which there is no image. Light falls from above, and is stronger. Scored by the accuracy there.
    """
    images, labels = small_digits("train")
    domain = torch.randint(3, (len(images),), generator=generator(seed))
    lit = torch.stack([in_light(images, d, s) for d, s in ((0, 0.8), (180, 0.8), (0, 0.0))])
    classify = attempt(lit[domain, torch.arange(len(images))], labels, domain)
    test, truth = small_digits("test")
    return accuracy(expect(classify(in_light(test, 90, 1.6)), (len(test),), "labels"), truth)


@unseen_domain.baseline
def all_together(x, y, domain):
    model = train_network(mlp(64, 64, 10), x, y)
    return lambda images: model(images).argmax(1)


@challenge("06", "Translation without pairs", "error (RMS)", highest=False, seconds=20)
def unpaired_translation(attempt, seed):
    """attempt(a, b, new) -> the images `new` (M, 64) as they would look in domain b.

    a (648, 64) and b (649, 64): different digits, sharp in a, blurred and paler in b; no image is in both. Scored on 500 other images by the root mean square
    error of a pixel against the truth, which the judge renders.
    """
    images, _ = small_digits("train")
    order = torch.randperm(len(images), generator=generator(seed))
    test = small_digits("test")[0]
    made = expect(
        attempt(images[order[:648]], blurred(images[order[648:]]), test), tuple(test.shape), "images"
    )
    return (made - blurred(test)).square().mean().sqrt().item()


def blurred(images: Tensor) -> Tensor:
    """Images (N, 64) out of focus, in a weaker contrast."""
    kernel = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
    square = F.conv2d(images.view(-1, 1, 8, 8), (kernel[:, None] * kernel)[None, None], padding=2)
    return 0.2 + 0.6 * square.flatten(1)


@unpaired_translation.baseline
def same_mean_and_spread(a, b, new):
    return (new - a.mean(0)) / (a.std(0) + 1e-3) * b.std(0) + b.mean(0)


# ---------------------------------------------------------------- 07


def with_background(n: int, agree: float, g: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Features (n, 22), label and background (n,), which agree in a share of the examples.

    Feature 0 tells the label and is noisy, feature 1 tells the background and is clear; twenty tell nothing.
    """
    y = torch.randint(2, (n,), generator=g)
    a = torch.where(torch.rand(n, generator=g) < agree, y, 1 - y)
    x = torch.randn(n, 22, generator=g)
    x[:, 0] += 2.4 * (y - 0.5)
    x[:, 1] = 4 * (a - 0.5) + 0.5 * x[:, 1]
    return x, y, a


def worst_accuracy(classify, seed: int) -> float:
    """The accuracy in the worst of the four groups, of 4,000 people in which label and background are independent."""
    x, y, a = with_background(4000, 0.5, generator(seed + 1000))
    right = expect(classify(x), (4000,), "labels") == y
    return min(right[(y == i) & (a == j)].float().mean().item() for i in (0, 1) for j in (0, 1))


@challenge("07", "The worst group", "accuracy in the worst group", highest=True, seconds=20)
def worst_group(attempt, seed):
    """attempt(x, y, a) -> a function from features (M, 22) to labels (M,), 0 or 1.

    x (2000, 22), label y and background a (2000,), which agree in 95 of 100. In the test they are independent: scored by the accuracy in the worst
    of the four groups.
    """
    return worst_accuracy(attempt(*with_background(2000, 0.95, generator(seed))), seed)


@worst_group.baseline
def average_loss(x, y, a):
    model = train_network(nn.Linear(22, 2), x, y)
    return lambda new: model(new).argmax(1)


@challenge("07", "The worst group, unknown", "accuracy in the worst group", highest=True, seconds=20)
def unknown_groups(attempt, seed):
    """attempt(x, y) -> a function from features (M, 22) to labels (M,), 0 or 1. As before, but nobody has noted the background.

    x (2000, 22), y (2000,). Scored by the accuracy in the worst of the four groups, where label and background are independent.
    """
    x, y, _ = with_background(2000, 0.95, generator(seed))
    return worst_accuracy(attempt(x, y), seed)


@unknown_groups.baseline
def average_loss_again(x, y):
    return average_loss(x, y, None)


# ---------------------------------------------------------------- 08


@challenge("08", "In few passes", "time on a T4 in ms, by its roofline", highest=False)
def few_passes(attempt, seed):
    """attempt(z, mean, log_var) -> log q(z) and all log q(z_d), (B, 1 + D) in nats, without a kernel of your own.

    z (B, D), mean and log_var (N, D), as in the lesson. Nothing runs on a GPU: for 4,096 codes and posteriors, every operation of PyTorch
    counts with what it reads, writes and computes (a logsumexp is one). The time is the least that a T4 needs for all of it. Where 256 of each
    are computed, no number may be off by more than 0.001 nats.
    """
    g = generator(seed)
    latents = int(torch.randint(8, 13, (), generator=g))
    mean, z = torch.randn(2, 256, latents, generator=g)
    log_var = -1 + 0.5 * torch.randn(256, latents, generator=g)
    exact = on_the_gpu.plain_log_aggregate_posterior(z.double(), mean.double(), log_var.double())
    off = (expect(attempt(z, mean, log_var), (256, 1 + latents), "log q") - exact).abs().max().item()
    if off > 1e-3:
        raise Unmet(f"at most 0.001 nats off was asked for; this is off by {off:.1e}")
    work = on_the_gpu.count(attempt, *torch.empty(3, 4096, latents, device="meta"))
    t4 = DEVICES["T4"]
    return 1000 * max(work.computing(t4) / t4.peak, work.moved / t4.bandwidth, work.launches * LAUNCH)


@few_passes.baseline
def one_by_one(z, mean, log_var):
    each = -0.5 * ((z[:, None] - mean) ** 2 * (-log_var).exp() + log_var + math.log(2 * math.pi))  # (B, N, D)
    return torch.cat([each.sum(2, keepdim=True), each], dim=2).logsumexp(1) - math.log(len(mean))


@challenge("08", "A softmax in small blocks", "traffic in bytes a number", highest=False, seconds=30)
def small_blocks(attempt, seed):
    """attempt(B, N) -> (kernel, programs, sizes): a Triton kernel of one launch that writes the softmax of each row of x.

    kernel(x, out, B, N, …): x is stored column by column, number (b, n) at x + b + n · B, out row by row, at out + b · N + n; sizes is a
    dict of constants with names in capitals. A program's memory on the chip is small: no load or store of more than 2,048 numbers. A T4 has 40 multiprocessors:
    at least 40 programs. B is a multiple of 8, about 360, and N between 1,100 and 2,000. It runs in the course's interpreter, on Linux. Scored by the
    bytes of all sectors of 32 that are touched, divided by B · N.
    """
    g = generator(seed)
    shape = (8 * int(torch.randint(41, 50, (), generator=g)), int(torch.randint(1100, 2000, (), generator=g)))
    kernel, programs, sizes = attempt(*shape)
    x = 20 * torch.randn(shape[::-1], generator=g).T
    given = dict(zip("BN", shape, strict=True)) | sizes
    out = torch.full(shape, math.nan)
    try:
        kernels.launch(kernel, programs, x=x.to("meta"), out=out.to("meta"), **given)  # does it compile?
        trace = kernels.launch(kernel, programs, x=x, out=out, **given)
    except kernels.KernelError as error:
        raise Unmet(str(error).rstrip(".")) from None
    if programs < 40:
        raise Unmet(f"at least 40 programs were asked for; this has {programs}")
    if trace.largest > 2048:
        raise Unmet(f"at most 2,048 numbers at a time were asked for; this moves {trace.largest:,}")
    off = (expect(out, shape, "out") - x.softmax(1)).abs().max().item()
    if off > 1e-5:
        raise Unmet(f"the softmax of each row was asked for; this is off by {off:.1e}")
    return trace.sectors / x.numel()


@small_blocks.baseline
def row_by_row(B, N):
    def softmax_kernel(x, out, B, N, BLOCK: tl.constexpr):
        row = tl.program_id(0)
        column = tl.arange(0, BLOCK)
        values = tl.load(x + row + column * B, mask=column < N, other=float("-inf"))
        powers = tl.exp(values - tl.max(values, 0))
        tl.store(out + row * N + column, powers / tl.sum(powers, 0), mask=column < N)

    return softmax_kernel, B, {"BLOCK": 2048}


# ---------------------------------------------------------------- 09


@challenge("09", "Gaussian, but in time", "mean correlation coefficient", highest=True)
def gaussian_in_time(attempt, seed):
    """attempt(x) -> sources (N, 6): undo a linear mixture of Gaussian sources.

    x (2000, 6), mixed by an invertible matrix, one row for each moment, in order. Every source is Gaussian, so no FastICA finds it; but each remembers its
    last value, one source for longer than another. Scored by the MCC with the sources.
    """
    g = generator(seed)
    memory = torch.linspace(-0.3, 0.95, 6)
    sources = torch.randn(2000, 6, generator=g)
    for t in range(1, 2000):
        sources[t] = memory * sources[t - 1] + (1 - memory**2).sqrt() * sources[t]
    mixing = torch.randn(6, 6, generator=g)
    found = expect(attempt(sources @ mixing.T), (2000, 6), "sources")
    scores = torch.cat([found, sources], 1).T.corrcoef()[:6, 6:].nan_to_num().abs()
    return scores[what_it_takes.best_matching(scores)].mean().item()


@gaussian_in_time.baseline
def white(x):
    x = x - x.mean(0)
    values, vectors = torch.linalg.eigh(x.T.cov())
    return x @ vectors / values.sqrt()


@challenge("09", "Erased for an MLP", "mean squared change", highest=False, seconds=20)
def erased_for_mlp(attempt, seed):
    """attempt(x, a) -> z (4000, 3): the features x (4000, 3) without a trace of the groups a (4000,), 0 or 1.

    The lesson's two groups: means and spreads differ. An MLP that learns from half of z must not tell more than 55 in 100 of the other half
    rightly. Scored by the mean of ‖z − x‖²: how far the features had to move.
    """
    x, a = what_it_takes.draw_groups(4000, generator(seed))
    z = expect(attempt(x, a), (4000, 3), "z")
    reader = train_network(mlp(3, 64, 2), z[:2000], a[:2000])
    right = accuracy(reader(z[2000:]).argmax(1), a[2000:])
    if right > 0.55:
        raise Unmet(f"at most 55 of 100 told rightly were asked for; the MLP tells {100 * right:.1f}")
    return (z - x).square().sum(1).mean().item()


@erased_for_mlp.baseline
def nothing_left(x, a):
    return x.mean(0).expand_as(x)


def all_tasks() -> list[Challenge]:
    """Every challenge, in the order of the notebook."""
    return [x for x in globals().values() if isinstance(x, Challenge)]
