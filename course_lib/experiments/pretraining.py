"""Long trainings, resumable (`course pretrain`): the checkpoints of lessons 00, 03, 04 and 06, and two comparisons of VAEs.

A training is saved every ROUND steps and goes on exactly where it stopped. Several processes may work at once: a
training that another one holds is passed over. On a GPU one process trains the runs of the sweep side by side, and saves
them every minute.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from dataclasses import replace as replace_settings
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from course_lib import checkpoints, metrics
from course_lib.cores import multiplies_bfloat16
from course_lib.datasets.shapes3d import Shapes3D
from course_lib.datasets.sprites import Sprites
from course_lib.experiments import factor_vae, ufdn
from course_lib.experiments.elbo import forward
from course_lib.files import add_rows, claim, read_table, replace
from course_lib.lessons import beta_vae, elbo
from course_lib.lessons.factor_vae import Players
from course_lib.models import VAE
from course_lib.training import (
    capture,
    coarse_products,
    descend,
    fit,
    keep_freed_memory,
    seeded,
    whole_trainings,
)

LATENTS = 10
BOUND_IMAGES = 16_384  # over which reconstruction and KL are averaged
ROUND = 500  # steps between two saved states


# What a recipe may train on: the complete grid, its images' channels, and what a card calls it.
DATA = {"sprites": (Sprites, 1, "dSprites"), "scenes": (Shapes3D, 3, "Shapes3D-like scenes")}


@dataclass(frozen=True)
class Turns:
    """Latents in two turns: a few settle on a factor each, alone, and only then do the others see what is left.

    Until it opens a latent is the prior for every image. Jeong and Song (2019), https://arxiv.org/abs/1905.09432, open
    theirs one by one.
    """

    early: int = 3  # latents that are open from the start on
    late: int = 3  # latents that open after step `opened`
    opened: int = 10_000
    weight: float = 8.0  # beta until then
    free: int = 3000  # steps from then on in which the KL of the late ones costs nothing; it costs in full after as many more
    loud: float = 2.0  # times PyTorch's first weights, for the late ones; with 1 one of them goes off
    narrow: float = -3.0  # the bias of their log variances at first
    # While the KL is free a code may shrink to a tiny scale, and go off later. Then the KL from the prior of a Gaussian that has
    # the mean and variance of z over the batch can be charged: so many times.
    shaped: float = 0.0
    once: int = 0  # the step until which a pixel counts once, however often it counts after


@dataclass(frozen=True)
class Recipe:
    """How one VAE is trained. `weight` is beta, or FactorVAE's gamma."""

    method: str  # "VAE", "beta-VAE", "beta-TCVAE" or "FactorVAE"
    weight: float
    seed: int = 0
    data: str = "sprites"  # or "scenes"
    size: int = 32  # pixels
    times: int = 1  # how often each pixel counts in the likelihood
    batch: int = 128
    lr: float = 1e-3
    # The paper's discriminator, 1000 × 6, would double the cost of a step on a CPU. A smaller one with more updates
    # keeps up with codes that move fast.
    width: int = 256
    layers: int = 4
    discriminator_lr: float = 1e-3
    discriminator_steps: int = 5  # updates for each of the VAE
    warm_up: int = 0  # steps in which the weight grows from the plain VAE's
    settle: int = 0  # the step from which on Kim and Mnih's batch and learning rate hold; 0: never
    turns: Turns | None = None
    outlines: int = 0  # how many latents, the last, are read from an image's outlines alone

    def __post_init__(self):
        if self.turns and self.method == "FactorVAE":
            raise ValueError("turns: expected a method without a discriminator, got FactorVAE")

    @property
    def title(self) -> str:
        """The method, as tables and figures name it."""
        return self.method + ", in turns" * bool(self.turns) + ", outlines" * bool(self.outlines)

    @property
    def latents(self) -> int:
        return self.turns.early + self.turns.late if self.turns else LATENTS

    @property
    def name(self) -> str:
        words = self.title.replace(", ", "-").replace("in turns", "turns")
        return f"{words}-{self.weight:g}-seed{self.seed}".lower()

    def settings(self) -> dict:
        """What a card says of it."""
        adversarial = self.method == "FactorVAE"
        found = {
            "gamma" if adversarial else "beta": self.weight,
            "latents": self.latents,
            **({"each pixel counts": self.times} if self.times != 1 else {}),
            "batch": self.batch,
            "Adam lr": self.lr,
            **({"steps until the full weight": self.warm_up} if self.warm_up else {}),
            "seed": self.seed,
        }
        if self.outlines:
            found["latents read from outlines"] = self.outlines
        if self.turns:
            unused = {name for name in ("shaped", "once") if not getattr(self.turns, name)}
            found["in turns"] = {k: value for k, value in asdict(self.turns).items() if k not in unused}
        if self.settle:
            found[f"from step {self.settle:,}"] = {"batch": SETTLED["batch"], "Adam lr": SETTLED["lr"]}
        if adversarial:
            found["discriminator"] = {
                "width": self.width,
                "layers": self.layers,
                "Adam lr": self.discriminator_lr,
                "betas": [0.5, 0.9],
                "updates for each of the VAE": self.discriminator_steps,
            }
        return found


