"""Lesson 04: solutions, cases, named mistakes and hints."""

import torch
import torch.nn.functional as F

from course_lib.exercise.solution import Case, rand, randn, small_numbers, solution
from course_lib.lessons import elbo
from course_lib.lessons import factor_vae as lesson

# ------------------------------------------------------------------ permute_dims


@solution(
    lesson.permute_dims,
    hints=[
        "Column j of the result holds the values of column j of z in a random order, another order for each j.",
        "The order in which random numbers sort is a random permutation; one argsort along the batch gives D of them.",
        "order = torch.rand(z.shape, …).argsort(0), drawn where the generator is and moved to z's device; then "
        "z.gather(0, order).",
    ],
)
def permute_dims(z, generator):
    noise = torch.rand(z.shape, generator=generator, device=generator.device)
    order = noise.to(z.device).argsort(0)  # (B, D)
    return z.gather(0, order)


@permute_dims.cases
def _(g):
    yield Case(z=torch.arange(24.0).view(12, 2), seed=1)
    yield Case(z=randn(g, 64, 5), seed=2)
    yield Case(z=randn(g, 257, 10), seed=3)
    yield Case(z=500 * randn(g, 40, 1), seed=4)
    yield Case(z=randn(g, 1, 3), seed=5)


permute_dims.mistake(
    "You moved whole codes: every latent went through the same permutation, so the latents of a code still belong "
    "together and nothing has become independent. Each latent needs a permutation of its own.",
    same_permutation_for_all=[
        ("torch.rand(z.shape", "torch.rand(len(z)"),
        ("z.gather(0, order)", "z[order]"),
    ],
)
permute_dims.mistake(
    "You shuffled all numbers together, so values wander from one latent to another. Each latent keeps its own "
    "values: shuffle within a column.",
    flattened=[("z.shape", "z.numel()"), ("z.gather(0, order)", "z.flatten()[order].view_as(z)")],
)
permute_dims.mistake(
    "You shuffled the latents within each code. It is the other way round: dim 0, the batch, is shuffled, and every "
    "value stays in its latent.",
    within_a_code=[("argsort(0)", "argsort(1)"), ("gather(0", "gather(1")],
)
permute_dims.mistake("This is z itself: nothing was shuffled.", untouched=("z.gather(0, order)", "z.clone()"))
permute_dims.mistake(
    "One latent was left where it was. Between independent codes that happens to give the same distribution, but then "
    "the result still shares a column with z. Shuffle every latent.",
    all_but_the_first=("z.gather(0, order)", "torch.cat([z[:, :1], z.gather(0, order)[:, 1:]], dim=1)"),
)
permute_dims.mistake(
    "Every call shuffles in the same way: you seeded the generator inside, or made one of your own. Use the one you "
    "are given, as it is; it moves on with every draw.",
    seeded_inside=("generator=generator", "generator=torch.Generator(generator.device).manual_seed(0)"),
)
permute_dims.mistake(
    "Each latent is only rolled down the batch, by the same number of rows at every call. What met in a row then meets in "
    "another, again and again: the order must be random, drawn from `generator`.",
    rolled=("z.gather(0, order)", "torch.stack([c.roll(j + 1) for j, c in enumerate(z.unbind(1))], dim=1)"),
)
permute_dims.mistake(
    "The order does not come from `generator`, so a run with the same seed cannot be repeated. Pass it on: "
    "generator=generator.",
    global_randomness=("generator=generator, ", ""),
)


# ------------------------------------------------------------------ total_correlation_from_logits


@solution(
    lesson.total_correlation_from_logits,
    hints=[
        "Which function of D does the formula average? Compare with what the discriminator puts out.",
        "The logit IS log D/(1 − D). No sigmoid is needed.",
    ],
)
def total_correlation_from_logits(logits):
    return logits.mean()


