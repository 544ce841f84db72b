"""Lesson 06, UFDN: contracts, and the plain loops that are given.

Conventions: natural logarithms (nats); squared errors are summed over pixels, KLs over latents, and both averaged over
the batch. A domain is a one-hot code (K,), a mixture of domains a convex combination of them. The feature critic has K
outputs, the logits of the domains.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from course_lib.exercise import exercise
from course_lib.exercise.probe import Ear, TinyEncoder, check_report, count_steps, flag, linear, number

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

    x, x_hat (B, …), images and their reconstructions; mean, log_var (B, D). The squared error is SUMMED over the
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
    model, ear = _TinyUFDN(encoder, decoder), Ear()
    last = critic_weight[:, :1].T.expand(code.shape[1], -1).cumsum(0)
    critic = nn.Sequential(ear, linear(critic_weight), nn.Tanh(), linear(last))
    optimisers = [torch.optim.SGD(m.parameters(), lr=0.05) for m in (model, critic)]
    steps = [count_steps(optimiser) for optimiser in optimisers]
    players = Players(model, critic, *optimisers)
    for part in noise:
        report = implementation(players, x, code, part, _tiny_task, kl_weight, confusion_weight)
        check_report(report, STEP_REPORT, x)
    return {
        **report,
        "encoder's weights after two steps": model.encoder.weight.detach(),
        "decoder's weights after two steps": model.decoder.weight.detach(),
        "critic's weights after two steps": critic[1].weight.detach(),
        "gradients that came back to z through the critic in two steps": number(ear.heard, x),
        "updates of the model in two steps": number(len(steps[0]), x),
        "updates of the critic in two steps": number(len(steps[1]), x),
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
        code=torch.eye(3)[torch.randint(3, (n,))],
        noise=torch.randn(2, n, 8),
        encoder=torch.randn(16, 64) / 8,
        decoder=torch.randn(64, 11) / 8,
        critic_weight=torch.randn(32, 8) / 4,
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
    1. The critic descends the cross-entropy of its logits with the true domains. No gradient of that reaches the model:
       the critic is given z detached.
    2. The model descends ufdn_vae_loss(x, decode(z, code), …) + confusion_weight · confusion_loss(critic(z)) +
       task_loss(z), a scalar that the caller adds. The critic is not updated here.

    Each update uses the gradients of its own loss alone: none from the step before, none from the other's loss.

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
    once = flag(encode.calls == decode.calls == 1, x)
    return {"result": result, "encode and decode are called once, on one batch": once}


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
    """Decode with tanh(z · decoder) + sin(code · code_weight); counts the calls."""
    decode = _Counted(lambda z, code: ((z @ decoder).tanh() + (code @ code_weight).sin())[:, None])
    result = implementation(decode, z, start, end, alphas)
    return {"result": result, "decode is called once, on one batch": flag(decode.calls == 1, z)}


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
) -> dict[str, Tensor]:
    """With a critic of one hidden layer; once more with one whose gradients are looked at."""
    own = weight.detach().clone().requires_grad_()

    def critic(x: Tensor, weight: Tensor) -> Tensor:
        return (x.flatten(1) @ weight + 0.5).tanh() @ head

    with torch.enable_grad():  # its speed is measured without
        result = implementation(lambda x: critic(x, weight), real, fake, mix)
        implementation(lambda x: critic(x, own), real, fake, mix)
    return {"result": result, "no gradient is left in the critic": flag(own.grad is None, real)}


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