SETTLED = {"batch": 64, "lr": 1e-4}


# ------------------------------------------------------------------ what is trained

SWEEP_STEPS = 20_000
SEEDS = (0, 1, 2)
WEIGHTS = {  # by method, the most telling first, so that an unfinished sweep shows most
    "VAE": (1.0,),
    "FactorVAE": (35.0, 20.0, 50.0, 10.0),
    "beta-TCVAE": (4.0, 6.0, 2.0, 12.0),
    "beta-VAE": (4.0, 8.0, 2.0, 16.0),
    "beta-TCVAE, in turns": (4.0,),
}
# A pixel of 32×32 counts four times, so that a weight means what it means in the papers, whose images are 64×64.
# A total correlation is estimated from a batch, which is larger where it is penalised. A large beta from the first step on
# switches latents off, which stay so: it grows. The discriminator is the paper's.
_METHODS = {
    "VAE": {"batch": 64},
    "beta-VAE": {"batch": 64, "warm_up": 5000},
    "beta-TCVAE": {"batch": 256, "warm_up": 5000},
    "beta-TCVAE, in turns": {"batch": 256, "turns": Turns()},
    "FactorVAE": {
        "batch": 256,
        "lr": 5e-4,
        "width": 1000,
        "layers": 6,
        "discriminator_lr": 1e-4,
        "discriminator_steps": 1,
    },
}


def _swept(title: str, weight: float, seed: int, **more: int) -> Recipe:
    """A run of the sweep."""
    return Recipe(title.partition(",")[0], weight, seed, times=4, **_METHODS[title], **more)


STEPS = 60_000
RECIPES = {  # of data/checkpoints: runs of the sweep that are trained on; of three seeds the one of the median DCI
    "vae": _swept("VAE", 1.0, 2, settle=SWEEP_STEPS),
    "beta_vae": _swept("beta-VAE", 4.0, 1, settle=SWEEP_STEPS),
    "beta_tcvae": _swept("beta-TCVAE", 6.0, 1, settle=SWEEP_STEPS),
    "beta_tcvae_in_turns": _swept("beta-TCVAE, in turns", 4.0, 1, settle=SWEEP_STEPS),
    "factor_vae": _swept("FactorVAE", 20.0, 0, settle=SWEEP_STEPS),
}
# Scenes in colour, all 480,000 of 32×32: trained by name only. data/README.md has what they gave. The two in
# data/checkpoints are runs of the comparison that were trained on, to twice as many steps.
SCENES_STEPS = 10_000
_SCENES = {"data": "scenes", "times": 4, "lr": 5e-4}
_OUTLINES = Turns(opened=1000, weight=16.0, free=1500, shaped=10.0, once=4000)
SCENES = {
    "scenes_vae": Recipe("VAE", 1.0, batch=64, settle=SCENES_STEPS, **_SCENES),
    "scenes_beta_tcvae": Recipe("beta-TCVAE", 4.0, batch=256, **_SCENES),
    "scenes_factor_vae": Recipe("FactorVAE", 30.0, **_METHODS["FactorVAE"] | _SCENES),
    "scenes_outlines": Recipe(
        "beta-TCVAE", 4.0, data="scenes", times=4, turns=_OUTLINES, outlines=3, settle=SCENES_STEPS
    ),
}


