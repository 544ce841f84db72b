"""Experiments of lesson 06: digit domains, the training of a UFDN, and probes of what its latent knows.

Images are S×S, 16×16 in what a notebook trains and 32×32 in the checkpoint; z has 32 latents.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib import checkpoints, files
from course_lib.datasets import digit_rendering
from course_lib.datasets.digits import digits
from course_lib.exercise import needs
from course_lib.lessons import elbo
from course_lib.lessons.ufdn import Players, attach_domain_code, gradient_penalty, translate, ufdn_step
from course_lib.training import descend, fit, fit_classifier, normal_like, seeded, whole_trainings

# ------------------------------------------------------------------ networks and data

LATENTS, HIDDEN = 32, 128
BATCH = 32  # of each domain
CLASSES = 10
DOMAINS = ("mnist", "mnist_m", "optdigits")
LABELLED = 2  # so many of them, the first, come with their digits
PAIR = ("mnist", "optdigits")  # the first one is labelled
SEEN = ("mnist", "mnist_m", "synth")  # the domains that generalisation learns from
UNSEEN = "optdigits"  # the domain that it is tested on


class UFDN(nn.Module):
    """An encoder for all domains, and a decoder that is told the domain: images (B, 3, S, S), latents (B, 32); S is 16 or 32.

    With code_at "maps" the code is attached to the maps of the decoder's convolutions: what comes before is the same for
    all domains, so that a latent means the same content in each. With "z" it is attached to z, as in the authors' code.
    """

    def __init__(self, domains: int = 3, width: int = 24, code_at: str = "maps", size: int = 16):
        super().__init__()
        self.at_z = code_at == "z"
        code = 0 if self.at_z else domains  # channels that it adds to each map
        channels = _channels(width, size)
        top = channels[-1]
        self.encoder = nn.Sequential(
            *(m for a, b in pairwise([3, *channels]) for m in _normalised(nn.Conv2d(a, b, 4, 2, 1))),
            nn.Flatten(),
            *_normalised(nn.Linear(16 * top, HIDDEN)),
            nn.Linear(HIDDEN, 2 * LATENTS),
        )
        self.content = nn.Sequential(
            *_normalised(nn.Linear(LATENTS + domains - code, HIDDEN)),
            *_normalised(nn.Linear(HIDDEN, 16 * top)),
            nn.Unflatten(1, (top, 4, 4)),
        )
        self.look = nn.ModuleList(
            nn.Sequential(*_normalised(nn.ConvTranspose2d(a + code, b, 4, 2, 1)))
            for a, b in pairwise(reversed(channels))
        )
        self.look.append(nn.ConvTranspose2d(width + code, 3, 4, 2, 1))

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, 3, S, S) to the mean and log variance of q(z|x), (B, 32) each."""
        mean, log_var = self.encoder(x).chunk(2, dim=1)
        return mean, log_var

    def decode(self, z: Tensor, code: Tensor) -> Tensor:
        """z (B, 32) and domain code (B, K) to images (B, 3, S, S) in [0, 1]."""
        maps = self.content(attach_domain_code(z, code) if self.at_z else z)  # (B, C, 4, 4)
        for layer in self.look:  # each doubles height and width
            maps = layer(maps if self.at_z else attach_domain_code(maps, code))
        return maps.sigmoid()


def _channels(width: int, size: int) -> list[int]:
    """Of the maps of half the size, a quarter of it and so on, down to 4×4."""
    return [width * 2**i for i in range(size.bit_length() - 3)]


def _normalised(layer: nn.Module) -> tuple[nn.Module, ...]:
    """The layer, batch norm of what comes out, and a ReLU."""
    if isinstance(layer, nn.Linear):
        return layer, nn.BatchNorm1d(layer.out_features), nn.ReLU()
    return layer, nn.BatchNorm2d(layer.out_channels), nn.ReLU()