@total_correlation_from_logits.cases
def _(g):
    yield Case(logits=torch.tensor([1.0, -0.5, 2.0]))
    yield Case(logits=2 * randn(g, 64) - 0.5)
    yield Case(logits=200 * randn(g, 9))
    yield Case(logits=torch.tensor([-500.0]))


total_correlation_from_logits.mistake(
    "You averaged log D, as in the discriminator's own loss. The density ratio is D/(1 − D): log(1 − D) is missing.",
    log_probability=("logits.mean", "F.logsigmoid(logits).mean"),
)
total_correlation_from_logits.mistake(
    "You averaged the probability D. The total correlation is the mean of log D/(1 − D), the logit itself.",
    probability=("logits.mean", "logits.sigmoid().mean"),
)
total_correlation_from_logits.mistake(
    "The sign is wrong: the discriminator says D → 1 for codes as they were encoded, so log D/(1 − D) counts positive.",
    negative=("return ", "return -"),
)
total_correlation_from_logits.mistake(
    "You summed over the batch. An expectation is a mean, or γ would weigh more in larger batches.",
    summed=(".mean()", ".sum()"),
)
total_correlation_from_logits.mistake(
    "You cut single codes off at 0. The log ratio of one code may well be negative, only its mean is not; with the cut "
    "the estimate is too large.",
    clamped=(".mean()", ".clamp(min=0).mean()"),
)
total_correlation_from_logits.mistake(
    "log(sigmoid(…)) is −∞ once the sigmoid rounds to 0 or 1. The difference of the two logarithms is the logit "
    "itself: nothing needs to be computed.",
    through_probabilities=("logits.mean", "(logits.sigmoid().log() - (1 - logits.sigmoid()).log()).mean"),
)
total_correlation_from_logits.mistake(
    "The mean is missing: the total correlation is one number for the batch.", no_mean=(".mean()", "")
)
total_correlation_from_logits.mistake(
    "A small number inside the logarithms keeps them finite and makes them wrong where the discriminator is sure. The "
    "difference of the two logarithms is the logit itself: nothing needs to be computed.",
    **small_numbers(
        (
            "logits.mean",
            "((logits.sigmoid(){plus}).log(){cut} - (1 - logits.sigmoid(){plus}).log(){cut}).mean",
        )
    ),
)


# ------------------------------------------------------------------ discriminator_loss


@solution(
    lesson.discriminator_loss,
    hints=[
        "It is an ordinary binary cross-entropy: label 1 for codes as encoded, label 0 for shuffled ones.",
        "−log sigmoid(l) = softplus(−l), and −log(1 − sigmoid(l)) = softplus(l).",
        "Half the sum of softplus(−j).mean() and softplus(p).mean(), for the logits j of the joint and p of the permuted.",
    ],
)
def discriminator_loss(joint_logits, permuted_logits):
    return 0.5 * (F.softplus(-joint_logits).mean() + F.softplus(permuted_logits).mean())


@discriminator_loss.cases
def _(g):
    yield Case(joint_logits=torch.tensor([0.0, 2.0]), permuted_logits=torch.tensor([0.0, -1.0]))
    yield Case(joint_logits=randn(g, 32) + 1, permuted_logits=randn(g, 20) - 1)
    yield Case(joint_logits=200 * randn(g, 6), permuted_logits=200 * randn(g, 6))
    yield Case(joint_logits=torch.tensor([-500.0]), permuted_logits=torch.tensor([500.0, 0.0, 500.0]))