class Repeated(VAE):
    """A VAE that is shown each image `times` times, as further channels: its likelihood, a sum over pixels, counts them all.

    A picture of 32×32 has a quarter of the pixels of one of 64×64, so that beta and gamma weigh four times as much there.
    With times = 4 they mean what they mean in the papers.
    """

    def __init__(self, vae: VAE, times: int, is_open: Callable[[], Tensor] | None = None):
        nn.Module.__init__(self)  # its networks are those of `vae`
        self.encoder, self.outline_encoder, self.decoder = vae.encoder, vae.outline_encoder, vae.decoder
        self.times, self.is_open = times, is_open

    def show(self, x: Tensor) -> Tensor:
        """x (B, C, S, S) to (B, times · C, S, S)."""
        return x.repeat(1, self.times, 1, 1)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, times · C, S, S) to mean (B, D), log_var (B, D), by its first copy; of a closed latent both are 0."""
        mean, log_var = super().encode(x[:, : self.encoder.shape[0]])
        if self.is_open:
            is_open = self.is_open()
            mean, log_var = mean * is_open, log_var * is_open
        return mean, log_var

    def decode(self, z: Tensor) -> Tensor:
        """z (B, D) to logits (B, times · C, S, S), which do not depend on closed latents."""
        return self.show(super().decode(z * self.is_open() if self.is_open else z))


class Coarse(nn.Sequential):
    """Layers whose matrix products are in bfloat16 on a processor that has them, twice as fast there; what comes out is float32.

    On a GPU they stay as `torch.set_float32_matmul_precision` says.
    """

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=multiplies_bfloat16()):
            return super().forward(x).float()


class Training:
    """One VAE on its way: networks, optimisers, source of randomness, steps done. Goes on from a saved state."""

    def __init__(
        self, recipe: Recipe, device: torch.device | str = "cpu", data: Sprites | Shapes3D | None = None
    ):
        self.recipe, self.device = recipe, torch.device(device)
        kind, self.channels, self.title = DATA[recipe.data]
        self.data = data or kind(recipe.size, device=device)  # several trainings may share one
        with seeded(recipe.seed):
            self.vae = VAE(**self.network()).to(device)
            if recipe.turns:
                _speak_up(self.vae, recipe.turns)
            layers = factor_vae.make_discriminator(recipe.latents, recipe.width, recipe.layers)
        discriminator = Coarse(*layers).to(device)  # most of a FactorVAE's time is its products
        self.generator = torch.Generator(device).manual_seed(recipe.seed)
        shown = 1 if recipe.turns and recipe.turns.once else recipe.times
        self.players = Players(
            Repeated(self.vae, shown, self.open_latents if recipe.turns else None),
            discriminator,
            torch.optim.Adam(self.vae.parameters(), lr=recipe.lr, fused=True),
            torch.optim.Adam(
                discriminator.parameters(), lr=recipe.discriminator_lr, betas=(0.5, 0.9), fused=True
            ),
        )
        self.steps, self.seconds = 0, 0.0
        self.updates = torch.zeros((), device=device)  # steps so far, where a CUDA graph can count them

    def step(self, i: int) -> dict[str, Tensor]:
        """One update on a batch of the grid, drawn afresh."""
        recipe, weight, batch = self.recipe, self.weight(), self.in_force().batch
        self.updates += 1
        if recipe.method == "FactorVAE":
            return factor_vae.update(
                self.players,
                self.draw,
                batch=batch,
                generator=self.generator,
                gamma=weight,
                discriminator_steps=recipe.discriminator_steps,
            )
        x = self.draw(batch, self.generator)
        loss = self._loss(*forward(self.players.vae, x, self.generator), weight)
        descend(self.players.vae_optimiser, loss)
        return {"loss": loss}

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """n images of the grid, as the network is shown them."""
        return self.players.vae.show(self.data.sample(n, generator)[0])

    def in_force(self) -> Recipe:
        """The recipe with the batch and learning rate that hold now."""
        settled = 0 < self.recipe.settle <= self.steps
        return replace_settings(self.recipe, **SETTLED) if settled else self.recipe

    def weight(self) -> float | Tensor:
        """Beta or gamma of the next step; `step` asks before it counts itself."""
        recipe, turns = self.recipe, self.recipe.turns
        if turns:
            return recipe.weight + (turns.weight - recipe.weight) * (self.updates < turns.opened)
        if not recipe.warm_up:
            return recipe.weight
        plain = 0.0 if recipe.method == "FactorVAE" else 1.0
        return plain + (recipe.weight - plain) * (self.updates / recipe.warm_up).clamp(max=1)

    def open_latents(self) -> Tensor:
        """(D,): 1 for a latent that is open in the step that is under way, else 0."""
        turns = self.recipe.turns
        late = torch.arange(self.recipe.latents, device=self.device) >= turns.early
        return 1 - (late & (self.updates <= turns.opened)).float()

    def _loss(
        self, x: Tensor, logits: Tensor, mean: Tensor, log_var: Tensor, z: Tensor, weight: float | Tensor
    ) -> Tensor:
        if self.recipe.method == "beta-TCVAE":
            n = len(self.data)
            loss = beta_vae.beta_tcvae_loss(x, logits, mean, log_var, z, dataset_size=n, beta=weight)
        else:
            loss = beta_vae.beta_vae_loss(x, logits, mean, log_var, beta=weight)
        if turns := self.recipe.turns:
            loss = loss - self._spared(mean[:, turns.early :], log_var[:, turns.early :])
            if turns.once:
                more = (self.recipe.times - 1) * (self.updates > turns.once)
                loss = loss - more * elbo.bernoulli_log_likelihood(x, logits).mean()
        return loss

    def _spared(self, mean: Tensor, log_var: Tensor) -> Tensor:
        """What is taken off the loss soon after the late latents, (B, late) each, have opened, in nats: their KL.

        Less `shaped` times that of the Gaussian that has the mean and variance of z over the batch.
        """
        turns = self.recipe.turns
        free = (2 - (self.updates - turns.opened) / turns.free).clamp(0, 1)  # the share that costs nothing
        spared = elbo.gaussian_kl(mean, log_var).mean()
        if turns.shaped:
            variance = mean.var(0, correction=0) + log_var.exp().mean(0)  # of z over the batch
            aggregate = elbo.gaussian_kl(mean.mean(0, keepdim=True), variance.log()[None])
            spared = spared - turns.shaped * aggregate.mean()
        return free * spared

    def advance(self, steps: int) -> bool:
        """Train for so many steps; False where the user interrupted."""
        for group in self.players.vae_optimiser.param_groups:
            group["lr"] = self.in_force().lr
        start = time.perf_counter()
        history = fit(self.step, steps, f"{self.recipe.name}, from step {self.steps}", draws=self.generator)
        done = len(history.get("loss", ()))
        self.steps += done
        self.seconds += time.perf_counter() - start
        return done == steps

    def parts(self) -> dict:
        """All that has a state: networks and their optimisers."""
        names = ["vae", "vae_optimiser"]
        if self.recipe.method == "FactorVAE":
            names += ["discriminator", "discriminator_optimiser"]
        return {name: getattr(self.players, name) for name in names}

    def capturable(self, yes: bool) -> None:
        """Whether the optimisers can be recorded in a CUDA graph."""
        for optimiser in (self.players.vae_optimiser, self.players.discriminator_optimiser):
            for group in optimiser.param_groups:
                group["capturable"] = yes

    def save(self, path: Path) -> None:
        state = {name: part.state_dict() for name, part in self.parts().items()}
        state |= {"generator": self.generator.get_state(), "steps": self.steps, "seconds": self.seconds}
        replace(path, lambda draft: torch.save(state, draft))

    def resume(self, path: Path) -> None:
        state = torch.load(path, map_location=self.device, weights_only=True)
        for name, part in self.parts().items():
            part.load_state_dict(state[name])
        self.capturable(False)
        self.generator.set_state(state["generator"].cpu())
        self.steps, self.seconds = state["steps"], state["seconds"]
        self.updates.fill_(self.steps)

    def network(self) -> dict:
        """The arguments of the VAE."""
        recipe = self.recipe
        found = {"latents": recipe.latents, "size": recipe.size, "channels": self.channels}
        return found | ({"outlines": recipe.outlines} if recipe.outlines else {})

    def card(self) -> dict:
        """What was done so far, without the metrics."""
        size = self.recipe.size
        return {
            "method": self.recipe.title,
            "network": self.network(),
            "data": f"{self.title}, {len(self.data):,} images of {size}×{size}, rendered",
            "settings": self.recipe.settings(),
            "steps": self.steps,
            "seconds": round(self.seconds),
            "machine": checkpoints.machine(self.device),
        }


@torch.no_grad()
def _speak_up(vae: VAE, turns: Turns) -> None:
    """First weights of the late latents with which the decoder hears them at once; while they are closed nothing moves these."""
    vae.decoder.head[0].weight[:, turns.early :] *= turns.loud
    left = turns.early  # of the early ones
    for encoder in filter(None, (vae.encoder, vae.outline_encoder)):
        last = encoder.head[-1]
        weight, bias = (p.unflatten(0, (2, -1)) for p in (last.weight, last.bias))  # means, log variances
        weight[:, left:] *= turns.loud
        bias[0, left:], bias[1, left:] = 0, turns.narrow
        left = max(0, left - weight.shape[1])


def resume(training: Training, state: Path, steps: int) -> None:
    """Go on from the file `state`, if it is there; ValueError where that is further than `steps` steps."""
    if state.exists():
        training.resume(state)
    if training.steps > steps:
        raise ValueError(
            f"{state}: expected a training of at most {steps:,} steps, found one of {training.steps:,}; "
            "ask for as many (--steps), or keep the shorter training in another folder (--state)."
        )


def train(training: Training, steps: int, state: Path) -> None:
    """Train to `steps` steps, from where the file `state` left it, saved every ROUND, and before an interrupt is raised."""
    keep_freed_memory()
    resume(training, state, steps)
    while training.steps < steps:
        settle = training.recipe.settle
        end = settle if training.steps < settle < steps else steps
        finished = training.advance(min(ROUND, end - training.steps))
        training.save(state)
        if not finished:
            raise KeyboardInterrupt


# ------------------------------------------------------------------ many at once, on a GPU

RECORDED = 10  # steps in one CUDA graph
STREAMS = 32  # PyTorch has as many; the trainings of one stream take turns
SAVE = 60.0  # seconds between two saved states


@dataclass(eq=False)
class Run:
    """A training on its way in a stream: RECORDED steps as a graph, and the report of the last of them."""

    training: Training
    state: Path
    stream: torch.cuda.Stream
    graph: torch.cuda.CUDAGraph
    report: dict[str, Tensor]


@coarse_products()  # most of a FactorVAE's time is the discriminator's products
def train_together(trainings: list[Training], steps: int, states: list[Path]) -> None:
    """Train all to `steps` steps at once on their CUDA device, from where the files `states` left them, as `train` does.

    Most of a step of a small network is the launch of some hundred kernels. So the next RECORDED steps of each training are
    recorded as a CUDA graph, which is launched as a whole, and the graphs run side by side, in streams.
    One that diverges ends, and its state is not saved. FloatingPointError tells of it when the others are done.
    """
    if steps % RECORDED or any(training.recipe.settle for training in trainings):
        raise ValueError(
            f"expected a multiple of {RECORDED} steps, got {steps}, and recipes that do not settle"
        )
    pairs = list(zip(trainings, states, strict=True))
    for training, state in pairs:
        resume(training, state, steps)
    pairs = [(training, state) for training, state in pairs if training.steps < steps]
    streams = [torch.cuda.Stream() for _ in pairs[:STREAMS]]
    runs = []
    for (training, state), stream in zip(pairs, itertools.cycle(streams)):
        runs.append(Run(training, state, stream, *recorded(training, stream)))
    interrupted, saved, diverged = False, time.monotonic(), []
    with tqdm(total=steps, desc=f"{len(runs)} at once", disable=bool(os.environ.get("TQDM_DISABLE"))) as bar:
        active = runs  # also those that are done: recording takes some steps
        while active:
            start = time.perf_counter()
            last = max(steps - run.training.steps for run in active) <= ROUND
            try:
                replay(active, steps)
                torch.cuda.synchronize()  # where most interrupts strike: the device is behind
            except KeyboardInterrupt:
                interrupted = True
                torch.cuda.synchronize()
            bar.update(min(run.training.steps for run in active) - bar.n)
            for run in active:
                run.training.seconds += (time.perf_counter() - start) / len(active)
            lost = [run for run in active if not torch.stack([*run.report.values()]).isfinite().all()]
            diverged += [run.training.recipe.name for run in lost]
            runs = [run for run in runs if run not in lost]
            if last or interrupted or time.monotonic() - saved > SAVE:
                saved = time.monotonic()
                for run in runs:
                    run.training.save(run.state)
            if interrupted:
                raise KeyboardInterrupt
            active = [run for run in runs if run.training.steps < steps]
    if diverged:
        raise FloatingPointError(f"diverged: {', '.join(diverged)}; lower their learning rate")


def replay(runs: list[Run], steps: int) -> None:
    """A round of ROUND steps of each, in turns; none goes beyond `steps`."""
    for _ in range(ROUND // RECORDED):
        for run in runs:
            if run.training.steps < steps:
                with torch.cuda.stream(run.stream):
                    run.graph.replay()
                run.training.steps += RECORDED


def recorded(training: Training, stream: torch.cuda.Stream) -> tuple[torch.cuda.CUDAGraph, dict[str, Tensor]]:
    """RECORDED steps of the training as a CUDA graph, and their last report. Some ordinary steps come first."""
    training.capturable(True)
    torch.cuda.synchronize()
    ordinary = RECORDED - training.steps % RECORDED
    with torch.cuda.stream(stream):
        for _ in range(ordinary):  # what is made once, in the first steps, must not be recorded
            training.step(0)
    training.steps += ordinary
    torch.cuda.synchronize()

    def steps() -> dict[str, Tensor]:
        for _ in range(RECORDED):
            report = training.step(0)
        return report

    return capture(steps, training.generator, stream)


def pretrain(
    names: list[str], steps: int | None, state_folder: Path, folder: Path, device: torch.device | str = "cpu"
) -> None:
    """Train the named checkpoints to so many steps, or the recipes', and write them, with what they are worth, into `folder`.

    The next call goes on where this one was interrupted, but for "ufdn", which starts anew. What another process trains
    is passed over.
    """
    for name in names:
        with claim(state_folder / f"{name}.lock") as free:
            if free and name == "ufdn":
                pretrain_ufdn(folder, steps or ufdn.LARGE.steps, device)
            elif free:
                training = Training((RECIPES | SCENES)[name], device)
                wanted = steps or (2 * SCENES_STEPS if name in checkpoints.SCENES else STEPS)
                pretrain_vae(training, wanted, state_folder / f"{name}.pt", folder, name)


def pretrain_vae(training: Training, steps: int, state: Path, folder: Path, name: str) -> None:
    """Train a VAE and write its checkpoint; where interrupted without metrics, and only in the place of a shorter training."""
    try:
        train(training, steps, state)
    except KeyboardInterrupt:
        if training.steps > checkpoints.steps_of(folder, name):
            checkpoints.save(folder, name, training.vae, training.card())
        raise
    card = training.card() | {"metrics": measure(checkpoints.rounded(training.vae), training.data)}
    checkpoints.save(folder, name, training.vae, card)


@whole_trainings()
def pretrain_ufdn(folder: Path, steps: int = ufdn.LARGE.steps, device: torch.device | str = "cpu") -> None:
    """Train the checkpoint of lesson 06 and a reader of each domain's digits, and write them, in half precision, with a card.

    Nothing is written where the user interrupted.
    """
    recipe = replace_settings(ufdn.LARGE, steps=steps)
    domains = ufdn.load_domains(ufdn.DOMAINS, "train", ufdn.IMAGES, device, recipe.size, recipe.looks)
    readers = ufdn.judging_readers(recipe.size, device)
    start = time.perf_counter()
    trained = ufdn.train(domains, ufdn.SEED, recipe)
    write_ufdn(folder, trained, readers, recipe, time.perf_counter() - start, device)


def write_ufdn(
    folder: Path,
    trained: ufdn.Trained,
    readers: list[torch.nn.Module],
    recipe: ufdn.Recipe,
    seconds: float,
    device: torch.device | str = "cpu",
) -> None:
    """The checkpoint's weights and its card, which says what they are worth as they are kept."""
    names, labelled = ufdn.DOMAINS, recipe.labelled
    card = {
        "method": "UFDN",
        "data": f"{', '.join(names)}; up to {ufdn.IMAGES:,} images each of {recipe.size}×{recipe.size}, digits of the first {labelled}",
        "settings": {
            "latents": ufdn.LATENTS,
            "batch": f"{ufdn.BATCH} of each domain",
            "seed": ufdn.SEED,
            **{name: value for name, value in asdict(recipe).items() if name != "steps"},
        },
        "steps": recipe.steps,
        "seconds": round(seconds),
        "machine": checkpoints.machine(device),
    }
    model, classifier, *readers = map(checkpoints.rounded, (trained.model, trained.classifier, *readers))
    kept = replace_settings(trained, model=model, classifier=classifier)
    domains = ufdn.load_domains(names, "train", ufdn.IMAGES, device, recipe.size)
    tests = ufdn.load_domains(names, "test", 2000, device, recipe.size)
    adapted = zip(names, ufdn.target_accuracies(kept, tests), strict=True)
    read = zip(names, readers, tests, strict=True)
    shares = ufdn.kept_digits(kept.model, tests, readers).tolist()
    card["metrics"] = {
        "domain probe on z (chance 0.333)": round(ufdn.domain_probe(kept.model, domains), 4),
        **{f"accuracy on {name}": round(value, 4) for name, value in adapted},
        **{f"reader on real {name}": round(ufdn.accuracy(reader, *test), 4) for name, reader, test in read},
        **{
            f"kept, {start} to {end}": round(value, 4)
            for start, row in zip(names, shares, strict=True)
            for end, value in zip(names, row, strict=True)
        },
    }
    checkpoints.save(folder, "ufdn", ufdn.networks_of(kept, readers), card)