def make_critic(domains: int) -> nn.Sequential:
    """z (B, 32) to the logits of the domains, (B, K)."""
    layers = [nn.Linear(LATENTS, 128), nn.LeakyReLU(0.2), nn.Linear(128, 128), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Linear(128, domains))


class ImageCritic(nn.Module):
    """Images (B, 3, S, S) to scores (B,), high for real ones, and by a second head to the logits of the domains (B, K).

    Without batch norm: each score belongs to one image.
    """

    def __init__(self, domains: int, size: int = 16):
        super().__init__()
        channels = [3, *_channels(16, size)]
        layers = [m for a, b in pairwise(channels) for m in (nn.Conv2d(a, b, 4, 2, 1), nn.LeakyReLU(0.2))]
        self.body = nn.Sequential(*layers, nn.Flatten())
        self.score, self.domain = nn.Linear(16 * channels[-1], 1), nn.Linear(16 * channels[-1], domains)

    def forward(self, x: Tensor) -> Tensor:
        return self.score(self.body(x)).flatten()


Labelled = tuple[Tensor, Tensor]  # images (N, 3, S, S) and digits (N,)


def load_domains(
    names: tuple[str, ...] = DOMAINS,
    split: str = "train",
    n: int = 3000,
    device: torch.device | str = "cpu",
    size: int = 16,
    looks: int = 1,
) -> list[Labelled]:
    """Up to n images (N, 3, size, size) of each domain, and their digits (N,).

    mnist_m is made of MNIST, so the two take their training digits from different halves: no pair of images shows one
    digit in two looks.

    looks   the number of backgrounds of each training digit of mnist_m: it has so many times n images
    """

    def load(name: str) -> Labelled:
        count = {"optdigits": None, "mnist": {"train": 5000 + n, "test": n}[split]}.get(name, n)
        x, y = digits(name, split, n=count, device=device)
        x, y = x[-n:], y[-n:]
        if name == "mnist_m" and looks > 1:
            grey = digits("mnist", split, n=n, channels=1, device=device)[0]
            draws = (torch.Generator().manual_seed(100 + i) for i in range(looks - 1))
            x = torch.cat([x, *(digit_rendering.blend(grey, generator) for generator in draws)])
            y = y.repeat(looks)
        return F.avg_pool2d(x, x.shape[-1] // size), y

    return [load(name) for name in names]


def distort(x: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Each image (B, 3, S, S) rotated, sheared, scaled along both axes and shifted at random; its border goes on outside.

    With strength 1 by up to 15 degrees, .2, a factor of e^.3 and 6 % of its width; on the generator's device.
    """

    def draw(bound: float, *shape: int) -> Tensor:
        draws = torch.rand(len(x), *shape, generator=generator, device=generator.device)
        return (2 * draws - 1) * bound * strength

    angle, shear = draw(math.pi / 12), draw(0.2)
    scale, shift = draw(0.3, 2).exp(), draw(0.12, 2)  # half of the width is 1
    across = torch.stack([angle.cos(), shear - angle.sin()], 1) * scale[:, :1]
    down = torch.stack([angle.sin(), angle.cos()], 1) * scale[:, 1:]
    theta = torch.cat([torch.stack([across, down], 1), shift[:, :, None]], 2)  # (B, 2, 3)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


# ------------------------------------------------------------------ training

LR, PENALTY_WEIGHT = 2e-3, 10.0
SURE, NEW = 0.8, 0.1  # of `guess`: the share of votes from which on it is sure, and the weight of a new vote


@dataclass(frozen=True)
class Recipe:
    """How one UFDN is trained: weights of its losses beside the squared error, which is summed over an image.

    looks  the number of backgrounds of each of mnist_m's digits, see `load_domains`.
    distort strength of the distortion of images that are classified beside the images as they are. 0: none are.
    own    of the cross-entropy of unlabelled images with the classifier's own sure guesses, see `guess`; from `own_from` of the
           steps on. This is self-training. No guess is sure before its image was drawn some 15 times.
    read   of the cross-entropy of translations into a labelled domain: a reader of its digits, which was trained before and
           stays as it is, shall read the digit that was translated. Where that is unknown, its own guess is taken as above.
           From `read_from` of the steps on.
    keep   of the cross-entropy of the digits of translated images that are encoded again. Only labelled images are
           translated for it, so that no other domain's label is used.
    image  of the image critic's score of translated images, and of the cross-entropy of its domain head. 0: no such critic.
    target of the confusion: "uniform", or "inverted", 1 − v divided by its sum. The authors' code has 1 − v.
    """

    steps: int = 400
    size: int = 16  # pixels
    looks: int = 1
    width: int = 24
    labelled: int = LABELLED
    kl: float = 2.0
    confusion: float = 150.0  # 0: no game
    task: float = 200.0
    distort: float = 0.0
    own: float = 0.0
    own_from: float = 0.4
    read: float = 0.0
    read_from: float = 0.8
    keep: float = 0.0
    image: float = 0.0
    target: str = "uniform"
    code_at: str = "maps"
    lr: float = LR  # of the model and its classifier
    critic_lr: float = LR  # of the critic of domains

    def __post_init__(self):
        for name, known in (("target", ("uniform", "inverted")), ("code_at", ("maps", "z"))):
            if (value := getattr(self, name)) not in known:
                raise ValueError(f"{name}: expected one of {', '.join(known)}, got {value!r}")


LIVE = Recipe()


@dataclass
class Trained:
    """A UFDN with its critic of domains and its classifier of digits, in eval mode, and the history of the losses."""

    model: UFDN
    critic: nn.Module
    classifier: nn.Module
    history: dict[str, Tensor]


def train(domains: list[Labelled], seed: int, recipe: Recipe, label: str = "UFDN") -> Trained:
    """Train on the images of all domains, and on the digits of the first `recipe.labelled` of them.

    The model's learning rate falls in the second half, so that the critics can catch up in the end.
    """
    device, k = domains[0][0].device, len(domains)
    with seeded(seed):
        model = UFDN(k, recipe.width, recipe.code_at, recipe.size).to(device)
        critic = make_critic(k).to(device)
        classifier = nn.Linear(LATENTS, CLASSES).to(device)
        image_critic = ImageCritic(k, recipe.size).to(device)
    readers = training_readers(domains[: recipe.labelled]) if recipe.read else []
    generator = torch.Generator(device).manual_seed(seed)
    code = torch.eye(k, device=device)[:, None].expand(-1, BATCH, -1).flatten(0, 1)  # (K · BATCH, K)
    uniform = recipe.target == "uniform"
    learn = {"betas": (0.5, 0.99), "fused": True}
    optimiser = torch.optim.Adam([*model.parameters(), *classifier.parameters()], recipe.lr, **learn)
    critic_optimiser = torch.optim.Adam(critic.parameters(), recipe.critic_lr, **learn)
    players = Players(model, critic, optimiser, critic_optimiser)
    image_optimiser = torch.optim.Adam(image_critic.parameters(), LR, betas=(0.5, 0.9), fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda i: falling(i, recipe.steps))
    known = recipe.labelled * BATCH
    drawn, votes = numbered(domains, recipe.labelled)

    def step(i: int) -> dict[str, Tensor]:
        x, y = draw(drawn, generator)
        noise = torch.randn(len(x), LATENTS, generator=generator, device=device)

        def task_loss(z: Tensor) -> Tensor:
            logits = classifier(z)
            task = F.cross_entropy(logits[:known], y[:known])
            digit, trust = y[:known], torch.ones(known, device=device)
            if recipe.own:
                guessed, sure = guess(logits[known:].detach(), votes, y[known:])
                growing = min(1.0, max(0.0, (i / recipe.steps - recipe.own_from) / 0.1))
                digit, trust = torch.cat([digit, guessed]), torch.cat([trust, growing * sure])
            if recipe.distort:
                logits = classifier(model.encode(distort(x, recipe.distort, generator))[0])
                task = (task + F.cross_entropy(logits[:known], y[:known])) / 2
            loss = recipe.task * task
            if recipe.own:
                loss = loss + recipe.own * trusted(logits[known:], digit[known:], trust[known:])
            if not uniform:
                inverted = (1 - code) / (k - 1)
                loss = loss + recipe.confusion * F.cross_entropy(critic(z), inverted)
            if is_read(i) or recipe.keep or recipe.image:
                loss = loss + translation_loss(z, x, digit, trust, i)
            return loss

        weight = recipe.confusion if uniform else 0.0
        return ufdn_step(players, x, code, noise, task_loss, recipe.kl, weight)

    def is_read(i: int) -> bool:
        return recipe.read > 0 and i >= recipe.read_from * recipe.steps

    def translation_loss(z: Tensor, x: Tensor, digit: Tensor, trust: Tensor, i: int) -> Tensor:
        """Each image in the domain `shift` places further: its digit is kept, and it looks like that domain's images."""
        shift = 1 + i // 2 % (k - 1)
        others = code.roll(-shift * BATCH, 0)
        shown = model.decode(z, others)
        loss = z.new_zeros(())
        if is_read(i):
            loss = loss + recipe.read * reading_loss(readers, shown, digit, trust, shift)
        if recipe.keep:
            mean, _ = model.encode(shown[:known])
            loss = loss + recipe.keep * F.cross_entropy(classifier(mean), digit[:known])
        if recipe.image:
            if i % 2 == 0:
                real = x.roll(-shift * BATCH, 0)
                update_image_critic(image_critic, image_optimiser, real, shown.detach(), others, generator)
            features = image_critic.requires_grad_(False).body(shown)
            look = (
                F.cross_entropy(image_critic.domain(features), others) - image_critic.score(features).mean()
            )
            loss = loss + recipe.image * look
        return loss

    by_number = (
        recipe.own or recipe.read or recipe.keep or recipe.image
    )  # what a step does changes with its number
    history = fit(
        step,
        recipe.steps,
        label=f"{label}, seed {seed}",
        draws=None if by_number else generator,
        schedule=schedule,
    )
    return Trained(model.eval(), critic.eval(), classifier.eval(), history)


def numbered(domains: list[Labelled], labelled: int) -> tuple[list[Labelled], Tensor]:
    """The domains, where all but the first `labelled` have numbers for digits, and a vote (N, 10) on the digit of each number."""
    known, unknown = domains[:labelled], [x for x, _ in domains[labelled:]]
    sizes = [len(x) for x in unknown]
    votes = torch.full((sum(sizes), CLASSES), 1 / CLASSES, device=domains[0][0].device)
    numbers = torch.arange(len(votes), device=votes.device).split(sizes)
    return [*known, *zip(unknown, numbers, strict=True)], votes


def guess(logits: Tensor, votes: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """The digits (B,) that images most likely show, and where that is sure: 1 or 0, (B,).

    votes (N, 10), running means of a classifier's probabilities of each image, move on in `rows` (B,) by the new logits (B, 10):
    in a game a classifier errs now here, now there, and what it has said for long is mostly right (Laine and Aila, 2017,
    https://arxiv.org/abs/1610.02242). They start even; an image that is drawn twice votes once. They are divided by each
    digit's share of all votes, so that no digit swallows another.
    """
    votes[rows] = votes[rows].lerp(logits.softmax(1), NEW)
    p = votes[rows] / (CLASSES * votes.mean(0)).clamp(min=0.2)
    highest, digit = (p / p.sum(1, keepdim=True)).max(1)
    return digit, (highest > SURE).float()


def trusted(logits: Tensor, digit: Tensor, trust: Tensor) -> Tensor:
    """The mean over (B,) of cross-entropies, each times how far its digit is trusted."""
    return (trust * F.cross_entropy(logits, digit, reduction="none")).mean()


def reading_loss(readers: list[nn.Module], shown: Tensor, digit: Tensor, trust: Tensor, shift: int) -> Tensor:
    """The cross-entropies of images that were carried `shift` domains further, where a reader of that domain is given.

    shown (K · B, 3, S, S): one domain after the other. digit, trust (·,): of all domains, or the first, that have digits;
    readers: of the first domains, whose labels are known.
    """
    loss, k = shown.new_zeros(()), len(shown) // BATCH
    parts = zip(shown.split(BATCH), digit.split(BATCH), trust.split(BATCH), strict=False)
    for start, (images, *answer) in enumerate(parts):
        if (end := (start + shift) % k) < len(readers):
            loss = loss + trusted(readers[end](images), *answer)
    return loss


def update_image_critic(
    critic: ImageCritic,
    optimiser: torch.optim.Optimizer,
    real: Tensor,
    fake: Tensor,
    code: Tensor,
    generator: torch.Generator,
) -> None:
    """One step: real images (B, 3, S, S) of the domains `code` (B, K) score higher than `fake` ones, and are told apart."""
    critic.requires_grad_(True)
    mix = torch.rand(len(real), generator=generator, device=real.device)
    features = critic.body(real)
    gap = critic.score(features).mean() - critic(fake).mean()
    penalty = PENALTY_WEIGHT * gradient_penalty(critic, real, fake, mix)
    descend(optimiser, F.cross_entropy(critic.domain(features), code) - gap + penalty)


def falling(i: int, steps: int) -> float:
    """The factor of the learning rate: 1 in the first half, then along a line to nearly 0."""
    return min(1.0, 2 * (1 - i / steps) + 0.05)


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
    return elbo.reparameterise(mean, log_var, normal_like(mean, generator))


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


def make_reader(size: int = 16) -> nn.Sequential:
    """Images (B, 3, size, size) to the logits of the digits, by convolutions."""
    channels = [24, *(min(c, 96) for c in _channels(48, size))]
    return nn.Sequential(
        *_normalised(nn.Conv2d(3, 24, 3, 1, 1)),
        *(m for a, b in pairwise(channels) for m in _normalised(nn.Conv2d(a, b, 4, 2, 1))),
        nn.Flatten(),
        nn.Linear(96 * 16, CLASSES),
    )


def make_training_reader(size: int = 16) -> nn.Sequential:
    """A reader of another build, for `Recipe.read`: what a decoder learns to show it, a judge need not take for a digit."""
    channels = [3, *_channels(16, size)]
    layers = [
        m for a, b in pairwise(channels) for m in (*_normalised(nn.Conv2d(a, b, 5, 1, 2)), nn.MaxPool2d(2))
    ]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(16 * channels[-1], CLASSES))


READER_STEPS = 2000


def train_reader(
    domain: Labelled,
    steps: int | None = None,
    label: str = "reader",
    make: Callable[[int], nn.Module] = make_reader,
    seed: int = 0,
) -> nn.Module:
    """A classifier of one domain's digits, from its labels and images that are a little distorted, in eval mode: it judges translations."""
    (x, y), steps = domain, steps or READER_STEPS
    generator = torch.Generator(x.device).manual_seed(seed)
    with seeded(seed):
        reader = make(x.shape[-1]).to(x.device)
    optimiser = torch.optim.Adam(reader.parameters(), lr=2e-3, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda i: min(1.0, 2 * (1 - i / steps) + 0.02))

    def step(i: int) -> dict[str, Tensor]:
        rows = torch.randint(len(x), (64,), generator=generator, device=generator.device)
        loss = F.cross_entropy(reader(distort(x[rows], 0.4, generator)), y[rows])
        descend(optimiser, loss)
        return {"loss": loss}

    fit(step, steps, label=label, draws=generator, schedule=schedule)
    return reader.eval()


def training_readers(domains: list[Labelled]) -> list[nn.Module]:
    """A reader of each domain, which no training changes: those of `Recipe.read`."""
    readers = [
        train_reader(domain, READER_STEPS // 2, "reader for the training", make_training_reader, seed=1)
        for domain in domains
    ]
    return [reader.requires_grad_(False) for reader in readers]


def judging_readers(size: int, device: torch.device | str = "cpu") -> list[nn.Module]:
    """A reader of each of DOMAINS, from the digits of all their training images."""
    domains = load_domains(DOMAINS, "train", IMAGES, device, size, LARGE.looks)
    return [
        train_reader(domain, label=f"reader of {name}") for name, domain in zip(DOMAINS, domains, strict=True)
    ]


def target_accuracies(trained: Trained, tests: list[Labelled]) -> list[float]:
    """The accuracy on each domain's test images of the classifier on z that came out of the training."""
    return [accuracy(trained.classifier, encode(trained.model, x), y) for x, y in tests]


METHODS = ("source only", "no confusion", "UFDN")


def train_method(method: str, domains: list[Labelled], seed: int, recipe: Recipe) -> Trained:
    """One of METHODS: "source only" sees the labelled domains alone and translates nothing, "no confusion" all images, its critic is ignored."""
    if method not in METHODS:
        raise ValueError(f"method: expected one of {', '.join(METHODS)}, got {method!r}")
    if method == "source only":
        domains, recipe = domains[: recipe.labelled], replace(recipe, own=0.0, read=0.0)
    if method != "UFDN":
        recipe = replace(recipe, confusion=0.0)
    return train(domains, seed, recipe, label=method)


def compare(
    domains: list[Labelled], tests: list[Labelled], seed: int, recipe: Recipe = LIVE
) -> dict[str, dict]:
    """Adaptation from one seed: what each method knows of the domain, and how well it reads each domain's digits.

    For each of METHODS: the domain probe, the accuracy of its classifier and of the digit probe on each test set, the history.
    """
    needs(ufdn_step, attach_domain_code)
    found = {}
    for method in METHODS:
        trained = train_method(method, domains, seed, recipe)
        found[method] = {
            "probe": domain_probe(trained.model, domains, seed),
            "accuracy": target_accuracies(trained, tests),
            "digit": digit_probe(trained.model, domains, tests, seed),
            "history": trained.history,
        }
    return found


def train_supervised(domains: list[Labelled], seed: int, recipe: Recipe) -> Trained:
    """UFDN's encoder and classifier on the cross-entropy of all domains' digits alone: no decoder, no noise, no game."""
    device = domains[0][0].device
    with seeded(seed):
        model = UFDN(len(domains), recipe.width, size=recipe.size).to(device)
        classifier = nn.Linear(LATENTS, CLASSES).to(device)
    generator = torch.Generator(device).manual_seed(seed)
    parameters = [*model.encoder.parameters(), *classifier.parameters()]
    optimiser = torch.optim.Adam(parameters, recipe.lr, betas=(0.5, 0.99), fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda i: falling(i, recipe.steps))

    def step(i: int) -> dict[str, Tensor]:
        x, y = draw(domains, generator)
        loss = F.cross_entropy(classifier(model.encode(x)[0]), y)
        descend(optimiser, loss)
        return {"loss": loss}

    history = fit(step, recipe.steps, label=f"supervised, seed {seed}", draws=generator, schedule=schedule)
    return Trained(model.eval(), nn.Identity(), classifier.eval(), history)


@torch.no_grad()
def kept_digits(model: UFDN, tests: list[Labelled], readers: list[nn.Module]) -> Tensor:
    """(K, K): how often the reader of domain k reads the digit of an image of domain i that was translated to k."""
    kept = torch.zeros(len(tests), len(tests))
    for i, (x, y) in enumerate(tests):
        shown = torch.cat([translate(model.encode, model.decode, part, len(tests)) for part in x.split(500)])
        for k, reader in enumerate(readers):
            kept[i, k] = accuracy(reader, shown[:, k], y)
    return kept


def train_image_critic(
    real: Tensor, fake: Tensor, penalty_weight: float, steps: int = 150
) -> tuple[nn.Module, dict[str, Tensor]]:
    """A critic that scores real images high and fake ones low, and its history: the gap of its scores, and its slope.

    real, fake (N, 3, S, S). The slope is the mean norm of its gradient at random points between the two.
    """
    with seeded(0):
        critic = ImageCritic(1, real.shape[-1]).to(real.device)  # its head of domains is not used
    generator = torch.Generator(real.device).manual_seed(0)
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

IMAGES, SEED = 5000, 1
LONG = Recipe(steps=20_000, width=32, kl=1.0, confusion=120.0, target="inverted", critic_lr=4e-3)
VALUES = 3 * 16**2  # of an image: the authors' error is a mean over them
SMALL_KL = 1e-5 * VALUES  # the most that they give it
AUTHORS = replace(LONG, kl=SMALL_KL, confusion=0.1 * VALUES, code_at="z", lr=1e-4, critic_lr=1e-4)
# Of the checkpoint. Its error is a sum over four times as many pixels: what stands beside it weighs four times as much.
LARGE = replace(
    LONG,
    steps=3000,
    size=32,
    looks=8,
    kl=4.0,
    confusion=480.0,
    task=800.0,
    distort=1.0,
    own=800.0,
    read=400.0,
)


def networks_of(trained: Trained, readers: list[nn.Module]) -> nn.ModuleDict:
    return nn.ModuleDict(
        {"model": trained.model, "classifier": trained.classifier, "readers": nn.ModuleList(readers)}
    )


def load(
    device: torch.device | str = "cpu", folder: Path | None = None
) -> tuple[Trained, list[nn.Module], dict]:
    """The checkpoint of `data/checkpoints/` in float32, a reader of each domain, and the card; no history, no critic was kept."""
    found = checkpoints.load("ufdn", device, build=_from_card, folder=folder)
    networks = found.network
    trained = Trained(networks["model"], nn.Identity(), networks["classifier"], {})
    return trained, list(networks["readers"]), found.card


def _from_card(card: dict) -> nn.ModuleDict:
    width, size = (card["settings"][name] for name in ("width", "size"))
    untrained = Trained(UFDN(len(DOMAINS), width, size=size), nn.Identity(), nn.Linear(LATENTS, CLASSES), {})
    return networks_of(untrained, [make_reader(size) for _ in DOMAINS])


# ------------------------------------------------------------------ the table


@dataclass(frozen=True)
class Group:
    """What a row's models are trained on."""

    names: tuple[str, ...]
    recipe: Recipe
    seeds: int = 3


GROUPS = {
    "two": Group(PAIR, Recipe(steps=600, labelled=1)),
    "three": Group(DOMAINS, LIVE),
    "generalisation": Group(SEEN, replace(LONG, steps=3000, labelled=len(SEEN))),
    "long": Group(DOMAINS, LONG),
    "authors' settings": Group(DOMAINS, AUTHORS),
    "large": Group(DOMAINS, LARGE, seeds=5),
}
SEEDS = range(max(group.seeds for group in GROUPS.values()))
VARIANTS = {  # what differs from UFDN's recipe
    "UFDN": {},
    "inverted target": {"target": "inverted"},
    "code at z": {"code_at": "z"},
    "both": {"target": "inverted", "code_at": "z"},
    "small KL": {"kl": SMALL_KL},
    "image critic": {"image": 2.0},
    "digits kept": {"keep": 100.0},
    "digits kept, image critic": {"keep": 100.0, "image": 2.0},
}
RUNS = (
    *(("two", name) for name in ("source only", "UFDN", "inverted target", "code at z", "both")),
    *(("generalisation", name) for name in ("supervised", "no confusion", "UFDN")),
    *(("three", name) for name in ("source only", "no confusion", *VARIANTS)),
    ("long", "source only"),
    ("long", "UFDN"),
    ("authors' settings", "UFDN"),
    ("large", "source only"),
    ("large", "UFDN"),
)


@whole_trainings()
def write_table(
    table: Path,
    seeds: Iterable[int] = SEEDS,
    steps: int | None = None,
    device: torch.device | str = "cpu",
) -> None:
    """Train all RUNS, of each group's first seeds those in `seeds`, for the steps of their recipes or so many, and write a row each into the CSV `table`.

    A run that is in it with as many steps is done.
    """
    judges = {LARGE.size: load(device)[1]}
    for seed in seeds:
        for name, method in RUNS:
            group = GROUPS[name]
            key = {"domains": name, "method": method, "seed": seed, "steps": steps or group.recipe.steps}
            if seed >= group.seeds or any(
                all(row[k] == v for k, v in key.items()) for row in read_table(table)
            ):
                continue
            recipe = replace(group.recipe, steps=key["steps"], **VARIANTS.get(method, {}))
            domains = load_domains(group.names, "train", IMAGES, device, recipe.size, recipe.looks)
            unseen = load_domains((UNSEEN,), "test", 2000, device, recipe.size)
            start = time.process_time()
            if method == "supervised":
                trained = train_supervised(domains, seed, recipe)
            else:
                trained = train_method(method if method in METHODS else "UFDN", domains, seed, recipe)
            row = key | {"CPU seconds": round(time.process_time() - start)}
            row["domain probe"] = domain_probe(trained.model, domains, seed)
            row[f"accuracy on {UNSEEN}"] = target_accuracies(trained, unseen)[0]
            if name != "generalisation" and method != "source only":
                tests = load_domains(group.names, "test", 2000, device, recipe.size)
                if recipe.size not in judges:
                    judges[recipe.size] = judging_readers(recipe.size, device)
                readers = [judges[recipe.size][DOMAINS.index(name)] for name in group.names]
                row |= measure_translations(trained.model, domains, tests, readers)
            files.add_rows(
                table,
                [row],
                COLUMNS[:2],
                _place,
                [*COLUMNS, "kept to", "kept from", "least kept", "gap"],
                digits=4,
            )


def measure_translations(
    model: UFDN, domains: list[Labelled], tests: list[Labelled], readers: list[nn.Module]
) -> dict[str, float]:
    """How many digits survive to the last domain and from it, means over the others, and on the worst of all ways; and how far off the look is.

    The gap: what a fresh image critic with the penalty gives real images of the last domain above translated ones.
    """
    kept = kept_digits(model, tests, readers)
    with torch.no_grad():
        shown = translate(model.encode, model.decode, domains[0][0][:1000], len(domains))[:, -1]
    _, history = train_image_critic(domains[-1][0], shown, PENALTY_WEIGHT)
    gap = history["gap"][-20:].mean().item()
    ways = kept[~torch.eye(len(kept), dtype=torch.bool)]
    found = {"kept to": kept[:-1, -1].mean(), "kept from": kept[-1, :-1].mean(), "least kept": ways.min()}
    return {name: value.item() for name, value in found.items()} | {"gap": gap}


COLUMNS = ("domains", "method", "seed", "steps", "CPU seconds", "domain probe", f"accuracy on {UNSEEN}")


def read_table(table: Path | None = None) -> list[dict]:
    """The rows of `data/sweeps/ufdn.csv`, numbers as numbers; an empty list where there is no file yet."""
    table = table or files.data_folder() / "sweeps/ufdn.csv"
    return files.read_table(table, COLUMNS[:2])


def _place(row: dict) -> tuple:
    """In the order of RUNS and seeds."""
    return RUNS.index((row["domains"], row["method"])), row["seed"], row["steps"]