discriminator_loss.mistake(
    "You added the halves. Their mean is asked for: log 2, not 2 log 2, where the discriminator cannot tell.",
    halves_added=("0.5 * ", ""),
)
discriminator_loss.mistake(
    "The labels are swapped: codes as they were encoded are to get D → 1, shuffled ones D → 0. With your loss the "
    "logit becomes the negative log ratio, and the VAE would maximise its total correlation.",
    labels_swapped=[("-joint", "joint"), ("(permuted_logits)", "(-permuted_logits)")],
)
discriminator_loss.mistake(
    "You took one mean over all logits together. With halves of unequal size the larger one would weigh more, and the "
    "logit would be off by the logarithm of their ratio: average each half first.",
    one_mean_over_both=(
        "0.5 * (F.softplus(-joint_logits).mean() + F.softplus(permuted_logits).mean())",
        "torch.cat([F.softplus(-joint_logits), F.softplus(permuted_logits)]).mean()",
    ),
)
discriminator_loss.mistake(
    "Only the codes as encoded enter your loss. D = 1 everywhere would be its optimum.",
    joint_only=(" + F.softplus(permuted_logits).mean()", ""),
)
discriminator_loss.mistake(
    "The sign is wrong: this is the log-likelihood of the labels. A loss is minimised.",
    sign_turned=("0.5", "-0.5"),
)
discriminator_loss.mistake(
    "Right for moderate logits, but log(sigmoid(…)) is −∞ once the sigmoid rounds to 0 or 1. Use F.softplus or the "
    "cross-entropy with logits.",
    log_of_sigmoid=[
        ("F.softplus(-joint_logits)", "-joint_logits.sigmoid().log()"),
        ("F.softplus(permuted_logits)", "-(1 - permuted_logits.sigmoid()).log()"),
    ],
)
discriminator_loss.mistake(
    "You put a sigmoid before a loss that takes logits, so that it is applied twice. Pass the logits as they are.",
    sigmoid_twice=[
        ("-joint_logits", "-joint_logits.sigmoid()"),
        ("(permuted_logits)", "(permuted_logits.sigmoid())"),
    ],
)
discriminator_loss.mistake(
    "The mean over each half is missing: the loss is a scalar.",
    no_mean=(
        "F.softplus(-joint_logits).mean() + F.softplus(permuted_logits).mean()",
        "torch.cat([F.softplus(-joint_logits), F.softplus(permuted_logits)])",
    ),
)
discriminator_loss.mistake(
    "You summed over the batch. Take the mean of each half, or the loss depends on the batch size.",
    summed=[("joint_logits).mean", "joint_logits).sum"), ("permuted_logits).mean", "permuted_logits).sum")],
)
discriminator_loss.mistake(
    "A small number inside the logarithm, or a clamp (F.binary_cross_entropy has one), keeps the loss finite and makes it "
    "wrong where the discriminator is sure; no gradient comes from there. Use F.softplus or the cross-entropy with logits.",
    **small_numbers(
        ("F.softplus(-joint_logits)", "-(joint_logits.sigmoid(){plus}).log(){cut}"),
        ("F.softplus(permuted_logits)", "-(1 - permuted_logits.sigmoid(){plus}).log(){cut}"),
    ),
)


# ------------------------------------------------------------------ factor_vae_loss


@solution(
    lesson.factor_vae_loss,
    hints=[
        "Three terms are minimised: −log p(x|z), the KL, and γ times the total correlation. The first two are −ELBO.",
        "-elbo.elbo(x, logits, mean, log_var) + gamma * factor_vae.total_correlation_from_logits(z_logits)",
    ],
)
def factor_vae_loss(x, logits, mean, log_var, z_logits, gamma):
    return -elbo.elbo(x, logits, mean, log_var) + gamma * lesson.total_correlation_from_logits(z_logits)


@factor_vae_loss.cases
def _(g):
    yield Case(
        x=torch.tensor([[1.0, 0.0], [0.0, 0.0]]),
        logits=torch.tensor([[1.0, -1.0], [2.0, 0.0]]),
        mean=torch.tensor([[1.0], [-2.0]]),
        log_var=torch.tensor([[0.0], [-1.0]]),
        z_logits=torch.tensor([0.5, -2.0]),
        gamma=10.0,
    )
    yield Case(
        x=rand(g, 6, 1, 4, 4),
        logits=randn(g, 6, 1, 4, 4),
        mean=randn(g, 6, 3),
        log_var=randn(g, 6, 3),
        z_logits=randn(g, 6),
        gamma=6.4,
    )
    yield Case(
        x=rand(g, 1, 4),
        logits=200 * randn(g, 1, 4),
        mean=randn(g, 1, 2),
        log_var=torch.zeros(1, 2),
        z_logits=torch.tensor([-500.0]),
        gamma=0.0,
    )


