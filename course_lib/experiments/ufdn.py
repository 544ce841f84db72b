"""Experiments of lesson 06: digit domains, the training of a UFDN, and probes of what its latent knows.

Images are 16×16, and z has 32 latents.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib import checkpoints
from course_lib.datasets.digits import digits
from course_lib.exercise import needs
from course_lib.lessons import elbo
from course_lib.lessons.ufdn import Players, attach_domain_code, gradient_penalty, ufdn_step
from course_lib.training import descend, fit, fit_classifier, seeded

# ------------------------------------------------------------------ networks and data

SIZE, LATENTS, HIDDEN = 16, 32, 128
BATCH = 16  # of each domain
CLASSES = 10
DOMAINS = ("mnist_m", "mnist", "optdigits")  # the first one is labelled: the source
SEEN = ("mnist_m", "mnist", "synth")  # the domains that generalisation learns from
UNSEEN = "optdigits"  # the domain that it is tested on


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
    label: str = "UFDN",
) -> Trained:
    """Train on all images, and on the digits of the first `labelled` domains only.

    With confusion_weight 0 there is no game.

    The model's learning rate falls in the second half, so that the critic can catch up in the end.
    """
    device, k = domains[0][0].device, len(domains)
    with seeded(seed):
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

    history = fit(step, steps, label=f"{label}, seed {seed}")
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
    probe = fit_classifier(
        z[:, :half].flatten(0, 1), labels, len(domains), seed=seed, label=f"domain probe, seed {seed}"
    )
    return accuracy(probe, z[:, half:].flatten(0, 1), labels)


def digit_probe(model: UFDN, domains: list[Labelled], tests: list[Labelled], seed: int = 0) -> list[float]:
    """How often a fresh classifier tells the digit from z (means), on the test images of each domain.

    It is given the digits of all domains: it shows what z holds, not what a method without labels can reach.
    """
    z, y = torch.cat([encode(model, x) for x, _ in domains]), torch.cat([y for _, y in domains])
    probe = fit_classifier(z, y, CLASSES, seed=seed, label=f"digit probe, seed {seed}")
    return [accuracy(probe, encode(model, x), y) for x, y in tests]


def train_reader(domain: Labelled, seed: int = 0, steps: int = 600, label: str = "reader") -> nn.Sequential:
    """A convolutional classifier of one domain's digits, images (B, 3, 16, 16) to logits, in eval mode: it judges translations."""
    x, y = domain
    generator = torch.Generator(x.device).manual_seed(seed)
    with seeded(seed):
        reader = nn.Sequential(
            *_normalised(nn.Conv2d(3, 24, 3, 1, 1), nn.BatchNorm2d(24)),
            *_normalised(nn.Conv2d(24, 48, 4, 2, 1), nn.BatchNorm2d(48)),
            *_normalised(nn.Conv2d(48, 96, 4, 2, 1), nn.BatchNorm2d(96)),
            nn.Flatten(),
            nn.Linear(96 * 16, CLASSES),
        ).to(x.device)
    optimiser = torch.optim.Adam(reader.parameters(), lr=2e-3, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda i: min(1.0, 2 * (1 - i / steps) + 0.02))

    def step(i: int) -> dict[str, Tensor]:
        rows = torch.randint(len(x), (64,), generator=generator, device=generator.device)
        loss = F.cross_entropy(reader(x[rows]), y[rows])
        descend(optimiser, loss)
        schedule.step()
        return {"loss": loss}

    fit(step, steps, label=label)
    return reader.eval()


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
        "source only": lambda: train(domains[:1], seed, steps, confusion_weight=0.0, label="source only"),
        "no confusion": lambda: train(domains, seed, steps, confusion_weight=0.0, label="no confusion"),
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
    needs(ufdn_step, attach_domain_code)
    y = torch.cat([labels for _, labels in seen])
    pixels = fit_classifier(
        torch.cat([x for x, _ in seen]), y, CLASSES, seed=seed, label=f"classifier of pixels, seed {seed}"
    )
    found = {"pixels": accuracy(pixels, *unseen)}
    for name, weight in (("pooled features", 0.0), ("invariant z", CONFUSION_WEIGHT)):
        model = train(seen, seed, steps, confusion_weight=weight, labelled=len(seen), label=name).model
        z = torch.cat([encode(model, x) for x, _ in seen])
        classifier = fit_classifier(z, y, CLASSES, seed=seed, label=f"classifier of {name}, seed {seed}")
        found[name] = accuracy(classifier, encode(model, unseen[0]), unseen[1])
    return found


def train_image_critic(
    real: Tensor, fake: Tensor, penalty_weight: float, seed: int = 0, steps: int = 150
) -> tuple[nn.Module, dict[str, Tensor]]:
    """A critic that scores real images high and fake ones low, and its history: the gap of its scores, and its slope.

    real, fake (N, 3, 16, 16). The slope is the mean norm of its gradient at random points between the two.
    """
    with seeded(seed):
        critic = make_image_critic().to(real.device)
    generator = torch.Generator(real.device).manual_seed(seed)
    optimiser = torch.optim.Adam(critic.parameters(), lr=1e-3, betas=(0.5, 0.9), fused=True)

    def step(i: int) -> dict[str, Tensor]:
        a, b = (x[torch.randint(len(x), (32,), generator=generator, device=x.device)] for x in (real, fake))
        mix = torch.rand(32, generator=generator, device=real.device)
        gap = critic(a).mean() - critic(b).mean()
        loss = -gap + penalty_weight * gradient_penalty(critic, a, b, mix)
        descend(optimiser, loss)
        return {"gap": gap, "slope": slope(critic, a, b, mix)}

    return critic, fit(step, steps, label=f"critic of images, penalty {penalty_weight:g}")


def slope(critic: nn.Module, real: Tensor, fake: Tensor, mix: Tensor) -> Tensor:
    """The mean norm of the critic's gradient at points between real and fake images, a scalar."""
    m = mix[:, None, None, None]
    between = (m * real + (1 - m) * fake).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(critic(between).sum(), between)
    return gradient.flatten(1).norm(dim=1).mean()


# ------------------------------------------------------------------ the checkpoint

STEPS, WIDTH, IMAGES, SEED = 8000, 32, 5000, 0
LONG_CONFUSION_WEIGHT = 20.0  # for STEPS steps: as little domain in z as with more, and fewer digits lost


def networks_of(trained: Trained) -> nn.ModuleDict:
    return nn.ModuleDict({"model": trained.model, "classifier": trained.classifier})


def load(device: torch.device | str = "cpu", folder: Path | None = None) -> tuple[Trained, dict]:
    """The checkpoint of `data/checkpoints/` in float32, and its card; no history and no critic was kept."""
    found = checkpoints.load("ufdn", device, build=_from_card, folder=folder)
    networks = found.network
    return Trained(networks["model"], nn.Identity(), networks["classifier"], {}), found.card


def _from_card(card: dict) -> nn.ModuleDict:
    return nn.ModuleDict({"model": UFDN(len(DOMAINS), WIDTH), "classifier": nn.Linear(LATENTS, CLASSES)})