# ------------------------------------------------------------------ the sweep


def sweep_recipes() -> list[Recipe]:
    """All runs of the sweep in the order in which they are trained."""
    most = max(map(len, WEIGHTS.values()))
    order = [(method, all_[i]) for i in range(most) for method, all_ in WEIGHTS.items() if i < len(all_)]
    return [_swept(method, weight, seed) for method, weight in order for seed in SEEDS]


def scenes_recipes() -> list[Recipe]:
    """All runs of the comparison on scenes in colour in the order in which they are trained."""
    outlines = SCENES["scenes_outlines"]
    recipes = outlines, SCENES["scenes_vae"], replace_settings(outlines, outlines=0)
    return [replace_settings(recipe, seed=seed, settle=0) for seed in SEEDS for recipe in recipes]


def sweep(
    steps: int,
    state_folder: Path,
    table: Path,
    device: torch.device | str = "cpu",
    recipes: list[Recipe] | None = None,
) -> None:
    """Train every run of the sweep to `steps` steps and write its row into `table`, a CSV; an interrupted call's next one goes on.

    recipes: those of the sweep of sprites, where they are left out; others are trained one after the other on a GPU, too.

    A run that is in the table with as many steps is done; one that another process trains is passed over. Latents in
    turns are left out where there are no steps for the second turn.
    FloatingPointError names those that diverged when all others have their rows.
    """
    diverged = []
    alone = recipes is not None
    recipes = [r for r in (recipes if alone else sweep_recipes()) if not r.turns or steps > r.turns.opened]
    if torch.device(device).type == "cuda" and not alone:
        todo = [recipe for recipe in recipes if not _is_done(table, recipe, steps)]
        data = Sprites(Recipe.size, device=device).keep()
        states = [state_folder / f"{recipe.name}.pt" for recipe in todo]
        with suppress(FloatingPointError):  # found again below
            train_together([Training(recipe, device, data) for recipe in todo], steps, states)
    for recipe in recipes:
        with claim(state_folder / f"{recipe.name}.lock") as free:
            if not free or _is_done(table, recipe, steps):
                continue
            training = Training(recipe, device)
            try:
                train(training, steps, state_folder / f"{recipe.name}.pt")
            except FloatingPointError as error:
                diverged.append(f"{recipe.name}: {error}")
                continue
            row = dict(method=recipe.title, weight=recipe.weight, seed=recipe.seed, steps=steps)
            row |= {"seconds": round(training.seconds), "machine": checkpoints.machine(device)}
            row |= measure(training.vae, training.data, samples=1024)
            add_rows(table, [row], TEXTS, _place, factor_vae.SETTING)
    if diverged:
        raise FloatingPointError("\n".join(diverged))