factor_vae_loss.mistake(
    "You subtracted the total correlation, so the encoder is rewarded for dependent latents. It is a penalty: add it.",
    correlation_rewarded=("+ gamma", "- gamma"),
)
factor_vae_loss.mistake(
    "You added the ELBO. It is maximised, so −ELBO enters a loss.", elbo_minimised=("-elbo", "elbo")
)
factor_vae_loss.mistake(
    "γ weighs the KL here, too. That is a β-VAE again: in FactorVAE the KL keeps weight 1, and γ belongs to the total "
    "correlation alone.",
    gamma_on_the_kl=("+ gamma", "+ (gamma - 1) * elbo.gaussian_kl(mean, log_var).mean() + gamma"),
)
factor_vae_loss.mistake(
    "The KL term is missing. The total correlation comes on top of the ELBO; it does not replace its KL.",
    no_kl=("elbo.elbo(x, logits, mean, log_var)", "elbo.bernoulli_log_likelihood(x, logits).mean()"),
)
factor_vae_loss.mistake(
    "γ is missing: the total correlation enters with weight 1.", no_gamma=("gamma * ", "")
)
factor_vae_loss.mistake(
    "The value is right, but the discriminator's logits were detached: no gradient of the total correlation reaches "
    "the encoder, which is all that the term is there for.",
    logits_detached=("(z_logits)", "(z_logits.detach())"),
)
factor_vae_loss.mistake(
    "You weighed the total correlation by γ − 1, as in the β-TCVAE, whose −ELBO holds it once already, exactly. Here it is an "
    "extra term: γ TC.",
    gamma_minus_one=("gamma * ", "(gamma - 1) * "),
)
factor_vae_loss.mistake(
    "The total correlation is one number for each code in yours. Take its mean: the loss is a scalar.",
    per_code=("lesson.total_correlation_from_logits(z_logits)", "z_logits"),
)


# ------------------------------------------------------------------ factor_vae_step


@solution(
    lesson.factor_vae_step,
    hints=[
        "First the VAE in full (zero_grad, backward, step, zero_grad), then the discriminator in full, on codes that "
        "were cut from the encoder's graph. z.detach().chunk(2) gives the halves.",
        "loss.backward(inputs=list(vae.parameters())) computes the VAE's gradients and leaves the discriminator's alone.",
        "joint, other = z.detach().chunk(2); discriminator_loss(discriminator(joint), discriminator(permute(other))); "
        "clear its gradients, backward, step.",
    ],
)
def factor_vae_step(players, x, noise, gamma, permute):
    vae, discriminator, vae_optimiser, discriminator_optimiser = players
    mean, log_var = vae.encode(x)
    z = elbo.reparameterise(mean, log_var, noise)  # (B, D)
    z_logits = discriminator(z)
    loss = lesson.factor_vae_loss(x, vae.decode(z), mean, log_var, z_logits, gamma)
    vae_optimiser.zero_grad()
    loss.backward(inputs=list(vae.parameters()))  # not the discriminator's, which would only be thrown away
    vae_optimiser.step()

    joint, other = z.detach().chunk(2)  # different images, so independent, like the paper's second batch
    critic_loss = lesson.discriminator_loss(discriminator(joint), discriminator(permute(other)))
    discriminator_optimiser.zero_grad()
    critic_loss.backward()
    discriminator_optimiser.step()
    report = {
        "loss": loss,
        "total correlation": lesson.total_correlation_from_logits(z_logits),
        "discriminator loss": critic_loss,
    }
    return {name: value.detach() for name, value in report.items()}


