"""Lesson 05: solutions, cases, named mistakes and hints."""

import copy

import torch
import torch.nn.functional as F

from course_lib.exercise.solution import Case, randn, small_numbers, solution
from course_lib.lessons import adda as lesson

# ------------------------------------------------------------------ proxy_a_distance


@solution(
    lesson.proxy_a_distance,
    hints=[
        "Of the source logits, those at or below 0 are errors; of the target logits, those above 0.",
        "The mean of a comparison is a rate: (source_logits <= 0).float().mean(). ε is half the sum of both rates.",
        "Twice one minus two errors; .clamp(min=0) keeps it from going below 0.",
    ],
)
def proxy_a_distance(source_logits, target_logits):
    error = 0.5 * ((source_logits <= 0).float().mean() + (target_logits > 0).float().mean())
    return (2 * (1 - 2 * error)).clamp(min=0)


@proxy_a_distance.cases
def _(g):
    yield Case(source_logits=torch.tensor([2.0, 0.2, -1.0, 3.0]), target_logits=torch.tensor([-2.0, -0.3]))
    yield Case(source_logits=1 + randn(g, 70), target_logits=randn(g, 30) - 0.5)
    yield Case(source_logits=randn(g, 50) - 1, target_logits=randn(g, 50) + 1)
    yield Case(
        source_logits=torch.tensor([0.0, 500.0, 1.0]), target_logits=torch.tensor([0.0, -500.0])
    )  # 0 says target
    yield Case(source_logits=torch.tensor([0.4]), target_logits=torch.tensor([-500.0]))


proxy_a_distance.mistake(
    "ε is the ERROR, not the accuracy: a perfect classifier has ε = 0 and distance 2.",
    accuracy_for_error=[("source_logits <=", "source_logits >"), ("target_logits >", "target_logits <=")],
)
proxy_a_distance.mistake(
    "This is 2 (1 − ε): chance, ε = ½, must give 0. The formula is 2 (1 − 2ε).",
    one_epsilon=("2 * error", "error"),
)
proxy_a_distance.mistake(
    "All errors were counted together, so the domain with more features decides. ε is the mean of the two domains' rates.",
    pooled=(
        "0.5 * ((source_logits <= 0).float().mean() + (target_logits > 0).float().mean())",
        "torch.cat([source_logits <= 0, target_logits > 0]).float().mean()",
    ),
)
proxy_a_distance.mistake(
    "These are logits, not probabilities: the boundary is at 0, not at ½.",
    half_as_boundary=[("<= 0", "<= 0.5"), ("> 0", "> 0.5")],
)
proxy_a_distance.mistake(
    "Right for a classifier better than chance; for a worse one the distance is 0, not negative: .clamp(min=0).",
    negative=(".clamp(min=0)", ""),
)
proxy_a_distance.mistake(
    "You averaged probabilities of being wrong. ε counts errors: a logit above 0 says source, how far above is no matter.",
    soft_errors=[
        ("(source_logits <= 0).float()", "(-source_logits).sigmoid()"),
        ("(target_logits > 0).float()", "target_logits.sigmoid()"),
    ],
)


# ------------------------------------------------------------------ copy_encoder


@solution(
    lesson.copy_encoder,
    hints=[
        "`target = source` gives one encoder two names. A new encoder needs parameters and buffers of its own.",
        "copy.deepcopy copies a module with everything in it: weights, running statistics, and also whether they are "
        "frozen and in which mode it is. The last two are not what the target encoder needs.",
        "copy.deepcopy makes it; .eval() sets its mode, .requires_grad_(True) lets it learn.",
    ],
)
def copy_encoder(encoder):
    return copy.deepcopy(encoder).eval().requires_grad_(True)


@copy_encoder.cases
def _(g):
    yield Case(x=randn(g, 3, 2), weight=randn(g, 2, 2), running_mean=randn(g, 2))
    yield Case(x=randn(g, 16, 5), weight=randn(g, 4, 5), running_mean=2 + randn(g, 4))
    yield Case(x=randn(g, 2, 3), weight=randn(g, 1, 3), running_mean=torch.zeros(1))


