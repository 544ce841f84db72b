"""What every training of `experiments` promises: it leaves the global generator alone, and its seed decides about all."""

from __future__ import annotations

import inspect
import random
import re
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch

from course_lib import training
from course_lib.datasets.sprites import Sprites
from course_lib.exercise import MissingAnswer, answers, needs
from course_lib.experiments import (
    adda,
    beta_vae,
    correlated_factors,
    elbo,
    factor_vae,
    mutual_information,
    ufdn,
    why_disentangle,
)
from course_lib.lessons import elbo as elbo_lesson
from course_lib.models import VAE
from course_lib.training import fit_classifier, seeded
from tests.helpers import generator

pytestmark = pytest.mark.usefixtures("on_solutions")


def labelled(n: int, *shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    g = generator()
    return torch.rand(n, *shape, generator=g), torch.randint(10, (n,), generator=g)


def vae() -> VAE:
    with seeded(0):
        return VAE(3, 16)


def images(n: int, g: torch.Generator) -> torch.Tensor:
    return torch.rand(n, 1, 16, 16, generator=g)


def factor_vae_players():
    with seeded(1):
        return factor_vae.make_players(vae(), factor_vae.make_discriminator(3, 8, 1))


def pair() -> adda.Pair:
    x, y = labelled(60, 3, 32, 32)
    return adda.Pair("here", "there", x, y, x, y, x, y, x, y)


def domains() -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [labelled(40, 3, 16, 16) for _ in range(3)]


def train_discriminator():
    discriminator = factor_vae_players().discriminator
    return factor_vae.train_discriminator(
        discriminator, lambda n, g: torch.randn(n, 3, generator=g), 2, batch=8, generator=generator()
    )


def adapt():
    encoder, _, _ = adda.pretrain(pair().x, pair().y, 0, steps=1)
    return adda.adapt(encoder, pair().x, pair().target_x, 0, steps=2)[1]


TRAININGS: dict[str, Callable] = {
    "00 train_classifier": lambda: why_disentangle.train_classifier(Sprites(32), steps=2, batch=8),
    "00 train_decision": lambda: why_disentangle.train_decision(*_loans(), steps=2),
    "01 train_critic": lambda: mutual_information.train_critic(
        lambda n, g: mutual_information.gaussian_pairs(0.5, n, g), generator(), steps=2, batch=16
    ),
    **{
        f"01 train_subspaces, {method}": lambda m=method: mutual_information.train_subspaces(
            m, seed=0, steps=2, batch=16
        )
        for method in mutual_information.PENALTIES
    },
    "01 train_probe": lambda: mutual_information.train_probe(*_codes(), steps=2),
    "02 train_vae": lambda: elbo.train_vae(vae(), images, 2, batch=4, generator=generator()),
    "03 train_linear_vaes": lambda: beta_vae.train_linear_vaes(
        torch.tensor([2.0, 1.0]), torch.tensor(0.1), torch.tensor([1.0, 2.0]), generator(), steps=2
    ),
    "04 train_discriminator": train_discriminator,
    "04 train_factor_vae": lambda: factor_vae.train_factor_vae(
        factor_vae_players(), images, 2, batch=4, generator=generator(), gamma=5.0, discriminator_steps=2
    ),
    "05 pretrain": lambda: adda.pretrain(pair().x, pair().y, 0, steps=2),
    "05 adapt": adapt,
    **{
        f"05 train_jointly, {method}": lambda m=method: adda.train_jointly(m, pair(), 0, steps=2)
        for method in adda.ALIGNMENTS
    },
    "05 a_distance": lambda: adda.a_distance(pair().x.flatten(1), 1 - pair().x.flatten(1), steps=2),
    "06 train": lambda: ufdn.train(domains(), 0, ufdn.Recipe(steps=2, width=4, keep=1.0, image=1.0)),
    "06 train_supervised": lambda: ufdn.train_supervised(domains(), 0, ufdn.Recipe(steps=2, width=4)),
    "06 fit_classifier": lambda: fit_classifier(*labelled(30, 3, 16, 16), 10, steps=2),
    "06 train_reader": lambda: ufdn.train_reader(labelled(30, 3, 16, 16), steps=2),
    "06 train_image_critic": lambda: ufdn.train_image_critic(
        domains()[0][0], domains()[1][0].flip(0), 1.0, steps=2
    ),
    **{
        f"07 train_heads, {method}": lambda m=method: correlated_factors.train_heads(
            m, lambda a, g: a[:, :, None, None].float().expand(-1, 2, 8, 8), 0.5, 0, steps=2, batch=16
        )
        for method in correlated_factors.TRAINED
    },
    "07 train_positions": lambda: correlated_factors.train_positions(0.2, 0, steps=2),
}


def _loans():
    x, a, y = why_disentangle.loans(50, generator())
    return x, y, a


def _codes():
    return torch.randn(64, 4, generator=generator()), torch.arange(64) % 4


def test_every_training_is_here():
    """Those of `experiments` that call `fit` or fit_classifier; what only calls these trains by them."""
    modules = (
        why_disentangle,
        mutual_information,
        elbo,
        beta_vae,
        factor_vae,
        adda,
        ufdn,
        correlated_factors,
    )
    found = {
        f"{number:02} {name}"
        for number, module in enumerate(modules)
        for name, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__
        if re.search(r"\bfit\(", inspect.getsource(value))
    }
    assert len(found) > 10 and found <= {name.split(",")[0] for name in TRAININGS}


@pytest.mark.parametrize("name", TRAININGS)
def test_a_training_leaves_the_global_generators_alone_and_owes_them_nothing(name):
    results = []
    for seed in (3, 4):
        for source in (torch.manual_seed, np.random.seed, random.seed):
            source(seed)
        before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
        results.append(numbers(TRAININGS[name]()))
        assert torch.equal(torch.get_rng_state(), before[0])
        assert (np.random.get_state()[1].tolist(), random.getstate()) == before[1:]
    assert results[0] == results[1] and results[0]


def numbers(result) -> list[float]:
    """All numbers in what a training returns: tensors, weights of networks, histories."""
    if isinstance(result, torch.Tensor):
        return result.flatten().tolist()
    if isinstance(result, torch.nn.Module):
        return numbers([p for p in result.parameters()])
    if isinstance(result, dict):
        return numbers(list(result.values()))
    if isinstance(result, tuple | list):
        return [number for part in result for number in numbers(part)]
    return numbers(list(vars(result).values()))


# ------------------------------------------------------------------ all answers are asked for before the first step


def evaluated_vae():
    """As the training cell of notebook 03."""
    needs(*beta_vae.EVALUATION)
    sprites = Sprites(32, only={"shape": 1, "orientation": 0, "scale": [0, 5], "x": [0, 16], "y": [0, 31]})
    pictures = torch.cat([x for x, _ in sprites.batches(8)])
    with seeded(0):
        network = VAE(3, 32)
    elbo.train_vae(network, lambda n, g: pictures[:n], 1, batch=4, generator=generator())
    factors = sprites.grid.factors(torch.arange(len(sprites)))
    beta_vae.evaluate(network, pictures, factors, generator())


def probed_subspaces():
    with seeded(0):
        model = mutual_information.TwoSubspaces()
    mutual_information.probe_subspaces(model, n=64)


SEVERAL_STAGES = {
    "01 probe_subspaces": probed_subspaces,
    "03 train, then evaluate": evaluated_vae,
    "05 compare": lambda: adda.compare(pair(), 0),
    "06 compare": lambda: ufdn.compare(domains(), domains(), 0, ufdn.Recipe(steps=1, width=4)),
}


@pytest.mark.parametrize("name", SEVERAL_STAGES)
def test_what_trains_in_several_stages_asks_for_all_its_answers_first(name, monkeypatch):
    in_force, fit, called, steps = answers.in_force, training.fit, set(), []
    missing = None

    def asked(ex):
        if ex is missing:
            raise MissingAnswer(ex)
        if sys._getframe(2).f_globals["__name__"].startswith("course_lib.experiments"):
            called.add(ex)
        return in_force(ex)

    def one_step(step, _, *args, **kwargs):
        steps.append(1)
        return fit(step, 1, *args, **kwargs)

    monkeypatch.setattr(answers, "in_force", asked)
    for module in (training, mutual_information, elbo, adda, ufdn):
        monkeypatch.setattr(module, "fit", one_step)
    SEVERAL_STAGES[name]()
    assert called and steps
    for missing in set(called):
        steps.clear()
        with pytest.raises(MissingAnswer):
            SEVERAL_STAGES[name]()
        assert len(steps) <= (missing in FIRST_STAGE), missing


FIRST_STAGE = {
    elbo_lesson.elbo,
    elbo_lesson.reparameterise,
    elbo_lesson.gaussian_kl,
}  # asked by the first step
