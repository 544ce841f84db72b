"""Lesson 06: solutions, cases, named mistakes and hints."""

import torch
import torch.nn.functional as F

from course_lib.exercise.solution import Case, rand, randn, small_numbers, solution
from course_lib.lessons import elbo
from course_lib.lessons import ufdn as lesson

# ------------------------------------------------------------------ attach_domain_code


@solution(
    lesson.attach_domain_code,
    hints=[
        "torch.cat along axis 1, once the code has the axes of x. A map has two more than the code.",
        "code[:, :, None, None] is (B, K, 1, 1); expand(-1, -1, H, W) repeats it over the map without copying.",
        "Only where x.ndim is 4 does the code need the two axes, expanded to the height and width of x; then torch.cat.",
    ],
)
def attach_domain_code(x, code):
    if x.ndim == 4:
        code = code[:, :, None, None].expand(-1, -1, *x.shape[2:])  # (B, K, H, W)
    return torch.cat([x, code], dim=1)


@attach_domain_code.cases
def _(g):
    yield Case(x=randn(g, 2, 3), code=torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    yield Case(x=randn(g, 2, 1, 2, 3), code=rand(g, 2, 3))
    yield Case(x=randn(g, 4, 3, 3, 3), code=rand(g, 4, 4))
    yield Case(x=500 * randn(g, 1, 2, 1, 1), code=torch.tensor([[0.0, 0.25, 0.75]]))
    yield Case(x=randn(g, 3, 1), code=torch.ones(3, 1))


attach_domain_code.mistake(
    "The code comes last: first the D or C channels of x, then those of the code.",
    code_first=("[x, code]", "[code, x]"),
)
attach_domain_code.mistake(
    "Every example got the code of the first one. Example b gets code b: expand over the map, not over the batch.",
    one_code_for_all=("[x, code]", "[x, code[:1].expand_as(code)]"),
)
attach_domain_code.mistake(
    "In a map only one pixel has the code, all the others have zeros. A convolution sees a few pixels at a time: each of "
    "them needs the code.",
    in_one_corner=(
        "code[:, :, None, None].expand(-1, -1, *x.shape[2:])",
        "F.pad(code[:, :, None, None], (0, x.shape[3] - 1, 0, x.shape[2] - 1))",
    ),
)
attach_domain_code.mistake(
    "The code was divided by the number of pixels. Each pixel gets the code itself, not a share of it.",
    shared_out=(
        "code[:, :, None, None].expand(-1, -1, *x.shape[2:])",
        "code[:, :, None, None].expand(-1, -1, *x.shape[2:]) / x[0, 0].numel()",
    ),
)
attach_domain_code.mistake(
    "The values are right, but no gradient reaches x: it was detached, or rebuilt as new data. The decoder's gradient must "
    "get through to the encoder.",
    x_detached=("[x,", "[x.detach(),"),
)
attach_domain_code.mistake(
    "You put the index of the domain there, or rounded the code to one-hot. Mixtures of domains are wanted later: attach "
    "the code as it is.",
    made_one_hot=("    if", "    code = F.one_hot(code.argmax(1), code.shape[1]).to(code.dtype)\n    if"),
)


# ------------------------------------------------------------------ ufdn_vae_loss


@solution(
    lesson.ufdn_vae_loss,
    hints=[
        "Two sums for each example, over pixels and over latents; then one mean, over the batch.",
        "Square the differences; flatten(1) and sum(1) give (B,). elbo.gaussian_kl(mean, log_var) is (B,) too.",
        "Add kl_weight times the KL to the squared error, both (B,), then .mean().",
    ],
)
def ufdn_vae_loss(x, x_hat, mean, log_var, kl_weight):
    error = (x - x_hat).square().flatten(1).sum(1)  # (B,)
    return (error + kl_weight * elbo.gaussian_kl(mean, log_var)).mean()


@ufdn_vae_loss.cases
def _(g):
    for shape, d, weight in (
        ((2, 1, 2, 2), 3, 0.5),
        ((4, 3, 2, 2), 5, 2.0),
        ((3, 6), 4, 0.1),
        ((1, 3), 1, 0.0),
    ):
        yield Case(
            x=rand(g, *shape),
            x_hat=rand(g, *shape),
            mean=randn(g, shape[0], d),
            log_var=randn(g, shape[0], d),
            kl_weight=weight,
        )


ufdn_vae_loss.mistake(
    "The squared error is averaged over the pixels (F.mse_loss does that) and the KL summed: so the KL weighs as many "
    "times more as there are pixels, and z soon holds nothing. Sum over the pixels.",
    mean_over_pixels=(".sum(1)", ".mean(1)"),
)
ufdn_vae_loss.mistake(
    "The KL is averaged over the latents. The KL of independent Gaussians is the SUM of theirs.",
    mean_over_latents=("(mean, log_var)", "(mean, log_var) / mean.shape[1]"),
)
ufdn_vae_loss.mistake(
    "You summed over the batch. Take the mean over it: the loss must not grow with the batch.",
    summed_over_batch=(".mean()", ".sum()"),
)
ufdn_vae_loss.mistake(
    "The weight stands on the wrong term: kl_weight multiplies the KL, not the squared error.",
    weight_on_the_error=("error + kl_weight * ", "kl_weight * error + "),
)
ufdn_vae_loss.mistake(
    "The KL has the wrong sign: it is a penalty, and the loss is minimised.",
    kl_rewarded=("error + ", "error - "),
)
ufdn_vae_loss.mistake(
    "This is the sum of absolute errors. Square the differences.", absolute_error=(".square()", ".abs()")
)
ufdn_vae_loss.mistake(
    "There is a factor ½ before the squared error that the contract does not have.",
    half_the_error=("error + ", "0.5 * error + "),
)
ufdn_vae_loss.mistake(
    "Without the mean over the batch this is one loss for each image: return a scalar.",
    per_image=(".mean()", ""),
)
ufdn_vae_loss.mistake("kl_weight is not used: multiply the KL by it.", no_weight=("kl_weight * ", ""))


# ------------------------------------------------------------------ confusion_loss


@solution(
    lesson.confusion_loss,
    hints=[
        "The cross-entropy of a target distribution t with the critic's p is −Σ_k t_k log p_k. Here t_k = 1/K for all k.",
        "F.log_softmax(logits, dim=1) is stable. With t_k = 1/K the sum over k is a mean over k.",
        "The mean of −F.log_softmax(logits, dim=1) over all its elements.",
    ],
)
def confusion_loss(logits):
    return -F.log_softmax(logits, dim=1).mean()


@confusion_loss.cases
def _(g):
    yield Case(logits=torch.tensor([[2.0, 0.0, -1.0], [0.5, 0.5, 0.0]]))
    yield Case(logits=3 * randn(g, 20, 4))
    yield Case(logits=randn(g, 6, 2))
    yield Case(logits=torch.tensor([[200.0, -200.0, 1.0], [0.0, 150.0, -3.0]]))
    yield Case(logits=torch.tensor([[-500.0, 500.0]]))
    yield Case(logits=torch.zeros(3, 5))


confusion_loss.mistake(
    "The target is not a distribution: with ones (or 1 − one-hot, for more than two domains) the weights sum to more than "
    "1. Uniform is 1/K for each of the K domains.",
    weights_of_one=(".mean()", ".sum(1).mean()"),
)
confusion_loss.mistake(
    "The weight of each domain is ½, which is uniform for two domains only. It is 1/K.",
    always_a_half=[("-F", "-0.5 * F"), (".mean()", ".sum(1).mean()")],
)
confusion_loss.mistake(
    "This is the negative entropy of the critic's answer, Σ p log p. It has the same minimum, but where the critic is sure "
    "its gradient vanishes, and there the encoder has most to learn. Take the cross-entropy with the uniform target.",
    negative_entropy=(
        "-F.log_softmax(logits, dim=1).mean()",
        "(logits.softmax(1) * F.log_softmax(logits, dim=1)).sum(1).mean()",
    ),
)
confusion_loss.mistake(
    "The sign is wrong: the mean of log p is maximal at the uniform distribution, and a loss is minimised.",
    sign_turned=("-F", "F"),
)
confusion_loss.mistake(
    "You summed over the batch. Take the mean: the loss must not grow with it.",
    summed_over_batch=(".mean()", ".mean(1).sum()"),
)
confusion_loss.mistake(
    "Each logit went through a sigmoid of its own. The domains exclude each other: one softmax over all K.",
    sigmoids=(
        "-F.log_softmax(logits, dim=1).mean()",
        "F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, 1 / logits.shape[1]))",
    ),
)
confusion_loss.mistake(
    "Right for moderate logits, but the log of a softmax is −∞ once the softmax rounds to 0. Use F.log_softmax.",
    log_of_softmax=("F.log_softmax(logits, dim=1)", "logits.softmax(1).log()"),
)
confusion_loss.mistake(
    "Without the mean over the batch this is one loss for each example: return a scalar.",
    per_example=(".mean()", ".mean(1)"),
)
confusion_loss.mistake(
    "A small number inside the logarithm, or a clamp, keeps the loss finite and makes it wrong where the critic is sure; no "
    "gradient comes from there. Use F.log_softmax.",
    **small_numbers(("F.log_softmax(logits, dim=1)", "(logits.softmax(1){plus}).log(){cut}")),
)


# ------------------------------------------------------------------ ufdn_step


@solution(
    lesson.ufdn_step,
    hints=[
        "Two complete updates. The critic's: it sees z.detach(), and its target is the true domain. The model's: the same "
        "z, not detached, the critic's new logits, and the uniform target.",
        "F.cross_entropy takes one-hot targets as they are. Each optimiser's zero_grad() goes right before its own backward "
        "pass: the critic must lose the gradients that the model's turn left in it.",
        "Model's turn: ufdn.ufdn_vae_loss of model.decode(z, code); add "
        "confusion_weight · ufdn.confusion_loss(critic(z)) and task_loss(z); backward and step.",
    ],
)
def ufdn_step(players, x, code, noise, task_loss, kl_weight, confusion_weight):
    model, critic, model_optimiser, critic_optimiser = players
    mean, log_var = model.encode(x)
    z = elbo.reparameterise(mean, log_var, noise)  # (B, D)

    critic_loss = F.cross_entropy(critic(z.detach()), code)
    critic_optimiser.zero_grad()
    critic_loss.backward()
    critic_optimiser.step()

    vae_loss = lesson.ufdn_vae_loss(x, model.decode(z, code), mean, log_var, kl_weight)
    confusion, task = lesson.confusion_loss(critic(z)), task_loss(z)
    model_optimiser.zero_grad()
    (vae_loss + confusion_weight * confusion + task).backward()
    model_optimiser.step()
    report = {"critic loss": critic_loss, "VAE loss": vae_loss, "confusion": confusion, "task loss": task}
    return {name: value.detach() for name, value in report.items()}


@ufdn_step.cases
def _(g):
    sizes = ((3, 3, 2, 2, 2, 0.3, 2.0), (9, 5, 3, 3, 4, 1.0, 0.5), (1, 2, 1, 2, 1, 0.0, 1.0))
    for batch, pixels, d, k, width, kl_weight, confusion_weight in sizes:
        yield Case(
            x=rand(g, batch, pixels),
            code=torch.eye(k)[torch.arange(batch) % k],
            noise=randn(g, 2, batch, d),
            encoder=0.5 * randn(g, 2 * d, pixels),
            decoder=0.5 * randn(g, pixels, d + k),
            critic_weight=randn(g, width, d),
            kl_weight=kl_weight,
            confusion_weight=confusion_weight,
        )


_CRITICS_TURN = """\
    critic_loss = F.cross_entropy(critic(z.detach()), code)
    critic_optimiser.zero_grad()
    critic_loss.backward()
    critic_optimiser.step()
"""
ufdn_step.mistake(
    "The critic's loss reaches the encoder: z is not detached in the critic's turn, so its backward pass runs on into the "
    "encoder, to show the domain, and uses up the graph that the model's turn needs. Give the critic z.detach().",
    z_not_detached=("critic(z.detach())", "critic(z)"),
    z_not_detached_but_retained=[
        ("critic(z.detach())", "critic(z)"),
        ("critic_loss.backward()", "critic_loss.backward(retain_graph=True)"),
    ],
    z_not_detached_and_kept=[
        ("critic(z.detach())", "critic(z)"),
        ("critic_loss.backward()", "critic_loss.backward(retain_graph=True)"),
        ("    model_optimiser.zero_grad()\n", ""),
        (
            "    critic_optimiser.zero_grad()",
            "    critic_optimiser.zero_grad()\n    model_optimiser.zero_grad()",
        ),
    ],
)
ufdn_step.mistake(
    "The model's loss runs backward through the critic and leaves gradients there, which the critic's next update then "
    "uses, too. Clear the critic's optimiser (zero_grad) before the critic's backward pass.",
    critic_not_cleared=("    critic_optimiser.zero_grad()\n", ""),
)
ufdn_step.mistake(
    "The model's gradients add up from step to step. Clear the model's optimiser (zero_grad) before its backward pass.",
    model_not_cleared=("    model_optimiser.zero_grad()\n", ""),
)
ufdn_step.mistake(
    "The critic never moves: its optimiser's step() belongs after its backward pass.",
    critic_not_stepped=("    critic_optimiser.step()\n", ""),
)
ufdn_step.mistake(
    "The model never moves: its optimiser's step() belongs after its backward pass.",
    model_not_stepped=("    model_optimiser.step()\n", ""),
)
ufdn_step.mistake(
    "The order is turned round: the critic is updated first, and the model then plays against the updated critic.",
    model_first=[(_CRITICS_TURN, ""), ("    report =", _CRITICS_TURN + "    report =")],
)
ufdn_step.mistake(
    "The model climbs the critic's own loss instead of descending the confusion loss. To be taken for a WRONG domain is "
    "not enough (it tells the domain, too): the target is the uniform distribution.",
    critic_loss_reversed=("lesson.confusion_loss(critic(z))", "-F.cross_entropy(critic(z), code)"),
)
ufdn_step.mistake(
    "The model descends the critic's loss: it helps the critic to find the domain. Use confusion_loss.",
    helps_the_critic=("lesson.confusion_loss(critic(z))", "F.cross_entropy(critic(z), code)"),
)
ufdn_step.mistake(
    "No gradient of the confusion reaches the encoder: z is detached in the model's turn as well. Detach it for the critic "
    "alone.",
    detached_for_both=("confusion_loss(critic(z))", "confusion_loss(critic(z.detach()))"),
)
ufdn_step.mistake(
    "confusion_weight is not used: multiply the confusion loss by it.", no_weight=("confusion_weight * ", "")
)
ufdn_step.mistake(
    'The report has the losses before their weights: "confusion" is the confusion loss itself.',
    report_weighted=('"confusion": confusion', '"confusion": confusion_weight * confusion'),
)
ufdn_step.mistake("The task loss is not in the model's loss: add task_loss(z).", no_task=(" + task)", ")"))
ufdn_step.mistake(
    "The critic is stepped a second time, on the gradients of the model's loss: it learns to be confused. Each optimiser "
    "steps once, after its own backward pass.",
    critic_steps_twice=("model_optimiser.step()", "model_optimiser.step()\n    critic_optimiser.step()"),
)
ufdn_step.mistake(
    "The decoder got the mean, without noise. It decodes z = μ + σ ε: otherwise the KL costs nothing but σ, and z and what "
    "the critic sees are two things.",
    mean_decoded=("model.decode(z,", "model.decode(mean,"),
)


# ------------------------------------------------------------------ translate


@solution(
    lesson.translate,
    hints=[
        "Every image with every code: B · K pairs (z, code), all in one batch. Which index runs faster, image or domain?",
        "torch.eye(K, device=…) has the K codes as rows. z[:, None].expand(-1, K, -1).flatten(0, 1) repeats each "
        "z K times in a row; the codes, expanded the other way, go round B times.",
        "images = decode(z_pairs, code_pairs), (B · K, …); then images.unflatten(0, (B, K)).",
    ],
)
def translate(encode, decode, x, domains):
    mean, _ = encode(x)
    codes = torch.eye(domains, device=x.device)
    z = mean[:, None].expand(-1, domains, -1).flatten(0, 1)  # (B · K, D)
    code = codes.expand(len(x), -1, -1).flatten(0, 1)  # (B · K, K)
    return decode(z, code).unflatten(0, (len(x), domains))


@translate.cases
def _(g):
    for b, shape, d, k in ((2, (1, 2, 2), 2, 2), (4, (1, 2, 3), 3, 3), (1, (2, 2, 1), 3, 4)):
        pixels = shape[0] * shape[1] * shape[2]
        yield Case(
            x=rand(g, b, *shape),
            encoder=randn(g, pixels, d),
            decoder=randn(g, d, pixels),
            code_weight=randn(g, k, pixels),
        )


translate.mistake(
    "The images and the codes are paired wrongly. If the codes go round fastest, each z must stand K times in a row: "
    "z.repeat gives the order of the other axis.",
    wrong_pairs=("mean[:, None].expand(-1, domains, -1).flatten(0, 1)", "mean.repeat(domains, 1)"),
)
translate.mistake(
    "Domain k is the one with code k: the domains come out in reversed order.",
    domains_reversed=("codes.expand", "codes.flip(0).expand"),
)
translate.mistake(
    "encode returns the mean first and the log variance second: you decoded the log variance.",
    log_variance_decoded=("mean, _ =", "_, mean ="),
)
translate.mistake(
    "Every code is the same mixture of all domains, so all K images are alike. Row k of the identity is domain k.",
    all_domains_mixed=("torch.eye(domains, device", "torch.full((domains, domains), 1 / domains, device"),
)


@translate.mistake(
    "The images are right, but encode or decode is called once for each domain. Put all B · K pairs into one batch."
)
def one_domain_at_a_time(encode, decode, x, domains):
    codes, images = torch.eye(domains, device=x.device), []
    for k in range(domains):
        images.append(decode(encode(x)[0], codes[k].expand(len(x), -1)))
    return torch.stack(images, dim=1)


translate.mistake(
    "The two axes are exchanged: the result is (B, K, …), images first, then domains.",
    axes_exchanged=("domains))", "domains)).transpose(0, 1)"),
)


# ------------------------------------------------------------------ interpolate_domains


@solution(
    lesson.interpolate_domains,
    hints=[
        "First the T codes, (T, K): alphas[:, None] makes the two axes meet. Then all B · T pairs of a z and a code.",
        "Write (1 − α) start + α end, not start + α (end − start): the second may miss the end by rounding.",
        "z[:, None].expand(-1, T, -1).flatten(0, 1) and codes.expand(B, -1, -1).flatten(0, 1), one decode, unflatten(0, (B, T)).",
    ],
)
def interpolate_domains(decode, z, start, end, alphas):
    codes = (1 - alphas[:, None]) * start + alphas[:, None] * end  # (T, K)
    b, t = len(z), len(alphas)
    pairs = z[:, None].expand(-1, t, -1).flatten(0, 1), codes.expand(b, -1, -1).flatten(0, 1)
    return decode(*pairs).unflatten(0, (b, t))


@interpolate_domains.cases
def _(g):
    yield Case(
        z=randn(g, 2, 2),
        start=torch.tensor([1.0, 0.0]),
        end=torch.tensor([0.0, 1.0]),
        alphas=torch.tensor([0.0, 0.25, 1.0]),
        decoder=randn(g, 2, 3),
        code_weight=randn(g, 2, 3),
    )
    yield Case(
        z=randn(g, 3, 4),
        start=torch.tensor([0.2, 0.8, 0.0]),
        end=torch.tensor([0.0, 0.0, 1.0]),
        alphas=rand(g, 5),
        decoder=randn(g, 4, 3),
        code_weight=randn(g, 3, 3),
    )
    yield Case(  # 0 and 1 are exactly the ends, also where the codes are of very different size
        z=randn(g, 1, 2),
        start=torch.tensor([3e7, 1.0]),
        end=torch.tensor([1.0, 0.0]),
        alphas=torch.tensor([1.0]),
        decoder=randn(g, 2, 3),
        code_weight=randn(g, 2, 3),
    )


interpolate_domains.mistake(
    "α = 0 is the start and α = 1 the end: yours runs the other way.",
    turned_round=[("* start", "* end"), ("+ alphas[:, None] * end", "+ alphas[:, None] * start")],
)


@interpolate_domains.mistake(
    "You decoded both ends and faded one image into the other. That is a double exposure. Interpolate the CODE, and let "
    "the decoder draw what lies between."
)
def cross_fade(decode, z, start, end, alphas):
    ends = torch.stack([start, end])
    pairs = z[:, None].expand(-1, 2, -1).flatten(0, 1), ends.expand(len(z), -1, -1).flatten(0, 1)
    first, last = decode(*pairs).unflatten(0, (len(z), 2)).unbind(1)
    a = alphas.view(1, -1, *[1] * (first.ndim - 1))
    return (1 - a) * first[:, None] + a * last[:, None]


interpolate_domains.mistake(
    "The latents and the codes are paired wrongly: if the codes go round fastest, each z must stand T times in a row.",
    wrong_pairs=("z[:, None].expand(-1, t, -1).flatten(0, 1)", "z.repeat(t, 1)"),
)


@interpolate_domains.mistake(
    "The images are right, but decode is called once for each α. Decode all B · T pairs in one batch."
)
def one_alpha_at_a_time(decode, z, start, end, alphas):
    codes = ((1 - a) * start + a * end for a in alphas)
    return torch.stack([decode(z, code.expand(len(z), -1)) for code in codes], dim=1)


interpolate_domains.mistake(
    "The end is added in full and the start never taken away: the weights are 1 − α and α, so that they sum to 1.",
    start_not_taken_away=("(1 - alphas[:, None]) * start", "start"),
)
interpolate_domains.mistake(
    "The two axes are exchanged: the result is (B, T, …), images first, then steps.",
    axes_exchanged=("(b, t))", "(b, t)).transpose(0, 1)"),
)


# ------------------------------------------------------------------ gradient_penalty


@solution(
    lesson.gradient_penalty,
    hints=[
        "Make the points between, detached, with requires_grad_(); mix needs as many axes as real: mix.view(-1, 1, 1, …).",
        "Each score depends on its own example only, so the gradient of the SUM of the scores has each example's gradient "
        "in its row: torch.autograd.grad of critic(…).sum(), with create_graph=True so that the result can be differentiated.",
        "slope = gradient.flatten(1).norm(dim=1), (B,); then the mean of (slope − 1)².",
    ],
)
def gradient_penalty(critic, real, fake, mix):
    m = mix.view(-1, *[1] * (real.ndim - 1))  # (B, 1, …)
    between = (m * real + (1 - m) * fake).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    return (gradient.flatten(1).norm(dim=1) - 1).square().mean()


@gradient_penalty.cases
def _(g):
    yield Case(
        real=rand(g, 2, 1, 2, 2),
        fake=rand(g, 2, 1, 2, 2),
        mix=torch.tensor([0.2, 0.9]),
        weight=randn(g, 4, 3),
        head=randn(g, 3),
    )
    yield Case(
        real=rand(g, 6, 5), fake=randn(g, 6, 5), mix=rand(g, 6), weight=randn(g, 5, 4), head=randn(g, 4)
    )
    yield Case(
        real=rand(g, 4, 2, 3, 2),
        fake=rand(g, 4, 2, 3, 2),
        mix=rand(g, 4),
        weight=randn(g, 12, 3),
        head=randn(g, 3),
    )
    yield Case(  # one example, at the real end; steep, and nowhere flat: a root has no gradient at a slope of 0
        real=rand(g, 1, 3),
        fake=randn(g, 1, 3),
        mix=torch.ones(1),
        weight=randn(g, 3, 2),
        head=500 * randn(g, 2),
    )


gradient_penalty.mistake(
    "The value is right, but the critic gets no gradient from it: create_graph=True is missing in torch.autograd.grad, "
    "so the penalty is a mere number.",
    no_graph=(", create_graph=True", ""),
)
gradient_penalty.mistake(
    "This is one norm for the whole batch. Each example has a slope of its own: flatten(1), then the norm along axis 1.",
    one_norm=(".flatten(1).norm(dim=1)", ".norm()"),
)
gradient_penalty.mistake(
    "The norm goes over the channels only, pixel by pixel. The slope of an example is the norm over all its values: "
    "flatten(1) first.",
    norm_over_channels=(".flatten(1)", ""),
)
gradient_penalty.mistake(
    "This pulls the slope to 0: the mean of ‖∇‖² (a penalty that others use). Here it is (‖∇‖ − 1)².",
    slope_zero=(" - 1).square", ").square"),
)
gradient_penalty.mistake(
    "You compared the SQUARED norm with 1. Take the root: (‖∇‖ − 1)².",
    squared_norm=(".norm(dim=1)", ".square().sum(1)"),
)
gradient_penalty.mistake(
    "The mixture is exchanged: mix is the weight of the real example, 1 − mix that of the fake.",
    mix_exchanged=("m * real + (1 - m) * fake", "(1 - m) * real + m * fake"),
)
gradient_penalty.mistake(
    "The slope is measured at the real examples. The penalty is wanted BETWEEN real and fake, where the critic's scores "
    "must lead from one to the other.",
    at_the_real=("m * real + (1 - m) * fake", "real"),
)
gradient_penalty.mistake(
    "The gradient of the mean score is B times too small: take the SUM of the scores, each depends on its own example only.",
    gradient_of_the_mean=(".sum()", ".mean()"),
)


@gradient_penalty.mistake(
    "The value is right, but backward() leaves gradients in the critic's parameters, which its next update then uses, too. "
    "torch.autograd.grad gives the gradient at the points alone."
)
def critic_filled(critic, real, fake, mix):
    m = mix.view(-1, *[1] * (real.ndim - 1))
    between = (m * real + (1 - m) * fake).detach().requires_grad_()
    critic(between).sum().backward(create_graph=True)
    return (between.grad.flatten(1).norm(dim=1) - 1).square().mean()