copy_encoder.mistake(
    "This is no copy but the same encoder under a second name: whatever the target encoder learns, the source encoder "
    "learns, too. copy.deepcopy makes an independent one.",
    same_encoder=("copy.deepcopy(encoder)", "encoder"),
    encoder_returned=("copy.deepcopy(encoder).eval().requires_grad_(True)", "encoder"),
)
copy_encoder.mistake(
    "The copy is frozen, as the source is: deepcopy copies requires_grad as well, and the optimiser would have nothing "
    "to train. Call requires_grad_(True) on the copy.",
    still_frozen=(".requires_grad_(True)", ""),
)
copy_encoder.mistake(
    "The copy is in training mode, as this source was. The frozen source encoder runs in eval mode; with batch norm "
    "or dropout working differently in the two, the critic sees the mode, not the domain. Call .eval() on the copy.",
    mode_of_the_source=(".eval()", ""),
)


@copy_encoder.mistake(
    "The weights are equal, but the buffers are not: batch norm's running mean and variance are no parameters, so a "
    "loop over parameters() misses them. state_dict() and deepcopy have both."
)
def buffers_forgotten(encoder):
    new = copy.deepcopy(encoder).eval().requires_grad_(True)
    for module in new.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.reset_running_stats()
    return new


copy_encoder.mistake(
    "You thawed and switched the source encoder before copying it. It must stay as it is: frozen. Change the copy only.",
    source_changed=("(encoder).eval().requires_grad_(True)", "(encoder.eval().requires_grad_(True))"),
)
copy_encoder.mistake(
    "deepcopy copies everything, also what the target encoder must not have: the source is frozen and in training mode, and "
    "so is the copy. Call .eval() and .requires_grad_(True) on it.",
    plain_deepcopy=(".eval().requires_grad_(True)", ""),
)
copy_encoder.mistake(
    "copy.copy copies the outer module alone. Its layers are the source's own, so what the target encoder learns, the source "
    "encoder learns, too: copy.deepcopy copies all of it.",
    shallow_copy=("copy.deepcopy", "copy.copy"),
    shallow_copy_alone=("copy.deepcopy(encoder).eval().requires_grad_(True)", "copy.copy(encoder)"),
)


# ------------------------------------------------------------------ domain_critic_loss


@solution(
    lesson.domain_critic_loss,
    hints=[
        "This is the critic's turn: it learns, the encoders do not. What cuts a tensor off from where it came from?",
        "−log σ(t) = softplus(−t), and −log(1 − σ(t)) = softplus(t): stable for logits of any size.",
        "The critic sees source_features.detach() and target_features.detach(). With their logits s and t, half the sum "
        "of softplus(−s).mean() and softplus(t).mean().",
    ],
)
def domain_critic_loss(critic, source_features, target_features):
    source, target = critic(source_features.detach()), critic(target_features.detach())
    return 0.5 * (F.softplus(-source).mean() + F.softplus(target).mean())


@domain_critic_loss.cases
def _(g):
    yield Case(
        source_features=torch.tensor([[1.0, 0.0], [0.5, 0.0]]),
        target_features=torch.tensor([[0.0, 1.0]]),
        weight=torch.tensor([1.0, -2.0]),
    )
    yield Case(source_features=randn(g, 12, 3), target_features=randn(g, 7, 3), weight=randn(g, 3))
    yield Case(source_features=200 * randn(g, 6, 2), target_features=200 * randn(g, 6, 2), weight=randn(g, 2))
    yield Case(
        source_features=torch.tensor([[-500.0]]),
        target_features=torch.tensor([[500.0]]),
        weight=torch.ones(1),
    )


