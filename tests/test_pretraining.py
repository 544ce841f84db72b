"""The checkpoints load and are worth what their cards say; training them goes on exactly where it stopped."""

import contextlib
import json
import math
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

from course_lib import checkpoints, metrics
from course_lib.cli import app
from course_lib.datasets.shapes3d import Shapes3D
from course_lib.datasets.sprites import Sprites
from course_lib.experiments import pretraining
from course_lib.experiments.beta_vae import information_matrix
from course_lib.experiments.elbo import forward
from course_lib.experiments.what_it_takes import KEPT
from course_lib.files import data_folder
from course_lib.lessons import beta_vae, elbo
from course_lib.models import VAE
from course_lib.training import seeded

pytestmark = pytest.mark.usefixtures("on_solutions")


SMALL = {
    "vae": pretraining.Recipe("VAE", 1.0, batch=4),
    "beta_vae": pretraining.Recipe("beta-VAE", 4.0, batch=4),
    "beta_tcvae": pretraining.Recipe("beta-TCVAE", 6.0, batch=4),
    "factor_vae": pretraining.Recipe("FactorVAE", 35.0, batch=4, width=8, layers=2, discriminator_steps=2),
    "scenes": pretraining.Recipe("beta-TCVAE", 4.0, data="scenes", batch=4),
    "in_turns": pretraining.Recipe("beta-TCVAE", 4.0, batch=4, turns=pretraining.Turns(1, 2, 3, 8.0, 1)),
    "outlines": pretraining.Recipe(
        "beta-TCVAE",
        4.0,
        data="scenes",
        times=4,
        batch=4,
        outlines=2,
        turns=pretraining.Turns(1, 2, 3, 16.0, 1, shaped=10.0, once=4),
    ),
}


@pytest.fixture
def small(monkeypatch):
    """The same recipes in miniature: 32×32 images, 3 latents, batches of 4, rounds of 2 steps."""
    monkeypatch.setattr(pretraining, "RECIPES", SMALL)
    monkeypatch.setattr(pretraining, "LATENTS", 3)
    monkeypatch.setattr(pretraining, "ROUND", 2)
    monkeypatch.setattr(pretraining, "measure", lambda vae, sprites, samples=0: {"MIG": 0.25})


# ------------------------------------------------------------------ what is in data/checkpoints


@pytest.fixture(scope="module")
def sprites():
    return Sprites(32)


@pytest.fixture(scope="module")
def scenes():
    return Shapes3D(32)


ALL = pretraining.RECIPES | pretraining.SCENES


@pytest.mark.parametrize("name", checkpoints.VAES + checkpoints.SCENES)
def test_a_checkpoint_is_worth_what_its_card_says(name, sprites, scenes):
    """On a small sample, within four standard errors of it (MIG: within its bias and spread at 4,000 points)."""
    checkpoint = checkpoints.load(name)
    card, found = checkpoint.card, checkpoint.card["metrics"]
    assert card["method"] == ALL[name].title and card["steps"] > 0
    assert card["settings"] == json.loads(json.dumps(ALL[name].settings()))
    generator = torch.Generator().manual_seed(123)
    data = {"sprites": sprites, "scenes": scenes}[ALL[name].data]
    x, factors = data.sample(768, generator)
    x, logits, mean, log_var, _ = forward(checkpoint.network, x, generator)
    cross_entropy = torch.nn.functional.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(
        (1, 2, 3)
    )
    kl = 0.5 * (mean**2 + log_var.exp() - log_var - 1).sum(1)
    for values, name in ((cross_entropy, "reconstruction (nats)"), (kl, "KL (nats)")):
        assert abs(values.mean() - found[name]) < 4 * values.std() / len(values) ** 0.5
    assert metrics.mutual_information_gap(mean, factors) == pytest.approx(found["MIG"], abs=0.1)


def test_the_latents_in_turns_are_y_x_size_and_a_ring_of_shape_and_angle(sprites):
    """What lesson 04 says of this checkpoint."""
    checkpoint = checkpoints.load("beta_tcvae_in_turns")
    x, factors = sprites.sample(4000, torch.Generator().manual_seed(5))
    mean, _ = checkpoint.network.encode(x)
    assert (mean.var(0) >= 0.05).sum() == checkpoint.card["metrics"]["active latents"] == 5
    information, entropy = information_matrix(mean, factors)
    share = information / entropy
    known, latent = share[:, [1, 3, 4]].max(0)  # of scale, x and y, each by one latent
    sliders = latent.tolist()
    assert known.min() > 0.5 and len({*sliders}) == 3

    ring = [j for j in share[:, 0].argsort(descending=True).tolist() if j not in sliders][:2]
    ellipse = factors[:, 0] == 1
    plane = mean[:, ring] - mean[ellipse][:, ring].mean(0)
    radius = plane.norm(dim=1)
    assert radius[ellipse].quantile(0.05) > radius[~ellipse].quantile(0.95)
    assert radius[factors[:, 0] == 0].median() < 0.7 * radius[factors[:, 0] == 2].median()  # squares, hearts
    phase = torch.complex(*plane[ellipse].T).angle()
    half_turns = 2 * 2 * torch.pi / 39 * factors[ellipse, 2]  # an ellipse is itself again after half a turn
    follows = [torch.polar(torch.ones_like(phase), phase + s * half_turns).mean().abs() for s in (1, -1)]
    assert max(follows) > 0.9


