"""Lesson 06, UFDN: contracts, the plain loops that are given, and one representation for several domains.

Conventions: natural logarithms (nats); squared errors are summed over pixels, KLs over latents, and both averaged over
the batch. A domain is a one-hot code (K,), a mixture of domains a convex combination of them. The feature critic has K
outputs, the logits of the domains. Images are 16×16.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib.datasets.digits import digits
from course_lib.exercise import exercise
from course_lib.exercise.probe import TinyEncoder, check_report, linear, number, watch_gradients
from course_lib.files import data_folder
from course_lib.lessons import elbo
from course_lib.models import mlp
from course_lib.training import fit

# ------------------------------------------------------------------ plain loops, given


def attach_domain_code_loop(x: Tensor, code: Tensor) -> Tensor:
    """Append the code to one vector, or to one pixel, after the other."""
    rows = []
    for features, v in zip(x, code, strict=True):
        if features.ndim == 1:
            rows.append(torch.cat([features, v]))
            continue
        _, height, width = features.shape
        pixels = [torch.cat([features[:, i, j], v]) for i in range(height) for j in range(width)]
        rows.append(torch.stack(pixels, dim=1).unflatten(1, (height, width)))
    return torch.stack(rows)


def confusion_loss_loop(logits: Tensor) -> Tensor:
    """One example and one domain at a time: log-probabilities with the largest logit taken out, on the host."""
    total = torch.zeros(())
    for row in logits:
        shifted = row - row.max()
        log_total = shifted.exp().sum().log()
        for entry in shifted:
            total = total - (entry - log_total) / len(row)
    return total / len(logits)


def gradient_penalty_loop(
    critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, mix: Tensor
) -> Tensor:
    """A forward and a backward pass of the critic for each example."""
    penalties = []
    for a, b, m in zip(real.detach(), fake.detach(), mix.detach(), strict=True):
        between = (m * a + (1 - m) * b).requires_grad_()
        (slope,) = torch.autograd.grad(critic(between[None])[0], between, create_graph=True)
        penalties.append((slope.square().sum().sqrt() - 1) ** 2)
    return torch.stack(penalties).mean()


# ------------------------------------------------------------------ exercises: one decoder for all domains


@exercise(
    "Telling the decoder which domain",
    at_scale=lambda n: dict(x=torch.randn(n, 32, 4, 4), code=torch.randn(n, 3)),
    full_size=512,
    operations=60,
    plain=attach_domain_code_loop,
    timed_size=32,
)
def attach_domain_code(x: Tensor, code: Tensor) -> Tensor:
    """x with the domain code appended along axis 1: example b gets code b, in a map every pixel gets it.

    x (B, D) to (B, D + K), or a map x (B, C, H, W) to (B, C + K, H, W): the code's channels come last, and each is
    constant over the map. code (B, K), one-hot or a mixture. Differentiable in both.
    Liu et al. (2018), A Unified Feature Disentangler, https://arxiv.org/abs/1809.01361.
    """


@exercise(
    "What the encoder and the decoder minimise",
    at_scale=lambda n: dict(
        x=torch.rand(n, 3, 16, 16),
        x_hat=torch.rand(n, 3, 16, 16),
        mean=torch.randn(n, 32),
        log_var=torch.randn(n, 32),
        kl_weight=0.5,
    ),
    full_size=512,
)
def ufdn_vae_loss(x: Tensor, x_hat: Tensor, mean: Tensor, log_var: Tensor, kl_weight: float) -> Tensor:
    """(1/B) Σ_b [ Σ_i (x_bi − x̂_bi)² + kl_weight · KL(q(z|x_b) ‖ N(0, I)) ]. A scalar.

    x, x_hat: (B, …), images and their reconstructions; mean, log_var: (B, D). The squared error is SUMMED over the
    pixels and channels, the KL (nats) over the latents, and the sum of both is averaged over the batch. A mean over
    3 · 16 · 16 values instead would make the KL weigh 768 times as much. Use `elbo.gaussian_kl`.
    """


# ------------------------------------------------------------------ exercises: a latent without a domain


@exercise(
    "The encoder: no idea which domain",
    at_scale=lambda n: dict(logits=torch.randn(n, 3)),
    operations=60,
    plain=confusion_loss_loop,
    timed_size=256,
)
def confusion_loss(logits: Tensor) -> Tensor:
    """−(1/B) Σ_b (1/K) Σ_k log softmax(logits_b)_k: cross-entropy with the uniform distribution. A scalar in nats.

    logits (B, K), a critic's, for any number K ≥ 2 of domains. Its minimum is log K, where the critic says 1/K for every
    domain. Nothing about the true domain enters. Finite for logits of any size.
    Tzeng et al. (2015), https://arxiv.org/abs/1510.02192.
    """


class Players(NamedTuple):
    """The two networks of the game, and an optimiser for each."""

    model: nn.Module  # encode(x) gives mean and log_var, (B, D) each; decode(z, code) gives images
    critic: nn.Module  # z (B, D) to the logits of the domains (B, K)
    model_optimiser: torch.optim.Optimizer
    critic_optimiser: torch.optim.Optimizer


class _TinyUFDN(TinyEncoder):
    """Linear encoder (2D, P) and decoder (P, D + K) with given weights."""

    def decode(self, z: Tensor, code: Tensor) -> Tensor:
        return self.decoder(torch.cat([z, code], dim=1))


STEP_REPORT = ("critic loss", "VAE loss", "confusion", "task loss")


def _probe_step(
    implementation: Callable,
    x: Tensor,
    code: Tensor,
    noise: Tensor,
    encoder: Tensor,
    decoder: Tensor,
    critic_weight: Tensor,
    kl_weight: float,
    confusion_weight: float,
) -> dict:
    """Two steps of plain gradient descent on tiny networks: what is reported, the weights, and what leaked."""
    model = _TinyUFDN(encoder, decoder)
    critic = nn.Sequential(
        linear(critic_weight), nn.Tanh(), linear(critic_weight[:, :1].T.expand(code.shape[1], -1).cumsum(0))
    )
    optimisers = [torch.optim.SGD(m.parameters(), lr=0.05) for m in (model, critic)]
    leaks = watch_gradients(model, optimisers[1], x)
    players = Players(model, critic, *optimisers)
    for part in noise:
        report = implementation(players, x, code, part, _tiny_task, kl_weight, confusion_weight)
    check_report(report, STEP_REPORT)
    return {
        **report,
        "encoder's weights after two steps": model.encoder.weight.detach(),
        "decoder's weights after two steps": model.decoder.weight.detach(),
        "critic's weights after two steps": critic[0].weight.detach(),
        "gradients in the model while the critic is updated": sum(
            leaks, torch.zeros((), device=x.device)
        ).detach(),
        "the critic's updates in two steps": number(len(leaks), x),
    }


def _tiny_task(z: Tensor) -> Tensor:
    return (z[:, 0] - 1).square().mean()


@exercise(
    "One step of the game",
    points=3,
    gradients=False,
    probe=_probe_step,
    at_scale=lambda n: dict(
        x=torch.rand(n, 64),
        code=torch.rand(n, 3),
        noise=torch.randn(2, n, 8),
        encoder=torch.randn(16, 64),
        decoder=torch.randn(64, 11),
        critic_weight=torch.randn(32, 8),
        kl_weight=0.5,
        confusion_weight=2.0,
    ),
    full_size=256,
)
def ufdn_step(
    players: Players,
    x: Tensor,
    code: Tensor,
    noise: Tensor,
    task_loss: Callable[[Tensor], Tensor],
    kl_weight: float,
    confusion_weight: float,
) -> dict[str, Tensor]:
    """One update of the critic of domains, then one of encoder and decoder against the updated critic.

    z = μ + σ ε, ε = noise (B, D); x (B, …); code (B, K), the one-hot domain of each image.
    1. The critic descends the cross-entropy of its logits critic(z) with the true domains. Nothing reaches the model:
       its gradients, cleared to None, are still None while the critic steps.
    2. The model descends ufdn_vae_loss(x, decode(z, code), …) + confusion_weight · confusion_loss(critic(z)) +
       task_loss(z), a scalar that the caller adds. The critic is not updated here, and its next update starts from
       cleared gradients.

    players: model, critic, model_optimiser, critic_optimiser, in this order and under these names. Returns {"critic
    loss", "VAE loss", "confusion", "task loss"}: detached scalars before their weights, each from before the update it
    is used for.
    """


# ------------------------------------------------------------------ exercises: moving between domains


class _Counted:
    """Calls a function and counts how often."""

    def __init__(self, function: Callable):
        self.function, self.calls = function, 0

    def __call__(self, *args: Tensor) -> Tensor:
        self.calls += 1
        return self.function(*args)


def _probe_translate(
    implementation: Callable, x: Tensor, encoder: Tensor, decoder: Tensor, code_weight: Tensor
) -> dict:
    """With linear maps: z = x · encoder, and an image is tanh(z · decoder) times one plus code · code_weight."""
    encode = _Counted(lambda x: ((x.flatten(1) @ encoder), (x.flatten(1) @ encoder).sin()))
    decode = _Counted(lambda z, code: _tiny_decode(z, code, decoder, code_weight, x.shape[1:]))
    result = implementation(encode, decode, x, len(code_weight))
    calls = number(encode.calls + decode.calls, x)
    return {"result": result, "calls of encode and decode": calls}


def _tiny_decode(z: Tensor, code: Tensor, decoder: Tensor, code_weight: Tensor, shape: tuple) -> Tensor:
    return ((z @ decoder).tanh() * (1 + code @ code_weight)).unflatten(1, shape)


@exercise(
    "Every image in every domain",
    points=2,
    probe=_probe_translate,
    at_scale=lambda n: dict(
        x=torch.rand(n, 3, 8, 8),
        encoder=torch.randn(192, 16),
        decoder=torch.randn(16, 192),
        code_weight=torch.randn(3, 192),
    ),
    full_size=256,
)
def translate(
    encode: Callable[[Tensor], tuple[Tensor, Tensor]],
    decode: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    domains: int,
) -> Tensor:
    """Each image as each of the domains would show it, (B, K, …): result[b, k] = decode(μ(x_b), one-hot code k).

    x (B, …); encode(x) gives mean and log_var, (B, D); decode(z (N, D), code (N, K)) gives images (N, …); domains = K.
    z is the mean: no noise. One call of encode and one of decode, with all B · K pairs in a batch.
    """


def _probe_interpolate(
    implementation: Callable,
    z: Tensor,
    start: Tensor,
    end: Tensor,
    alphas: Tensor,
    decoder: Tensor,
    code_weight: Tensor,
) -> dict:
    """Decode with (z · decoder)·tanh + (code · code_weight)²; counts the calls."""
    decode = _Counted(lambda z, code: ((z @ decoder).tanh() + (code @ code_weight).square())[:, None])
    result = implementation(decode, z, start, end, alphas)
    return {"result": result, "calls of decode": number(decode.calls, z)}


@exercise(
    "Between two domains",
    probe=_probe_interpolate,
    at_scale=lambda n: dict(
        z=torch.randn(n, 16),
        start=torch.eye(3)[0],
        end=torch.eye(3)[1],
        alphas=torch.linspace(0, 1, 8),
        decoder=torch.randn(16, 64),
        code_weight=torch.randn(3, 64),
    ),
    full_size=256,
)
def interpolate_domains(
    decode: Callable[[Tensor, Tensor], Tensor], z: Tensor, start: Tensor, end: Tensor, alphas: Tensor
) -> Tensor:
    """Strips of images, (B, T, …): result[b, t] = decode(z_b, (1 − α_t) start + α_t end).

    The CODE moves, the latent stays: not a cross-fade of two images. start, end: codes (K,); alphas (T,), 0 is exactly
    start and 1 exactly end; z (B, D); decode(z (N, D), code (N, K)) gives images (N, …). All B · T in ONE call of decode.
    """


# ------------------------------------------------------------------ exercises: a critic of images


def _probe_penalty(
    implementation: Callable, real: Tensor, fake: Tensor, mix: Tensor, weight: Tensor, head: Tensor
) -> Tensor:
    with torch.enable_grad():  # its speed is measured without
        return implementation(lambda x: (x.flatten(1) @ weight).tanh() @ head, real, fake, mix)


@exercise(
    "A critic of images that is not too steep",
    points=2,
    probe=_probe_penalty,
    at_scale=lambda n: dict(
        real=torch.rand(n, 3, 16, 16),
        fake=torch.rand(n, 3, 16, 16),
        mix=torch.rand(n),
        weight=torch.randn(768, 16),
        head=torch.randn(16),
    ),
    full_size=256,
    plain=gradient_penalty_loop,
    timed_size=64,
)
def gradient_penalty(critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, mix: Tensor) -> Tensor:
    """(1/B) Σ_b (‖∇ critic(x̃_b)‖₂ − 1)² at points x̃_b = mix_b · real_b + (1 − mix_b) · fake_b. A scalar.

    critic: (B, …) to scores (B,), example by example (no batch norm). real, fake: (B, …); mix (B,) in [0, 1], one number
    for each pair. The norm is over ALL of an example's values. The gradient of the result reaches the critic's
    parameters (it is a second derivative) and neither real nor fake.
    Gulrajani et al. (2017), https://arxiv.org/abs/1704.00028.
    """


# ------------------------------------------------------------------ networks and data

SIZE, LATENTS, HIDDEN = 16, 32, 128
BATCH = 16  # of each domain
CLASSES = 10
DOMAINS = ("mnist_m", "mnist", "optdigits")  # the first one is labelled: the source
UNSEEN = "optdigits"  # what generalisation is tested on,
SEEN = ("mnist_m", "mnist", "synth")  # and what it learns from


class UFDN(nn.Module):
    """An encoder for all domains, and a decoder that is told the domain: images (B, 3, 16, 16), latents (B, 32).

    The code is attached to the decoder's maps, not to z. What comes before is the same for all domains, so that a latent
    means the same content in each; only the last two layers turn it into the look of a domain.
    """

    def __init__(self, domains: int = 3, width: int = 24):
        super().__init__()
        self.domains = domains
        self.encoder = nn.Sequential(
            *_normalised(nn.Conv2d(3, width, 4, 2, 1), nn.BatchNorm2d(width)),
            *_normalised(nn.Conv2d(width, 2 * width, 4, 2, 1), nn.BatchNorm2d(2 * width)),
            nn.Flatten(),
            *_normalised(nn.Linear(32 * width, HIDDEN), nn.BatchNorm1d(HIDDEN)),
            nn.Linear(HIDDEN, 2 * LATENTS),
        )
        self.content = nn.Sequential(
            *_normalised(nn.Linear(LATENTS, HIDDEN), nn.BatchNorm1d(HIDDEN)),
            *_normalised(nn.Linear(HIDDEN, 32 * width), nn.BatchNorm1d(32 * width)),
            nn.Unflatten(1, (2 * width, 4, 4)),
        )
        layer = nn.ConvTranspose2d(2 * width + domains, width, 4, 2, 1)
        self.look = nn.Sequential(*_normalised(layer, nn.BatchNorm2d(width)))
        self.last = nn.ConvTranspose2d(width + domains, 3, 4, 2, 1)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, 3, 16, 16) to the mean and log variance of q(z|x), (B, 32) each."""
        mean, log_var = self.encoder(x).chunk(2, dim=1)
        return mean, log_var

    def decode(self, z: Tensor, code: Tensor) -> Tensor:
        """z (B, 32) and domain code (B, K) to images (B, 3, 16, 16) in [0, 1]."""
        maps = self.look(attach_domain_code(self.content(z), code))  # (B, width, 8, 8)
        return self.last(attach_domain_code(maps, code)).sigmoid()


def _normalised(layer: nn.Module, norm: nn.Module) -> tuple[nn.Module, ...]:
    return layer, norm, nn.ReLU()


def make_critic(domains: int, width: int = 128) -> nn.Sequential:
    """z (B, 32) to the logits of the domains, (B, K)."""
    layers = [nn.Linear(LATENTS, width), nn.LeakyReLU(0.2), nn.Linear(width, width), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Linear(width, domains))


def make_image_critic(width: int = 16) -> nn.Sequential:
    """Images (B, 3, 16, 16) to scores (B,), without batch norm: each score belongs to one image."""
    layers = [nn.Conv2d(3, width, 4, 2, 1), nn.LeakyReLU(0.2)]
    layers += [nn.Conv2d(width, 2 * width, 4, 2, 1), nn.LeakyReLU(0.2), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(32 * width, 1), nn.Flatten(0))


Labelled = tuple[Tensor, Tensor]  # images (N, 3, 16, 16) and digits (N,)


def load_domains(
    names: tuple[str, ...] = DOMAINS, split: str = "train", n: int = 3000, device: torch.device | str = "cpu"
) -> list[Labelled]:
    """Up to n images (N, 3, 16, 16) of each domain, and their digits (N,).

    mnist_m is made of MNIST, so the two take their training digits from different halves: no pair of images shows one
    digit in two looks.
    """

    def load(name: str) -> Labelled:
        count = {"optdigits": None, "mnist": {"train": 5000 + n, "test": n}[split]}.get(name, n)
        x, y = digits(name, split, n=count, device=device)
        return F.avg_pool2d(x[-n:], 2), y[-n:]

    return [load(name) for name in names]


# ------------------------------------------------------------------ training

LR, KL_WEIGHT, CONFUSION_WEIGHT, TASK_WEIGHT = 2e-3, 1.0, 60.0, 40.0


@dataclass
class Trained:
    """A UFDN with its critic of domains and its classifier of digits, in eval mode, and the history of the losses."""

    model: UFDN
    critic: nn.Module
    classifier: nn.Module
    history: dict[str, Tensor]


def train(
    domains: list[Labelled],
    seed: int,
    steps: int = 750,
    *,
    confusion_weight: float = CONFUSION_WEIGHT,
    labelled: int = 1,
    width: int = 24,
) -> Trained:
    """Train on all images, and on the digits of the first `labelled` domains only.

    With confusion_weight 0 there is no game.

    The model's learning rate falls in the second half, so that the critic can catch up in the end.
    """
    torch.manual_seed(seed)
    device, k = domains[0][0].device, len(domains)
    model, critic = UFDN(k, width).to(device), make_critic(k).to(device)
    classifier = nn.Linear(LATENTS, CLASSES).to(device)
    generator = torch.Generator(device).manual_seed(seed)
    code = torch.eye(k, device=device)[:, None].expand(-1, BATCH, -1).flatten(0, 1)  # (K · BATCH, K)
    learn = {"lr": LR, "betas": (0.5, 0.99), "fused": True}
    optimiser = torch.optim.Adam([*model.parameters(), *classifier.parameters()], **learn)
    players = Players(model, critic, optimiser, torch.optim.Adam(critic.parameters(), **learn))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda i: min(1.0, 2 * (1 - i / steps) + 0.05))

    def step(i: int) -> dict[str, Tensor]:
        x, y = draw(domains, generator)
        noise = torch.randn(len(x), LATENTS, generator=generator, device=device)

        def task_loss(z: Tensor) -> Tensor:
            known = labelled * BATCH
            return TASK_WEIGHT * F.cross_entropy(classifier(z[:known]), y[:known])

        report = ufdn_step(players, x, code, noise, task_loss, KL_WEIGHT, confusion_weight)
        schedule.step()
        return report

    history = fit(step, steps, label=f"seed {seed}")
    return Trained(model.eval(), critic.eval(), classifier.eval(), history)