domain_critic_loss.mistake(
    "The value is right, but the features are not detached: the critic's loss would train the encoders to be told "
    "apart. Call .detach() on both.",
    not_detached=[
        ("source_features.detach()", "source_features"),
        ("target_features.detach()", "target_features"),
    ],
)
domain_critic_loss.mistake(
    "You detached the critic's logits. That cuts off the critic itself, which then learns nothing. Detach the features "
    "BEFORE they go in.",
    logits_detached=[
        ("(source_features.detach())", "(source_features).detach()"),
        ("(target_features.detach())", "(target_features).detach()"),
    ],
)
domain_critic_loss.mistake(
    "The labels are exchanged: source is class 1, target class 0.",
    labels_exchanged=[("-source", "source"), ("softplus(target)", "softplus(-target)")],
)
domain_critic_loss.mistake(
    "This is the sum of the two means, not their half: a critic that cannot tell should pay log 2.",
    no_half=("0.5 * ", ""),
)
domain_critic_loss.mistake(
    "You took one mean over all features together, so the domain with the larger batch counts more. Take a mean over "
    "each domain, then half their sum.",
    one_mean=(
        "0.5 * (F.softplus(-source).mean() + F.softplus(target).mean())",
        "torch.cat([F.softplus(-source), F.softplus(target)]).mean()",
    ),
)
domain_critic_loss.mistake(
    "Right for moderate logits, but log(sigmoid(…)) is −∞ once the sigmoid rounds to 0 or 1. Use F.softplus or "
    "binary_cross_entropy_with_logits.",
    log_of_sigmoid=[
        ("F.softplus(-source)", "-source.sigmoid().log()"),
        ("F.softplus(target)", "-(1 - target.sigmoid()).log()"),
    ],
)
domain_critic_loss.mistake(
    "The mean over each domain is missing: the loss is a scalar.",
    no_mean=(
        "F.softplus(-source).mean() + F.softplus(target).mean()",
        "torch.cat([F.softplus(-source), F.softplus(target)])",
    ),
)
domain_critic_loss.mistake(
    "You summed over the batches. Take the mean over each domain: the loss must not grow with the batch.",
    summed=[("(-source).mean", "(-source).sum"), ("(target).mean", "(target).sum")],
)
domain_critic_loss.mistake(
    "A small number inside the logarithm, or a clamp (F.binary_cross_entropy has one), keeps the loss finite and makes it "
    "wrong where the critic is sure; no gradient comes from there. Use F.softplus or the cross-entropy with logits.",
    **small_numbers(
        ("F.softplus(-source)", "-(source.sigmoid(){plus}).log(){cut}"),
        ("F.softplus(target)", "-(1 - target.sigmoid(){plus}).log(){cut}"),
    ),
)


# ------------------------------------------------------------------ inverted_label_loss


@solution(
    lesson.inverted_label_loss,
    hints=[
        "The features come from the target, and the encoder wants the critic to say source, class 1.",
        "−log σ(t) = log(1 + e^(−t)) = softplus(−t).",
        "−log σ(l) is F.softplus(−l), stable for any l. Then the mean over the batch.",
    ],
)
def inverted_label_loss(target_logits):
    return F.softplus(-target_logits).mean()


@inverted_label_loss.cases
def _(g):
    yield Case(target_logits=torch.tensor([0.0, 2.0, -1.0]))
    yield Case(target_logits=3 * randn(g, 40))
    yield Case(target_logits=torch.tensor([200.0, -200.0, 1.0]))
    yield Case(target_logits=torch.tensor([-500.0]))