def test_every_factor_of_a_scene_has_a_latent_of_its_own(scenes):
    """What lesson 00 says of this checkpoint, and the aim for it."""
    checkpoint = checkpoints.load("scenes_outlines")
    found = checkpoint.card["metrics"]
    assert found["FactorVAE score"] >= 0.95 and found["DCI disentanglement"] >= 0.8
    x, factors = scenes.sample(6000, torch.Generator().manual_seed(5))
    information, entropy = information_matrix(checkpoint.network.encode(x)[0], factors)
    share, latent = (information / entropy).max(0)
    assert share.min() > 0.5 and sorted(latent.tolist()) == [*range(6)]
    assert (latent[:3] < 3).all()  # the hues, which outlines hardly show


def test_the_folder_holds_the_recipes_and_is_small():
    folder = data_folder() / "checkpoints"
    assert {path.name for path in folder.iterdir()} == {
        f"{name}.{kind}"
        for name in (*checkpoints.VAES, *checkpoints.SCENES, "ufdn", *KEPT)
        for kind in ("safetensors", "json")
    }
    assert all(path.stat().st_size < 3.5e6 for path in folder.iterdir())


def test_a_checkpoint_is_the_median_seed_of_its_runs_in_the_sweep():
    rows = pretraining.read_sweep(data_folder() / "sweeps" / "sprites.csv")
    for name, recipe in pretraining.RECIPES.items():
        runs = [r for r in rows if (r["method"], r["weight"]) == (recipe.title, recipe.weight)]
        ranked = sorted(runs, key=lambda r: r["DCI disentanglement"])
        assert len(runs) == 3 and ranked[1]["seed"] == recipe.seed, name


def test_the_checkpoints_of_scenes_are_the_median_seeds_of_their_comparison():
    rows = pretraining.read_sweep(data_folder() / "sweeps" / "scenes.csv")
    assert not any(r.settle for r in pretraining.scenes_recipes())
    expected = [(r.title, r.weight, r.seed) for r in pretraining.scenes_recipes()]
    assert sorted((r["method"], r["weight"], r["seed"]) for r in rows) == sorted(expected)
    assert {r["steps"] for r in rows} == {pretraining.SCENES_STEPS}
    for name in checkpoints.SCENES:
        recipe = pretraining.SCENES[name]
        runs = [r for r in rows if r["method"] == recipe.title]
        assert sorted(runs, key=lambda r: r["DCI disentanglement"])[1]["seed"] == recipe.seed
        assert checkpoints.load(name).card["steps"] == 2 * pretraining.SCENES_STEPS


def test_the_readme_shows_the_cards():
    text = (data_folder() / "README.md").read_text(encoding="utf-8")
    assert checkpoints.table() in text and checkpoints.table(names=checkpoints.SCENES) in text


# ------------------------------------------------------------------ saving and loading


def test_half_precision_changes_little(tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vae = VAE(10, 64)
    card = {"method": "VAE", "network": {"latents": 10, "size": 64, "channels": 1}}
    checkpoints.save(tmp_path, "vae", vae, card)
    loaded = checkpoints.load("vae", folder=tmp_path)
    network = loaded.network
    assert (
        loaded.card == card
        and not network.training
        and not any(p.requires_grad for p in network.parameters())
    )
    for before, after in zip(vae.parameters(), network.parameters(), strict=True):
        assert after.dtype == torch.float32
        assert (
            (after - before).abs() <= before.abs() * 2**-11 + 2**-25
        ).all()  # half a unit in the last place


def test_unknown_and_missing_checkpoints_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"'vea'.*beta_tcvae.*course pretrain"):
        checkpoints.load("vea")
    with pytest.raises(FileNotFoundError, match="holds nothing"):
        checkpoints.load("vae", folder=tmp_path)


def test_a_card_names_the_device():
    assert checkpoints.machine("mps") == "mps" and checkpoints.machine("cpu").endswith("CPU cores")