TEXTS = ("method", "machine")  # columns of the table that are no numbers


def read_sweep(table: Path) -> list[dict]:
    """The rows of a sweep, numbers as numbers; an empty list where there is no file yet."""
    return read_table(table, TEXTS)


def _is_done(table: Path, recipe: Recipe, steps: int) -> bool:
    key = (recipe.title, recipe.weight, recipe.seed, steps)
    return any((r["method"], r["weight"], r["seed"], r["steps"]) == key for r in read_sweep(table))


def _place(row: dict) -> tuple:
    """In the order of WEIGHTS and seeds; what is not of the sweep comes last."""
    places = dict(zip(WEIGHTS, range(len(WEIGHTS)), strict=True))
    return places.get(row["method"], len(places)), row["weight"], row["seed"], row["steps"]


# ------------------------------------------------------------------ what a model is worth


@torch.no_grad()
def codes(vae: VAE, data: Sprites | Shapes3D) -> tuple[Tensor, Tensor]:
    """Means and log variances (N, D) of the whole grid, in its order. Minutes for 737,280 images on a CPU."""
    parts = [vae.encode(x) for x, _ in data.batches(512)]
    mean, log_var = (torch.cat(part) for part in zip(*parts, strict=True))
    return mean, log_var


@torch.no_grad()
def bound(vae: VAE, data: Sprites | Shapes3D, images: int, generator: torch.Generator) -> dict[str, float]:
    """−E log p(x|z) and the KL of the ELBO, nats per image, over so many random images of the grid."""
    parts = []
    for start in range(0, images, 512):
        x, _ = data.sample(min(512, images - start), generator)
        x, logits, mean, log_var, _ = forward(vae, x, generator)
        terms = (-elbo.bernoulli_log_likelihood(x, logits), elbo.gaussian_kl(mean, log_var))
        parts.append(torch.stack(terms))
    reconstruction, kl = torch.cat(parts, dim=1).mean(1).tolist()
    return {"reconstruction (nats)": reconstruction, "KL (nats)": kl}