inverted_label_loss.mistake(
    "This is the critic's own loss on target features: the encoder would learn to be recognised. Invert the label.",
    label_not_inverted=("-target", "target"),
)
inverted_label_loss.mistake(
    "This is the minimax form, mean log(1 − σ): it wants the same, but its gradient vanishes where the critic is sure "
    "that a feature is target, which is where the encoder begins.",
    minimax=("F.softplus(-target", "-F.softplus(target"),
)
inverted_label_loss.mistake(
    "The sign is wrong: this is the log-likelihood. A loss is minimised.",
    sign_turned=("F.softplus", "-F.softplus"),
)
inverted_label_loss.mistake(
    "You summed over the batch. Take the mean: the loss must not grow with it.", summed=(".mean()", ".sum()")
)
inverted_label_loss.mistake(
    "Right for moderate logits, but log(sigmoid(…)) is −∞ once the sigmoid rounds to 0. Use F.softplus or "
    "binary_cross_entropy_with_logits.",
    log_of_sigmoid=("F.softplus(-target_logits)", "-target_logits.sigmoid().log()"),
)
inverted_label_loss.mistake(
    "The mean over the batch is missing: the loss is a scalar.", no_mean=(".mean()", "")
)
inverted_label_loss.mistake(
    "A small number inside the logarithm, or a clamp (F.binary_cross_entropy has one), keeps the loss finite, but no "
    "gradient comes from where the critic is sure, and there the encoder has most to learn. Use F.softplus or the "
    "cross-entropy with logits.",
    **small_numbers(("F.softplus(-target_logits)", "-(target_logits.sigmoid(){plus}).log(){cut}")),
)


# ------------------------------------------------------------------ adda_step


@solution(
    lesson.adda_step,
    hints=[
        "Two complete updates, one after the other: zero_grad, backward, step for the critic; then the same for the "
        "target encoder. The target's features may be computed once: the critic's update does not change the encoder.",
        "The source encoder is a fixed target: compute its features under torch.no_grad().",
        "critic_loss = adda.domain_critic_loss(critic, source, target); after critic_optimiser.step(): encoder_loss = "
        "adda.inverted_label_loss(critic(target)), with the logits of the UPDATED critic.",
    ],
)
def adda_step(players, source_x, target_x):
    source_encoder, target_encoder, critic, encoder_optimiser, critic_optimiser = players
    with torch.no_grad():
        source = source_encoder(source_x)  # (B, D)
    target = target_encoder(target_x)  # (C, D)

    critic_loss = lesson.domain_critic_loss(critic, source, target)
    critic_optimiser.zero_grad()
    critic_loss.backward()
    critic_optimiser.step()

    encoder_loss = lesson.inverted_label_loss(critic(target))
    encoder_optimiser.zero_grad()
    encoder_loss.backward()
    encoder_optimiser.step()
    return {"critic loss": critic_loss.detach(), "encoder loss": encoder_loss.detach()}


@adda_step.cases
def _(g):
    for batch, pixels, features, width in ((3, 3, 2, 2), (10, 6, 4, 5), (1, 2, 1, 3)):
        yield Case(
            source_x=randn(g, batch, pixels),
            target_x=1 + randn(g, batch + 2, pixels),
            source_weight=randn(g, features, pixels),
            target_weight=randn(g, features, pixels),
            running_mean=randn(g, features),
            critic_weight=randn(g, width, features),
        )