def test_integers_are_kept_as_they_are(tmp_path):
    network = torch.nn.BatchNorm1d(2)
    network.num_batches_tracked.fill_(70_001)  # more than half precision can count
    checkpoints.save(tmp_path, "norm", network, {})
    loaded = checkpoints.load("norm", build=lambda card: torch.nn.BatchNorm1d(2), folder=tmp_path).network
    assert loaded.num_batches_tracked.item() == 70_001 and loaded.running_var.dtype == torch.float32


# ------------------------------------------------------------------ training


@pytest.mark.parametrize("name", SMALL)
def test_a_resumed_training_is_the_same_training(name, small, tmp_path):
    whole = pretraining.Training(SMALL[name])
    whole.advance(5)
    first = pretraining.Training(SMALL[name])
    first.advance(2)
    first.save(tmp_path / "state.pt")
    second = pretraining.Training(SMALL[name])
    second.resume(tmp_path / "state.pt")
    second.advance(3)
    assert second.steps == 5
    for part in (name for name in whole.parts() if "optimiser" not in name):
        pairs = zip(whole.parts()[part].parameters(), second.parts()[part].parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


def test_each_method_trains_on_its_own_loss(small):
    """Two steps from the same start on the same images: different results, none of them the start."""
    start = torch.cat([p.flatten() for p in pretraining.Training(SMALL["vae"]).vae.parameters()])
    ends = []
    for name in SMALL:
        training = pretraining.Training(SMALL[name])
        training.advance(2)
        ends.append(torch.cat([p.detach().flatten() for p in training.vae.parameters()]))
    assert all(not torch.equal(end, start) for end in ends)
    assert all(not torch.equal(a, b) for i, a in enumerate(ends) for b in ends[:i])


def test_the_command_trains_and_goes_on(small, tmp_path):
    arguments = ["pretrain", "vae", "factor_vae", "--state", str(tmp_path / "state"), "--out", str(tmp_path)]
    for steps in (3, 5):
        result = CliRunner().invoke(app, [*arguments, "--steps", str(steps)])
        assert result.exit_code == 0, result.output
        for name in ("vae", "factor_vae"):
            card = json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8"))
            assert (card["steps"], card["metrics"]) == (steps, {"MIG": 0.25})
    assert checkpoints.load("factor_vae", folder=tmp_path).card["settings"]["gamma"] > 0


def test_scenes_are_trained_where_they_are_named(small, tmp_path, monkeypatch):
    monkeypatch.setattr(pretraining, "RECIPES", {})
    monkeypatch.setattr(pretraining, "SCENES", {"scenes_beta_tcvae": SMALL["scenes"]})
    places = ["--state", str(tmp_path / "state"), "--out", str(tmp_path), "--steps", "2"]
    result = CliRunner().invoke(app, ["pretrain", "scenes_beta_tcvae", *places])
    assert result.exit_code == 0, result.output
    found = checkpoints.load("scenes_beta_tcvae", folder=tmp_path)
    assert found.network.encoder.shape == (3, 32, 32) and "480,000" in found.card["data"]


def test_scenes_are_compared(small, tmp_path, monkeypatch):
    """With outlines and without, under names of their own, after the VAE."""
    monkeypatch.setattr(pretraining, "SEEDS", (3,))
    monkeypatch.setitem(pretraining.SCENES, "scenes_outlines", SMALL["outlines"])
    plain = pretraining.Recipe("VAE", 1.0, data="scenes", batch=4)
    monkeypatch.setitem(pretraining.SCENES, "scenes_vae", plain)
    places = ["--state", str(tmp_path), "--out", str(tmp_path), "--steps", "4"]
    result = CliRunner().invoke(app, ["pretrain", "--scenes", *places])
    assert result.exit_code == 0, result.output
    rows = pretraining.read_sweep(tmp_path / "scenes.csv")
    titles = ["VAE", "beta-TCVAE, in turns", "beta-TCVAE, in turns, outlines"]
    assert [(r["method"], r["seed"], r["steps"], r["MIG"]) for r in rows] == [(t, 3, 4, 0.25) for t in titles]


def test_measure_of_scenes(monkeypatch):
    """A posterior that is the prior, on a part of the grid; the symmetry of sprites is none of theirs."""
    monkeypatch.setattr(pretraining, "BOUND_IMAGES", 16)
    few = Shapes3D(16, only={"wall_hue": 0, "object_hue": 0, "scale": [0, 7], "orientation": [0, 14]})
    vae = VAE(3, 16, channels=3)
    torch.nn.init.zeros_(vae.encoder.head[-1].weight)
    torch.nn.init.zeros_(vae.encoder.head[-1].bias)
    found = pretraining.measure(vae, few)
    assert (found["KL (nats)"], found["MIG"], found["active latents"]) == (0, 0, 0)
    assert "MIG modulo symmetry" not in found


@pytest.fixture
def interrupt(monkeypatch):
    """Interrupts the training of VAEs in the update of that number, counted from 0."""

    def at(number):
        def interrupted(self, i, step=pretraining.Training.step):
            if self.steps + i == number:
                monkeypatch.setattr(pretraining.Training, "step", step)
                raise KeyboardInterrupt
            return step(self, i)

        monkeypatch.setattr(pretraining.Training, "step", interrupted)

    return at


def test_an_interrupted_command_leaves_a_valid_checkpoint(small, interrupt, tmp_path):
    interrupt(3)
    places = ["--state", str(tmp_path / "state"), "--out", str(tmp_path)]
    result = CliRunner().invoke(app, ["pretrain", "vae", "--steps", "6", *places])
    assert result.exit_code == 1 and "goes on" in result.output
    assert checkpoints.load("vae", folder=tmp_path).card["steps"] == 3


def test_an_interrupted_training_spares_a_longer_one(small, interrupt, tmp_path):
    pretraining.pretrain(["vae"], 4, tmp_path / "first", tmp_path)
    for at, steps in ((3, 4), (5, 5)):  # where it is interrupted, and what the checkpoint has then
        interrupt(at)
        with pytest.raises(KeyboardInterrupt):
            pretraining.pretrain(["vae"], 6, tmp_path / "second", tmp_path)
        card = checkpoints.load("vae", folder=tmp_path).card
        assert card["steps"] == steps and ("metrics" in card) == (steps == 4)


def test_a_checkpoint_stays_until_the_next_one_is_measured(small, monkeypatch, tmp_path):
    def interrupted(vae, data):
        raise KeyboardInterrupt

    pretraining.pretrain(["vae"], 4, tmp_path, tmp_path)
    monkeypatch.setattr(pretraining, "measure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pretraining.pretrain(["vae"], 4, tmp_path, tmp_path)
    assert "metrics" in checkpoints.load("vae", folder=tmp_path).card


def test_what_is_measured_is_what_is_loaded(small, monkeypatch, tmp_path):
    measured = []
    monkeypatch.setattr(pretraining, "measure", lambda vae, data: measured.append(vae) or {})
    pretraining.pretrain(["vae"], 2, tmp_path, tmp_path)
    pairs = zip(
        measured[0].parameters(), checkpoints.load("vae", folder=tmp_path).network.parameters(), strict=True
    )
    assert all(torch.equal(a, b) and not a.requires_grad for a, b in pairs)


def test_a_training_that_another_process_holds_is_passed_over(small, tmp_path):
    with pretraining.claim(tmp_path / "vae.lock"):
        pretraining.pretrain(["vae", "beta_vae"], 2, tmp_path, tmp_path)
    assert [path.stem for path in tmp_path.glob("*.json")] == ["beta_vae"]


def test_a_state_that_is_further_is_no_shorter_training(small, tmp_path):
    arguments = ["pretrain", "vae", "--state", str(tmp_path / "state"), "--out", str(tmp_path), "--steps"]
    assert CliRunner().invoke(app, [*arguments, "4"]).exit_code == 0
    result = CliRunner().invoke(app, [*arguments, "3"])
    assert result.exit_code == 1 and "expected a training of at most 3 steps, found one of 4" in result.output
    assert isinstance(result.exception, SystemExit)
    assert checkpoints.load("vae", folder=tmp_path).card["steps"] == 4


@pytest.mark.parametrize(
    "arguments",
    [
        ["vae", "--sweep"],
        ["--pairs", "--correlated"],
        ["--scenes", "--sweep"],
        ["--steps", "-1"],
        ["vae", "--steps", "0"],
    ],
)
def test_the_command_takes_one_thing_at_a_time(arguments, tmp_path):
    places = ["--state", str(tmp_path), "--out", str(tmp_path)]
    result = CliRunner().invoke(app, ["pretrain", *arguments, *places])
    assert result.exit_code == 2 and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("option", "function"),
    [("--pairs", "what_it_takes.compare_long"), ("--correlated", "correlated_factors.compare_positions")],
)
def test_an_interrupted_comparison_says_that_it_goes_on(option, function, monkeypatch, tmp_path):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(f"course_lib.experiments.{function}", interrupted)
    result = CliRunner().invoke(app, ["pretrain", option, "--out", str(tmp_path)])
    assert result.exit_code == 1 and "goes on" in result.output


def test_the_command_names_an_unknown_model(tmp_path):
    result = CliRunner().invoke(app, ["pretrain", "gan", "--state", str(tmp_path), "--out", str(tmp_path)])
    assert result.exit_code == 2 and "gan" in result.output


def test_measure_of_a_model_that_encodes_nothing(monkeypatch):
    """A posterior that is the prior: no information, no total correlation, MIG and score 0."""
    monkeypatch.setattr(pretraining, "BOUND_IMAGES", 64)
    few = Sprites(
        64, only={"scale": [0, 5], "orientation": range(0, 40, 10), "x": range(0, 32, 8), "y": [0, 16]}
    )
    vae = VAE(10, 64)
    last = vae.encoder.head[-1]
    torch.nn.init.zeros_(last.weight)
    torch.nn.init.zeros_(last.bias)
    found = pretraining.measure(vae, few)
    assert found["KL (nats)"] == 0
    assert found["total correlation (nats)"] == pytest.approx(0, abs=1e-3)
    assert found["mutual information (nats)"] == pytest.approx(0, abs=1e-3)
    assert (found["MIG"], found["FactorVAE score"], found["active latents"]) == (0, 0, 0)


@pytest.mark.parametrize("method", ["beta-TCVAE", "FactorVAE"])
def test_each_pixel_counts_as_often_as_the_recipe_says(method):
    """The likelihood alone is multiplied; the network that is trained is the one that is kept."""
    recipe = pretraining.Recipe(method, 6.0, times=4, batch=4, width=8, layers=2)
    training = pretraining.Training(recipe)
    generator = torch.Generator().manual_seed(0)
    x, logits, mean, log_var, _ = forward(training.players.vae, training.draw(4, generator), generator)
    assert x.shape == logits.shape == (4, 4, 32, 32) and mean.shape == (4, pretraining.LATENTS)
    once = elbo.bernoulli_log_likelihood(x[:, :1], logits[:, :1])
    torch.testing.assert_close(elbo.bernoulli_log_likelihood(x, logits), 4 * once)
    torch.testing.assert_close((mean, log_var), training.vae.encode(x[:, :1]))

    before = {name: value.clone() for name, value in training.vae.state_dict().items()}
    assert before.keys() == training.players.vae.state_dict().keys()
    training.step(0)
    after = training.vae.state_dict()
    assert all(not torch.equal(before[name], after[name]) for name in before)


TURNS = pretraining.Turns(early=1, late=3, opened=6, weight=8.0, free=4)


def in_turns(updates: int) -> pretraining.Training:
    """A training whose next losses are those of that step."""
    training = pretraining.Training(pretraining.Recipe("beta-TCVAE", 4.0, times=4, batch=4, turns=TURNS))
    training.updates.fill_(updates)
    return training


@pytest.mark.parametrize("updates, open_", [(1, 1), (6, 1), (7, 4), (99, 4)])
def test_a_closed_latent_is_the_prior_for_every_image_and_no_pixel_depends_on_it(updates, open_):
    training = in_turns(updates)
    x = training.draw(4, torch.Generator().manual_seed(0))
    vae = training.players.vae
    mean, log_var = vae.encode(x)
    z = torch.randn(4, 4, generator=torch.Generator().manual_seed(1))
    training._loss(x, vae.decode(z), mean, log_var, z, 4.0).backward()
    gradients = (
        *training.vae.encoder.head[-1].weight.grad.view(2, 4, -1),
        training.vae.decoder.head[0].weight.grad.T,
    )
    for latent in range(4):
        other = z.clone()
        other[:, latent] += 1
        moves = not torch.equal(vae.decode(z), vae.decode(other))
        found = [
            moves,
            *(g[:, latent].all().item() for g in (mean, log_var)),
            *(g[latent].any().item() for g in gradients),
        ]
        assert found == 6 * [latent < open_], latent


@pytest.mark.parametrize(
    "updates, weight, free",
    [(1, 8, 1), (6, 8, 1), (7, 4, 1), (10, 4, 1), (11, 4, 0.75), (14, 4, 0), (99, 4, 0)],
)
def test_late_latents_cost_nothing_at_first_and_less_pressure_comes_with_them(updates, weight, free):
    training, generator = in_turns(updates), torch.Generator().manual_seed(0)
    mean, log_var = torch.randn(2, 5, 4, generator=generator)
    late = 0.5 * (mean**2 + log_var.exp() - log_var - 1)[:, TURNS.early :].sum(1).mean()
    spared = training._spared(mean[:, TURNS.early :], log_var[:, TURNS.early :])
    torch.testing.assert_close(spared, free * late)
    training.updates -= 1  # a step asks for its weight before it is counted
    assert training.weight() == weight


@pytest.mark.parametrize("updates, share", [(5, 1), (10, 1), (11, 0.75), (14, 0)])
def test_where_a_late_code_is_free_its_aggregate_is_not(updates, share):
    """A latent that is the prior spares nothing; one whose codes are narrow together is charged 10 times its Gaussian's KL."""
    turns = replace(TURNS, shaped=10.0)
    training = pretraining.Training(pretraining.Recipe("beta-TCVAE", 4.0, batch=4, turns=turns))
    training.updates.fill_(updates)
    log_var = torch.tensor([[0.0, 2 * math.log(0.1)]]).expand(1000, 2)
    mean = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([0.0, 0.2])
    narrow = torch.distributions.Normal(mean[:, 1].mean(), (mean[:, 1].var(correction=0) + 0.01).sqrt())
    prior = torch.distributions.Normal(0.0, 1.0)
    own = torch.distributions.kl_divergence(torch.distributions.Normal(mean[:, 1], 0.1), prior).mean()
    aggregate = torch.distributions.kl_divergence(narrow, prior)
    torch.testing.assert_close(training._spared(mean, log_var), share * (own - 10 * aggregate))
    assert training._spared(mean[:, :1], log_var[:, :1]) == 0


@pytest.mark.parametrize("updates, counts", [(1, 1), (4, 1), (5, 4), (99, 4)])
def test_a_pixel_counts_once_until_it_counts_more(updates, counts):
    training, generator = pretraining.Training(SMALL["outlines"]), torch.Generator().manual_seed(0)
    training.updates.fill_(updates)
    x, logits, mean, log_var, z = forward(training.players.vae, training.draw(4, generator), generator)
    assert x.shape == (4, 3, 32, 32)
    n = len(training.data)
    plain = beta_vae.beta_tcvae_loss(x, logits, mean, log_var, z, dataset_size=n, beta=4.0)
    more = (counts - 1) * elbo.bernoulli_log_likelihood(x, logits).mean()
    expected = plain - more - training._spared(mean[:, 1:], log_var[:, 1:])
    torch.testing.assert_close(training._loss(x, logits, mean, log_var, z, 4.0), expected)


@pytest.mark.parametrize("early, loud", [(1, [1]), (2, []), (0, [0, 1])])
def test_late_latents_of_outlines_speak_up_too(early, loud):
    """Three latents, the last two of outlines; `loud`: which of the first encoder's rows are not PyTorch's."""
    turns = pretraining.Turns(early, 3 - early, loud=3.0, narrow=-2.0)
    recipe = pretraining.Recipe("beta-TCVAE", 4.0, seed=5, batch=4, turns=turns, outlines=1)
    training = pretraining.Training(recipe)
    with seeded(5):
        drawn = VAE(3, 32, 1, outlines=1)
    rows, biases = training.vae.encoder.head[-1].weight, training.vae.encoder.head[-1].bias
    changed = (rows != drawn.encoder.head[-1].weight).any(1).tolist()
    assert [j for j in range(2) if changed[j]] == loud == [j for j in range(2) if changed[2 + j]]
    assert [j for j in range(2) if biases[2 + j] == -2] == loud
    last = training.vae.outline_encoder.head[-1]
    torch.testing.assert_close(last.weight, 3 * drawn.outline_encoder.head[-1].weight)
    assert last.bias.tolist() == [0, -2]


def test_a_latent_of_outlines_may_be_early():
    turns = pretraining.Turns(3, 1, loud=3.0)
    recipe = pretraining.Recipe("beta-TCVAE", 4.0, seed=5, batch=4, turns=turns, outlines=2)
    found = pretraining.Training(recipe).vae.state_dict()
    with seeded(5):
        drawn = VAE(4, 32, 1, outlines=2).state_dict()
    of_late = {"outline_encoder.head.2.weight", "outline_encoder.head.2.bias", "decoder.head.0.weight"}
    assert {name for name, value in found.items() if not torch.equal(value, drawn[name])} == of_late
    rows = found["outline_encoder.head.2.weight"] / drawn["outline_encoder.head.2.weight"]
    assert rows.mean(1).tolist() == pytest.approx([1, 3, 1, 3])


def test_a_discriminator_has_no_turns():
    with pytest.raises(ValueError, match="without a discriminator"):
        pretraining.Recipe("FactorVAE", 30.0, turns=TURNS)


def test_late_latents_speak_up_and_early_ones_are_as_pytorch_draws_them():
    """Heads: two rows (mean, log variance) of the encoder's for each latent, one column of the decoder's."""
    turns = pretraining.Turns(early=1, late=2, loud=3.0, narrow=-2.0)
    training = pretraining.Training(pretraining.Recipe("beta-TCVAE", 4.0, seed=5, batch=4, turns=turns))
    with seeded(5):
        drawn = VAE(3, 32, 1)
    last, first = drawn.encoder.head[-1], drawn.decoder.head[0]
    last.weight.data[[1, 2, 4, 5]] *= 3
    last.bias.data[[1, 2, 4, 5]] = torch.tensor([0.0, 0.0, -2.0, -2.0])
    first.weight.data[:, 1:] *= 3
    torch.testing.assert_close(training.vae.state_dict(), drawn.state_dict())


@pytest.mark.parametrize("multiplies", [True, False])
def test_a_discriminator_is_in_bfloat16_where_the_processor_is_fast_in_it(multiplies, monkeypatch):
    monkeypatch.setattr(pretraining, "multiplies_bfloat16", lambda: multiplies)
    coarse = pretraining.Training(SMALL["factor_vae"]).players.discriminator
    z = torch.randn(1000, pretraining.LATENTS, generator=torch.Generator().manual_seed(0))
    found, exact = coarse(z), torch.nn.Sequential(*coarse)(z)
    assert found.dtype == torch.float32 and torch.equal(found, exact) is not multiplies
    assert (found - exact).abs().max() < 0.02 * exact.abs().max()


def test_a_weight_grows_from_the_plain_vaes(small):
    for method, plain in (("beta-VAE", 1.0), ("beta-TCVAE", 1.0), ("FactorVAE", 0.0)):
        recipe = pretraining.Recipe(method, 5.0, batch=4, width=8, layers=2, warm_up=4)
        training = pretraining.Training(recipe)
        weights = []
        for _ in range(6):
            weights.append(float(training.weight()))
            training.step(0)
        assert weights == pytest.approx([plain + (5 - plain) * share for share in (0, 0.25, 0.5, 0.75, 1, 1)])


def test_a_training_settles_at_its_step(small, tmp_path, monkeypatch):
    monkeypatch.setattr(pretraining, "SETTLED", {"batch": 2, "lr": 1e-5})
    sizes = []
    recipe = pretraining.Recipe("VAE", 1.0, batch=4, lr=1e-3, settle=2)
    training = pretraining.Training(recipe)
    draw = training.draw
    monkeypatch.setattr(training, "draw", lambda n, g: sizes.append(n) or draw(n, g))
    rates = []
    for steps in (1, 4):  # rounds of 2 steps, the second begins at an odd one
        pretraining.train(training, steps, tmp_path / "state.pt")
        rates.append(training.players.vae_optimiser.param_groups[0]["lr"])
    assert sizes == [4, 4, 2, 2] and rates == [1e-3, 1e-5]
    assert training.card()["settings"]["from step 2"] == {"batch": 2, "Adam lr": 1e-5}


# ------------------------------------------------------------------ many at once, on a GPU


class Graph:
    """What a CUDA graph is to `train_together`, without CUDA: RECORDED ordinary steps a replay."""

    def __init__(self, training):
        self.training = training

    def replay(self):
        for _ in range(pretraining.RECORDED):
            self.training.step(0)


@pytest.fixture
def without_cuda(small, monkeypatch):
    def recorded(training, stream):
        report = [training.step(0) for _ in range(pretraining.RECORDED)][-1]
        training.steps += pretraining.RECORDED
        return Graph(training), report

    monkeypatch.setattr(pretraining, "RECORDED", 2)
    monkeypatch.setattr(pretraining, "recorded", recorded)
    monkeypatch.setattr(torch.cuda, "Stream", lambda: None)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)