def measure(
    vae: VAE, data: Sprites | Shapes3D, samples: int = 2048, points: int = 10_000
) -> dict[str, float]:
    """The bound on BOUND_IMAGES random images; everything else from the codes of the whole grid.

    The densities behind the total correlation are exact (all N posteriors), the mean over z is over `samples` draws.
    MIG and MIG-sup have 20 bins and use the whole grid; "modulo symmetry" (of sprites) counts orientations that look
    alike as one.
    FactorVAE and beta-VAE score: 10,000 and 5,000 votes of 64 codes. SAP and DCI (extra trees): `points` codes to
    train and half as many to test.
    """
    generator = torch.Generator(data.device).manual_seed(0)
    values = bound(vae, data, BOUND_IMAGES, generator)
    mean, log_var = codes(vae, data)
    factors = data.grid.factors(torch.arange(len(data), device=data.device))
    parts = metrics.kl_decomposition_exact(mean, log_var, generator, samples)
    sampler = metrics.GroupSampler(factors)
    represent = mean.__getitem__
    score = metrics.factor_vae_score(represent, sampler, generator)
    points = min(points, 2 * len(mean) // 3)
    order = torch.randperm(len(mean), generator=generator, device=mean.device)
    train_rows, test_rows = order[:points], order[points : points + points // 2]
    modulo = {}
    if isinstance(data, Sprites):
        gap = metrics.mutual_information_gap(mean, metrics.Symmetry()(factors))
        modulo = {"MIG modulo symmetry": gap}
    few = (mean[train_rows], factors[train_rows], mean[test_rows], factors[test_rows])
    values |= {
        "total correlation (nats)": parts.total_correlation,
        "mutual information (nats)": parts.mutual_information,
        "MIG": metrics.mutual_information_gap(mean, factors),
        **modulo,
        "MIG-sup": metrics.mig_sup(mean, factors),
        "DCI disentanglement": metrics.dci(*few, method="extra_trees", generator=generator).disentanglement,
        "SAP": metrics.sap_score(*few),
        "FactorVAE score": score.eval_accuracy,
        "beta-VAE score": metrics.beta_vae_score(represent, sampler, generator).eval_accuracy,
        "active latents": score.active_latents,
    }
    return {name: round(value, 4) for name, value in values.items()}