_CRITICS_TURN = """\
    critic_loss = lesson.domain_critic_loss(critic, source, target)
    critic_optimiser.zero_grad()
    critic_loss.backward()
    critic_optimiser.step()
"""
adda_step.mistake(
    "A gradient reaches the source encoder. It is the fixed point of the game: compute its features under "
    "torch.no_grad(), or detach them.",
    source_not_detached=[
        ("with torch.no_grad():\n        source", "source"),
        (
            "lesson.domain_critic_loss(critic, source, target)",
            "0.5 * (F.softplus(-critic(source)).mean() + F.softplus(critic(target.detach())).mean())",
        ),
    ],
)
adda_step.mistake(
    "The encoder's loss runs backward through the critic and leaves gradients there, which the critic's next update "
    "then uses, too. Clear them with zero_grad() before the critic's backward pass.",
    critic_not_cleared=("    critic_optimiser.zero_grad()\n", ""),
)
adda_step.mistake(
    "The target encoder's gradients add up from step to step. Clear them with zero_grad() before its backward pass.",
    encoder_not_cleared=("    encoder_optimiser.zero_grad()\n", ""),
)
adda_step.mistake(
    "The order is turned round: the critic is updated first, and the encoder then plays against the updated critic.",
    encoder_first=[(_CRITICS_TURN, ""), ("    return", _CRITICS_TURN + "    return")],
)
adda_step.mistake(
    "The encoder descends the critic's own loss: it helps the critic to recognise it. Use inverted_label_loss.",
    own_label=("lesson.inverted_label_loss(critic(target))", "F.softplus(critic(target)).mean()"),
)
adda_step.mistake(
    "The critic is stepped a second time, on the gradients of the encoder's loss: it learns to be fooled. Each player's "
    "optimiser steps once, after its own backward pass.",
    critic_steps_twice=("encoder_optimiser.step()", "encoder_optimiser.step()\n    critic_optimiser.step()"),
)
adda_step.mistake(
    "You called train() on the target encoder. It then normalises with the batch's own statistics, and the source "
    "encoder with its running ones: the critic sees the mode, not the domain. Leave the modes as they are.",
    target_in_training_mode=("target_encoder(target_x)", "target_encoder.train()(target_x)"),
)
adda_step.mistake(
    "The target encoder does not move: its optimiser's step() belongs after its backward pass.",
    encoder_not_stepped=("    encoder_optimiser.step()\n", ""),
)
adda_step.mistake(
    "The target encoder does not move: no gradient reaches it. Its features must not be detached, nor computed under "
    "no_grad (domain_critic_loss detaches them itself), and its loss needs a backward pass.",
    target_detached=("target_encoder(target_x)", "target_encoder(target_x).detach()"),
)
adda_step.mistake(
    "The critic never moves: its optimiser's step() belongs after its backward pass.",
    critic_not_stepped=("    critic_optimiser.step()\n", ""),
)
adda_step.mistake(
    "The critic descends the loss for inverted labels, the encoder's. Its own is domain_critic_loss.",
    critic_inverted=(
        "lesson.domain_critic_loss(critic, source, target)",
        "lesson.domain_critic_loss(critic, target, source)",
    ),
)
adda_step.mistake(
    "The critic's mode was changed (eval or train). Leave the modes as they are.",
    critic_switched=("    encoder_loss =", "    critic.eval()\n    encoder_loss ="),
)
adda_step.mistake(
    "The report's entries are exchanged.",
    entries_exchanged=[
        ('"critic loss": critic_loss', '"critic loss": encoder_loss'),
        ('"encoder loss": encoder_loss', '"encoder loss": critic_loss'),
    ],
)


# ------------------------------------------------------------------ gradient_reverse


@solution(
    lesson.gradient_reverse,
    hints=[
        "A torch.autograd.Function has two static methods: forward(ctx, x, weight) and backward(ctx, gradient). Keep "
        "the weight in ctx.",
        "forward returns x.view_as(x): a new tensor, so that autograd sees an operation. backward returns one value for "
        "each argument of forward: −weight · gradient for x, None for the weight.",
        "Call it with .apply: Reverse.apply(x, weight).",
    ],
)
def gradient_reverse(x, weight):
    class Reverse(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, weight):
            ctx.weight = weight
            return x.view_as(x)

        @staticmethod
        def backward(ctx, gradient):
            return -ctx.weight * gradient, None  # one for each argument of forward; a number has none

    return Reverse.apply(x, weight)


@gradient_reverse.cases
def _(g):
    yield Case(x=torch.tensor([1.0, -2.0, 3.0]), weight=0.5)
    yield Case(x=randn(g, 5, 4), weight=1.0)
    yield Case(x=randn(g, 3, 2, 2), weight=2.0)
    yield Case(x=500 * randn(g, 1, 2), weight=0.0)