@factor_vae_step.cases
def _(g):
    for batch, pixels, latents, width, gamma in ((4, 3, 2, 3, 4.0), (12, 8, 3, 6, 1.5)):
        yield Case(
            x=rand(g, batch, pixels),
            noise=randn(g, 2, batch, latents),
            gamma=gamma,
            encoder=randn(g, 2 * latents, pixels),
            decoder=randn(g, pixels, latents),
            discriminator=randn(g, width, latents),
        )


_DISCRIMINATORS_TURN = """\
    joint, other = z.detach().chunk(2)  # different images, so independent, like the paper's second batch
    critic_loss = lesson.discriminator_loss(discriminator(joint), discriminator(permute(other)))
    discriminator_optimiser.zero_grad()
    critic_loss.backward()
    discriminator_optimiser.step()
"""
factor_vae_step.mistake(
    "z was not detached before the discriminator's update: its backward pass runs on into the encoder, through a graph "
    "that the VAE's backward pass has used up (retain_graph=True only hides that). Give the discriminator z.detach().",
    not_detached=("z.detach().chunk(2)", "z.chunk(2)"),
    not_detached_but_retained=[
        ("z.detach().chunk(2)", "z.chunk(2)"),
        ("vae.parameters()))", "vae.parameters()), retain_graph=True)"),
    ],
)
factor_vae_step.mistake(
    "The VAE's loss runs backward through the discriminator and leaves gradients in its parameters, which your "
    "discriminator step then uses, too. Call its optimiser's zero_grad() between the two, or "
    "loss.backward(inputs=list(vae.parameters())).",
    critic_not_cleared=[
        ("inputs=list(vae.parameters())", ""),
        ("    discriminator_optimiser.zero_grad()\n", ""),
    ],
    critic_cleared_at_another_time=[
        ("inputs=list(vae.parameters())", ""),
        ("    discriminator_optimiser.zero_grad()\n", ""),
        (
            "discriminator_optimiser.step()",
            "discriminator_optimiser.step()\n    discriminator_optimiser.zero_grad()",
        ),
    ],
)
factor_vae_step.mistake(
    "The discriminator's gradients are never cleared: they add up from step to step. Call its optimiser's zero_grad(), too.",
    critic_adds_up=("    discriminator_optimiser.zero_grad()\n", ""),
)
factor_vae_step.mistake(
    "The VAE's gradients are never cleared: they add up from step to step. Call its optimiser's zero_grad().",
    vae_not_cleared=("    vae_optimiser.zero_grad()\n", ""),
)
factor_vae_step.mistake(
    "The VAE never moves: its optimiser's step() belongs after its backward pass.",
    vae_not_stepped=("    vae_optimiser.step()\n", ""),
)
factor_vae_step.mistake(
    "The discriminator never moves: its optimiser's step() belongs after its backward pass.",
    discriminator_not_stepped=("    discriminator_optimiser.step()\n", ""),
)
factor_vae_step.mistake(
    "The order is turned round: the VAE is updated first, against the discriminator as it is; then the discriminator.",
    discriminator_first=[
        (_DISCRIMINATORS_TURN, ""),
        ("    z_logits =", _DISCRIMINATORS_TURN + "    z_logits ="),
    ],
)
factor_vae_step.mistake(
    "The discriminator was shown the means. TC is defined for q(z), the distribution of the SAMPLES z = μ + σ ε: with "
    "the means, the encoder can hide its dependence in the noise.",
    means_for_samples=[
        ("discriminator(z)", "discriminator(mean)"),
        ("z.detach().chunk", "mean.detach().chunk"),
    ],
)
factor_vae_step.mistake(
    "No gradient of the total correlation reaches the encoder: z (or the logits) was detached in the VAE's loss as "
    "well. Detach only for the discriminator's own update.",
    detached_too_early=("discriminator(z)", "discriminator(z.detach())"),
)
factor_vae_step.mistake(
    "You used the whole batch on both sides: as it is, and permuted. The first half as it is against the second half "
    "permuted costs half as much and keeps the two sides independent.",
    whole_batch_for_both=("z.detach().chunk(2)", "z.detach(), z.detach()"),
)
factor_vae_step.mistake(
    "The halves are exchanged: the first half of the codes stays as it is, the second is permuted.",
    halves_exchanged=("joint, other = z", "other, joint = z"),
)
factor_vae_step.mistake(
    "Nothing was permuted: the discriminator compares codes with codes of the same kind and can only learn noise.",
    nothing_permuted=("permute(other)", "other"),
)
factor_vae_step.mistake(
    "The discriminator saw codes that the updated VAE encoded anew. Both updates use the same codes z: encode once.",
    encoded_anew=(
        "    joint, other = z",
        "    z = elbo.reparameterise(*vae.encode(x), noise)\n    joint, other = z",
    ),
)
factor_vae_step.mistake(
    'The report\'s entries are exchanged: "loss" is the VAE\'s, "discriminator loss" the discriminator\'s.',
    entries_exchanged=[
        ('"loss": loss', '"loss": critic_loss'),
        ('"discriminator loss": critic_loss', '"discriminator loss": loss'),
    ],
)