def test_trainings_side_by_side_are_the_trainings_one_by_one(without_cuda, tmp_path):
    names = ("vae", "factor_vae")
    states = [tmp_path / f"{name}.pt" for name in names]
    for steps in (2, 4, 8):  # as many as the recording takes; then from what was saved
        together = [pretraining.Training(SMALL[name]) for name in names]
        pretraining.train_together(together, steps, states)
    for name, state in zip(names, states, strict=True):
        alone = pretraining.Training(SMALL[name])
        alone.advance(8)
        kept = pretraining.Training(SMALL[name])
        kept.resume(state)
        assert kept.steps == 8 and not kept.players.vae_optimiser.param_groups[0]["capturable"]
        pairs = zip(alone.vae.parameters(), kept.vae.parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
    settling = pretraining.Training(pretraining.Recipe("VAE", 1.0, batch=4, settle=2))
    for trainings, steps in ((together, 9), ([settling], 4)):
        with pytest.raises(ValueError, match="multiple of 2"):
            pretraining.train_together(trainings, steps, states[: len(trainings)])


def test_an_interrupt_that_strikes_while_the_device_is_waited_for_saves_all(
    without_cuda, monkeypatch, tmp_path
):
    times = []

    def synchronize():
        times.append(1)
        if len(times) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    training = pretraining.Training(SMALL["vae"])
    with pytest.raises(KeyboardInterrupt):
        pretraining.train_together([training], 8, [tmp_path / "state.pt"])
    kept = pretraining.Training(SMALL["vae"])
    kept.resume(tmp_path / "state.pt")
    assert kept.steps == training.steps > 0 and len(times) == 2


def test_a_run_that_diverges_is_named_after_the_others_are_saved(without_cuda, tmp_path):
    good, bad = (pretraining.Training(SMALL[name]) for name in ("vae", "beta_vae"))
    torch.nn.init.constant_(bad.vae.decoder.head[0].weight, float("nan"))
    states = [tmp_path / "good.pt", tmp_path / "bad.pt"]
    with pytest.raises(FloatingPointError, match="beta-vae-4-seed0"):
        pretraining.train_together([good, bad], 4, states)
    assert good.steps == 4 and states[0].exists() and not states[1].exists()


def test_all_images_kept_are_all_images_drawn():
    only = {"orientation": [0, 7], "x": range(0, 32, 8), "y": [3, 31]}
    drawn, kept = Sprites(32, only=only), Sprites(32, only=only).keep()
    factors = drawn.grid.factors(torch.arange(len(drawn)))
    assert torch.equal(drawn.images(factors), kept.images(factors)) and kept.keep() is kept


# ------------------------------------------------------------------ the sweep


def test_the_sweep_has_four_methods_four_weights_three_seeds():
    recipes = pretraining.sweep_recipes()
    assert len({r.name for r in recipes}) == len(recipes) == 3 * (1 + 4 + 4 + 4 + 1)
    assert {r.method for r in recipes} == {r.method for r in pretraining.RECIPES.values()}


@pytest.fixture
def two_runs(small, monkeypatch):
    monkeypatch.setattr(pretraining, "sweep_recipes", lambda: [SMALL["factor_vae"], SMALL["vae"]])


def test_a_sweep_writes_a_row_for_each_run_and_does_none_twice(two_runs, tmp_path):
    arguments = [
        "pretrain",
        "--sweep",
        "--steps",
        "3",
        "--state",
        str(tmp_path / "state"),
        "--out",
        str(tmp_path),
    ]
    for _ in range(2):
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
        rows = pretraining.read_sweep(tmp_path / "sprites.csv")
        assert [(r["method"], r["weight"], r["steps"], r["MIG"]) for r in rows] == [
            ("VAE", 1, 3, 0.25),
            ("FactorVAE", 35, 3, 0.25),
        ]


@pytest.mark.parametrize("steps, methods", [(3, ["VAE"]), (4, ["VAE", "beta-TCVAE, in turns"])])
def test_a_sweep_has_latents_in_turns_where_both_turns_come(steps, methods, small, tmp_path, monkeypatch):
    monkeypatch.setattr(pretraining, "sweep_recipes", lambda: [SMALL["in_turns"], SMALL["vae"]])
    pretraining.sweep(steps, tmp_path, tmp_path / "sprites.csv")
    rows = pretraining.read_sweep(tmp_path / "sprites.csv")
    assert [r["method"] for r in rows] == methods


def test_a_sweep_goes_on_where_it_was_interrupted(two_runs, tmp_path, monkeypatch):
    steps = []

    def interrupted(self, i, step=pretraining.Training.step):
        steps.append(self.steps + i)
        if len(steps) == 4:
            raise KeyboardInterrupt
        return step(self, i)

    monkeypatch.setattr(pretraining.Training, "step", interrupted)
    table = tmp_path / "sprites.csv"
    with pytest.raises(KeyboardInterrupt):
        pretraining.sweep(4, tmp_path, table)
    assert pretraining.read_sweep(table) == []
    pretraining.sweep(4, tmp_path, table)
    assert steps == [0, 1, 2, 3, 3, 0, 1, 2, 3] and len(pretraining.read_sweep(table)) == 2


def test_a_sweep_names_what_diverged_when_the_others_are_measured(two_runs, tmp_path, monkeypatch):
    def step(self, i, step=pretraining.Training.step):
        return {"loss": torch.tensor(torch.nan)} if self.recipe.method == "FactorVAE" else step(self, i)

    monkeypatch.setattr(pretraining.Training, "step", step)
    table = tmp_path / "sprites.csv"
    with pytest.raises(FloatingPointError, match=r"factorvae-35-seed0: loss is nan at step 0"):
        pretraining.sweep(2, tmp_path, table)
    assert [r["method"] for r in pretraining.read_sweep(table)] == ["VAE"]
    arguments = ["pretrain", "--sweep", "--steps", "2", "--state", str(tmp_path), "--out", str(tmp_path)]
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, SystemExit) and "factorvae-35-seed0: loss is nan" in result.output


def test_two_processes_share_a_sweep(two_runs, tmp_path):
    table = tmp_path / "sprites.csv"
    with pretraining.claim(tmp_path / f"{SMALL['vae'].name}.lock") as free:
        assert free
        pretraining.sweep(2, tmp_path, table)
        assert [r["method"] for r in pretraining.read_sweep(table)] == ["FactorVAE"]
    pretraining.sweep(2, tmp_path, table)
    assert [r["method"] for r in pretraining.read_sweep(table)] == ["VAE", "FactorVAE"]