gradient_reverse.mistake(
    "The gradient passes unchanged: the encoder would help the critic. backward must return −weight · gradient.",
    not_reversed=("-ctx.weight * gradient", "gradient"),
)
gradient_reverse.mistake(
    "The gradient is scaled but not reversed: the minus sign is missing in backward.",
    no_minus=("-ctx", "ctx"),
)
gradient_reverse.mistake(
    "The gradient is reversed, but the weight is missing: −weight · gradient.",
    no_weight=("-ctx.weight * gradient", "-gradient"),
)
gradient_reverse.mistake(
    "You turned the values round, too. On the way forward nothing happens: forward returns x itself.",
    values_reversed=("x.view_as(x)", "-weight * x"),
)
gradient_reverse.mistake(
    "The values are right, but no gradient gets through: was x detached, or does backward return None for it?",
    blocked=("-ctx.weight * gradient, None", "None, None"),
)


@gradient_reverse.mistake(
    "x itself is changed, by a hook or in place (mark_dirty): its gradient is then reversed wherever x is used, not only "
    "behind this function. Return a new tensor."
)
def hook_on_x(x, weight):
    if x.requires_grad:
        x.register_hook(lambda gradient: -weight * gradient)
    return x


gradient_reverse.mistake(
    "The gradient is changed in place (mul_, neg_, *=). Others may be given the same tensor: make a new one.",
    gradient_in_place=("return -ctx.weight * gradient, None", "return gradient.mul_(-ctx.weight), None"),
)


# ------------------------------------------------------------------ coral_loss


@solution(
    lesson.coral_loss,
    hints=[
        "Centre the features first: subtract each domain's own mean over the batch.",
        "A covariance matrix is one matrix product, centred.T @ centred, (D, B) @ (B, D), divided by B − 1. (torch.cov does "
        "it, too, with the variables in rows.)",
        "centred = x − x.mean(0); C = centred.T @ centred / (len(x) − 1), for each domain; then (C_s − "
        "C_t).square().sum() / (4 · D²).",
    ],
)
def coral_loss(source_features, target_features):
    def covariance(x):
        centred = x - x.mean(0)
        return centred.T @ centred / (len(x) - 1)  # (D, D)

    difference = covariance(source_features) - covariance(target_features)
    return difference.square().sum() / (4 * source_features.shape[1] ** 2)


@coral_loss.cases
def _(g):
    yield Case(
        source_features=torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 3.0]]),
        target_features=torch.tensor([[2.0, 1.0], [0.0, 1.0], [1.0, -2.0], [3.0, 0.0]]),
    )
    yield Case(source_features=3 + 2 * randn(g, 6, 3), target_features=randn(g, 9, 3) @ randn(g, 3, 3))
    yield Case(source_features=3 * randn(g, 5, 4), target_features=1 - randn(g, 8, 4))
    yield Case(source_features=500 * randn(g, 2, 1), target_features=torch.zeros(3, 1))


coral_loss.mistake(
    "The means are not subtracted: these are second moments, not covariances. Centre each domain by its own mean.",
    not_centred=(" - x.mean(0)", ""),
)
coral_loss.mistake(
    "A covariance is divided by B − 1, not by B: the mean was estimated from the same batch.",
    biased=("(len(x) - 1)", "len(x)"),
)
coral_loss.mistake(
    "These are correlations: dividing by the standard deviations hides a difference in scale, which is what CORAL "
    "should see.",
    correlations=("centred.T @ centred / (len(x) - 1)", "torch.corrcoef(x.T)"),
)
coral_loss.mistake(
    "The sum of squares is divided by 4 D², not by D² alone.",
    no_four=("(4 * source_features.shape[1] ** 2)", "source_features.shape[1] ** 2"),
)
coral_loss.mistake(
    "The sum of squares is not divided: 1 / 4D² is missing, so the loss grows with the features.",
    not_divided=(" / (4 * source_features.shape[1] ** 2)", ""),
)
coral_loss.mistake(
    "You took the root: ‖·‖²_F is the SQUARED norm, the sum of squares itself.",
    rooted=(".sum()", ".sum().sqrt()"),
)
coral_loss.mistake(
    "Only the variances on the diagonal are compared. Features may vary as much and still vary TOGETHER differently: "
    "compare the whole matrices.",
    variances_only=("centred.T @ centred / (len(x) - 1)", "x.var(0)"),
)