# ------------------------------------------------------------------ factor_vae_score


@solution(
    lesson.factor_vae_score,
    hints=[
        "codes.var(1) has the variances of all votes at once, (V, D).",
        "torch.where(alive, ratio, inf) keeps dead latents from winning; dropping their columns would read a mask on "
        "the host.",
        "Count into a table (D, K): index_add_ at best * n_factors + factors. Then table.amax(1).sum() / V.",
    ],
)
def factor_vae_score(codes, factors, global_variance, n_factors, threshold=0.05):
    alive = global_variance >= threshold  # (D,)
    ratio = torch.where(alive, codes.var(1) / global_variance, torch.inf)  # (V, D), without 0/0
    best = ratio.argmin(1)  # (V,)
    table = torch.zeros(len(alive) * n_factors, device=codes.device)
    table = table.index_add_(0, best * n_factors + factors, torch.ones_like(best, dtype=table.dtype))
    right = table.view(-1, n_factors).amax(1).sum()  # each latent stands for its most frequent factor
    return right / len(codes) * alive.any()


def _random_votes(g, votes, size, scale, n_factors, dead=0):
    """Codes whose latent j varies less (but not always least) where factor j is held; the last `dead` are constant."""
    latents = len(scale)
    factors = torch.randint(n_factors, (votes,), generator=g)
    held = factors[:, None, None] == torch.arange(latents) % n_factors
    noise = randn(g, votes, size, latents)
    codes = torch.where(held, 0.7 * noise, noise) * torch.tensor(scale) + randn(g, votes, 1, latents)
    if dead:
        codes[:, :, -dead:] = 0.3
    return dict(codes=codes, factors=factors, n_factors=n_factors)