def draw(domains: list[Labelled], generator: torch.Generator) -> Labelled:
    """A minibatch: BATCH images of each domain, one domain after the other, and their digits."""
    rows = [torch.randint(len(x), (BATCH,), generator=generator, device=generator.device) for x, _ in domains]
    parts = zip(domains, rows, strict=True)
    x, y = zip(*[(x[chosen], y[chosen]) for (x, y), chosen in parts], strict=True)
    return torch.cat(x), torch.cat(y)


@torch.no_grad()
def encode(model: UFDN, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Latents (N, 32) of all images: means, or with a generator one sample of q(z|x) each."""
    mean, log_var = (
        torch.cat(part) for part in zip(*[model.encode(part) for part in x.split(500)], strict=True)
    )
    if generator is None:
        return mean
    return elbo.reparameterise(
        mean, log_var, torch.randn(mean.shape, generator=generator, device=generator.device)
    )


# ------------------------------------------------------------------ measuring it


def fit_classifier(x: Tensor, y: Tensor, classes: int, seed: int = 0, steps: int = 300) -> nn.Module:
    """A fresh classifier of x (N, …), an MLP of one hidden layer, in eval mode."""
    torch.manual_seed(seed)
    x = x.detach().flatten(1)
    classifier = nn.Sequential(nn.Flatten(), mlp(x.shape[1], 128, classes)).to(x.device)
    optimiser = torch.optim.Adam(classifier.parameters(), lr=3e-3, fused=True)
    generator = torch.Generator(x.device).manual_seed(seed)

    def step(i: int) -> dict[str, Tensor]:
        rows = torch.randint(len(x), (128,), generator=generator, device=x.device)
        loss = F.cross_entropy(classifier(x[rows]), y[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return {"cross-entropy": loss}

    fit(step, steps, label="fresh classifier")
    return classifier.eval()


@torch.no_grad()
def accuracy(classifier: nn.Module, x: Tensor, y: Tensor) -> float:
    return (classifier(x).argmax(1) == y).float().mean().item()


def domain_probe(model: UFDN, domains: list[Labelled], seed: int = 0) -> float:
    """How often a fresh classifier tells the domain of a sample z, on images that it was not trained on; chance: 1/K.

    Equally many images of each domain: it learns on one half of them and is tested on the other.
    """
    device = domains[0][0].device
    generator = torch.Generator(device).manual_seed(seed)
    half = min(len(x) for x, _ in domains) // 2
    rows = [torch.randperm(len(x), generator=generator, device=device)[: 2 * half] for x, _ in domains]
    z = torch.stack(
        [encode(model, x[r], generator) for (x, _), r in zip(domains, rows, strict=True)]
    )  # (K, 2 · half, 32)
    labels = torch.arange(len(domains), device=device)[:, None].expand(-1, half).flatten()
    probe = fit_classifier(z[:, :half].flatten(0, 1), labels, len(domains), seed)
    return accuracy(probe, z[:, half:].flatten(0, 1), labels)


def digit_probe(model: UFDN, domains: list[Labelled], tests: list[Labelled], seed: int = 0) -> list[float]:
    """How often a fresh classifier tells the digit from z (means), on the test images of each domain.

    It is given the digits of all domains: it shows what z holds, not what a method without labels can reach.
    """
    z, y = torch.cat([encode(model, x) for x, _ in domains]), torch.cat([y for _, y in domains])
    probe = fit_classifier(z, y, CLASSES, seed)
    return [accuracy(probe, encode(model, x), y) for x, y in tests]


def target_accuracies(trained: Trained, tests: list[Labelled]) -> list[float]:
    """The accuracy on each domain's test images of the classifier on z that came out of the training."""
    return [accuracy(trained.classifier, encode(trained.model, x), y) for x, y in tests]


METHODS = ("source only", "no confusion", "UFDN")


def compare(domains: list[Labelled], tests: list[Labelled], seed: int, steps: int = 750) -> dict[str, dict]:
    """Adaptation from one seed: what each method knows of the domain, and how well it reads each domain's digits.

    "source only" sees nothing but the labelled source; "no confusion" has all images, and its critic is ignored.
    For each: the domain probe, the accuracy of its classifier and of the digit probe on each test set, the history.
    """
    runs = {
        "source only": lambda: train(domains[:1], seed, steps, confusion_weight=0.0),
        "no confusion": lambda: train(domains, seed, steps, confusion_weight=0.0),
        "UFDN": lambda: train(domains, seed, steps),
    }
    found = {}
    for method, run in runs.items():
        trained = run()
        found[method] = {
            "probe": domain_probe(trained.model, domains, seed),
            "accuracy": target_accuracies(trained, tests),
            "digit": digit_probe(trained.model, domains, tests, seed),
            "history": trained.history,
        }
    return found


def generalise(seen: list[Labelled], unseen: Labelled, seed: int, steps: int = 350) -> dict[str, float]:
    """Accuracy on a domain of which nothing was seen, not even an image, with the labels of all the others.

    Fresh classifiers on pixels, on z of a model without a critic (pooled features), on z of a UFDN; all trained alike.
    """
    y = torch.cat([labels for _, labels in seen])
    pixels = fit_classifier(torch.cat([x for x, _ in seen]), y, CLASSES, seed)
    found = {"pixels": accuracy(pixels, *unseen)}
    for name, weight in (("pooled features", 0.0), ("invariant z", CONFUSION_WEIGHT)):
        model = train(seen, seed, steps, confusion_weight=weight, labelled=len(seen)).model
        classifier = fit_classifier(torch.cat([encode(model, x) for x, _ in seen]), y, CLASSES, seed)
        found[name] = accuracy(classifier, encode(model, unseen[0]), unseen[1])
    return found


def train_image_critic(
    real: Tensor, fake: Tensor, penalty_weight: float, seed: int = 0, steps: int = 150
) -> tuple[nn.Module, dict[str, Tensor]]:
    """A critic that scores real images high and fake ones low, and its history: the gap of its scores, and its slope.

    real, fake: (N, 3, 16, 16). The slope is the mean norm of its gradient at random points between the two.
    """
    torch.manual_seed(seed)
    critic = make_image_critic().to(real.device)
    generator = torch.Generator(real.device).manual_seed(seed)
    optimiser = torch.optim.Adam(critic.parameters(), lr=1e-3, betas=(0.5, 0.9), fused=True)

    def step(i: int) -> dict[str, Tensor]:
        a, b = (x[torch.randint(len(x), (32,), generator=generator, device=x.device)] for x in (real, fake))
        mix = torch.rand(32, generator=generator, device=real.device)
        gap = critic(a).mean() - critic(b).mean()
        loss = -gap + penalty_weight * gradient_penalty(critic, a, b, mix)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return {"gap": gap, "slope": slope(critic, a, b, mix)}

    return critic, fit(step, steps, label="critic of images")


def slope(critic: nn.Module, real: Tensor, fake: Tensor, mix: Tensor) -> Tensor:
    """The mean norm of the critic's gradient at points between real and fake images, a scalar."""
    m = mix[:, None, None, None]
    between = (m * real + (1 - m) * fake).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(critic(between).sum(), between)
    return gradient.flatten(1).norm(dim=1).mean()


# ------------------------------------------------------------------ the checkpoint

STEPS, WIDTH, IMAGES, SEED = 8000, 32, 5000, 0
LONG_CONFUSION_WEIGHT = 20.0  # a long game gets as far with less, and loses fewer digits


def networks_of(trained: Trained) -> nn.ModuleDict:
    return nn.ModuleDict({"model": trained.model, "classifier": trained.classifier})


def load(folder: Path | None = None, device: torch.device | str = "cpu") -> Trained:
    """The checkpoint of `data/checkpoints/`, in float32; its history is empty, and its critic was not kept."""
    from safetensors.torch import load_file

    path = (folder or data_folder() / "checkpoints") / "ufdn.safetensors"
    if not path.exists():
        raise FileNotFoundError(
            f"No checkpoint at {path}. Reinstall the course, or run `course pretrain ufdn`."
        )
    model, classifier = UFDN(len(DOMAINS), WIDTH), nn.Linear(LATENTS, CLASSES)
    trained = Trained(model.eval(), nn.Identity(), classifier.eval(), {})
    networks = networks_of(trained)
    weights = load_file(path)
    networks.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in weights.items()})
    networks.to(device).requires_grad_(False)
    return trained


def card(folder: Path | None = None) -> dict:
    """The card of the checkpoint: settings, steps, seconds, measured metrics."""
    path = (folder or data_folder() / "checkpoints") / "ufdn.json"
    return json.loads(path.read_text(encoding="utf-8"))