@factor_vae_score.cases
def _(g):
    yield Case(  # three votes of two codes; latent 0 is still twice
        codes=torch.tensor([[[1.0, 3.0], [1.2, 0.0]], [[0.5, 1.0], [0.4, 4.0]], [[2.0, 1.5], [0.0, 1.0]]]),
        factors=torch.tensor([0, 0, 1]),
        global_variance=torch.tensor([1.0, 2.0]),
        n_factors=2,
    )
    yield Case(**_random_votes(g, 60, 8, [1.0, 0.2, 5.0], 3), global_variance=torch.tensor([1.0, 0.06, 30.0]))
    yield Case(
        **_random_votes(g, 80, 6, [1.0, 2.0, 0.5, 1.0, 0.1, 0.0], 4, dead=1),
        global_variance=torch.tensor([1.0, 4.0, 0.3, 1.0, 0.01, 0.0]),
    )
    yield Case(**_random_votes(g, 10, 4, [0.1, 0.1], 2), global_variance=torch.tensor([0.01, 0.0]))
    yield Case(  # latent 1, just at the threshold, is alive, latent 4 is not; latents 0 and 3 stand for one factor
        **_random_votes(g, 60, 20, [1.0, 0.7, 1.2, 2.0, 0.1], 3),
        global_variance=torch.tensor([1.0, 0.5, 1.5, 4.0, 0.3]),
        threshold=0.5,
    )
    yield Case(**_random_votes(g, 2, 2, [1.0], 1), global_variance=torch.tensor([500.0]))
    best, factors = torch.tensor([0, 0, 0, 0, 0, 1, 1]), torch.tensor([0, 0, 0, 1, 1, 0, 0])
    moved = 2 - 1.9 * F.one_hot(best, 2)  # both latents stand for factor 0; no latent stands for factor 1
    codes = torch.stack([torch.zeros(7, 2), moved], dim=1)
    yield Case(codes=codes, factors=factors, global_variance=torch.ones(2), n_factors=2)


factor_vae_score.mistake(
    "Dead latents take part. One that never moves has the smallest variance in every vote (or 0/0 = NaN, which argmin "
    "prefers), so it wins them all. Leave out latents whose global variance is below the threshold.",
    dead_latents_vote=[
        ("torch.where(alive, codes.var(1) / global_variance, torch.inf)", "codes.var(1) / global_variance"),
        (" * alive.any()", ""),
    ],
)
factor_vae_score.mistake(
    "The threshold is .05 in yours, whatever `threshold` says: use the argument.",
    threshold_ignored=(">= threshold", ">= 0.05"),
)
factor_vae_score.mistake(
    "A latent whose variance is just the threshold takes part: ≥, not >.",
    strictly_above=(">= threshold", "> threshold"),
)
factor_vae_score.mistake(
    "You compared the standard deviation with the threshold, which is one for the variance.",
    deviation_at_the_threshold=("global_variance >= threshold", "global_variance.sqrt() >= threshold"),
)
factor_vae_score.mistake(
    "The variances were not divided by the global ones: the latent with the smallest scale wins, whatever it encodes.",
    not_normalised=("codes.var(1) / global_variance", "codes.var(1)"),
)
factor_vae_score.mistake(
    "You took the latent that varies most. The factor was held still, so its latent is the one that varies LEAST.",
    largest_variance=[("torch.inf", "-torch.inf"), ("argmin", "argmax")],
)
factor_vae_score.mistake(
    "The majority was taken the wrong way round: you gave every factor its most frequent latent. The classifier maps a "
    "LATENT to the factor that most of its votes have (amax over the factors, then the sum over latents).",
    majority_over_latents=("amax(1)", "amax(0)"),
)
factor_vae_score.mistake(
    "You returned the number of right votes. The score is their share: divide by the number of votes.",
    number_of_votes=(" / len(codes)", ""),
)
factor_vae_score.mistake(
    "You divided by the global standard deviation. A variance is compared with a variance.",
    divided_by_deviation=("codes.var(1) / global_variance", "codes.var(1) / global_variance.sqrt()"),
)
factor_vae_score.mistake(
    "With no latent left to vote, the score is 0. Yours counts votes for a latent that encodes nothing.",
    votes_without_latents=(" * alive.any()", ""),
)
factor_vae_score.mistake(
    "Each factor has one latent in yours. Several latents may stand for one factor: every latent's majority counts.",
    one_latent_for_each_factor=(
        "table.view(-1, n_factors).amax(1).sum()",
        "(F.one_hot(table.view(-1, n_factors).argmax(1), n_factors) * table.view(-1, n_factors)).amax(0).sum()",
    ),
)
