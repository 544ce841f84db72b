"""Lesson 02: solutions, cases, named mistakes and hints."""

import math

import torch
import torch.nn.functional as F

from course_lib.exercise.solution import Case, rand, randn, small_numbers, solution
from course_lib.lessons import elbo as lesson

# ------------------------------------------------------------------ reparameterise


@solution(
    lesson.reparameterise,
    hints=[
        "If ε is N(0, 1), what is the distribution of μ + σ ε?",
        "log_var is log σ². So log σ is half of it.",
        "(0.5 * log_var).exp() is σ. No detach, no no_grad: the gradient must reach both inputs.",
    ],
)
def reparameterise(mean, log_var, noise):
    return mean + (0.5 * log_var).exp() * noise


@reparameterise.cases
def _(g):
    yield Case(
        mean=torch.tensor([[1.0, -2.0], [0.0, 3.0]]),
        log_var=torch.tensor([[0.0, 1.3862944], [-1.3862944, 0.0]]),
        noise=torch.tensor([[0.5, -1.0], [2.0, 0.0]]),
    )
    yield Case(mean=randn(g, 7, 4), log_var=2 * randn(g, 7, 4), noise=randn(g, 7, 4))
    yield Case(mean=500 * randn(g, 1, 3), log_var=torch.tensor([[-20.0, 0.0, 10.0]]), noise=randn(g, 1, 3))
    yield Case(mean=torch.zeros(3, 2), log_var=torch.zeros(3, 2), noise=randn(g, 3, 2))


reparameterise.mistake(
    "You used the variance as the standard deviation. log_var is log σ², so σ = exp(½ log_var): the half is missing.",
    variance_as_deviation=("(0.5 * log_var)", "log_var"),
)
reparameterise.mistake(
    "You multiplied by log σ² itself. Take the exponential of half of it to get σ.",
    log_variance_as_deviation=("(0.5 * log_var).exp()", "log_var"),
)
reparameterise.mistake(
    "You added σ without the noise: every draw is then the same point. Multiply σ by ε first.",
    no_noise=(" * noise", ""),
)
reparameterise.mistake(
    "The values are right, but no gradient reaches log_var: σ was detached (detach, .data or no_grad). Then the "
    "encoder can never learn how certain it is.",
    deviation_detached=(".exp()", ".exp().detach()"),
)
reparameterise.mistake(
    "The values are right, but no gradient reaches the mean or log_var: the sample was drawn under no_grad or "
    "detached. That is what the reparameterisation is there to avoid.",
    sample_detached=(
        "mean + (0.5 * log_var).exp() * noise",
        "(mean + (0.5 * log_var).exp() * noise).detach()",
    ),
)


# ------------------------------------------------------------------ gaussian_kl


@solution(
    lesson.gaussian_kl,
    hints=[
        "The Gaussians are independent over latents, so the KL is a sum with one term for each latent.",
        "σ² is log_var.exp(). Check yourself: at mean 0 and log_var 0 the two Gaussians are the same, so the KL is 0.",
        "0.5 * (mean**2 + variance - log_var - 1), summed over dim 1.",
    ],
)
def gaussian_kl(mean, log_var):
    return 0.5 * (mean.square() + log_var.exp() - log_var - 1).sum(1)


@gaussian_kl.cases
def _(g):
    yield Case(mean=torch.tensor([[0.0, 1.0], [0.0, 0.0]]), log_var=torch.tensor([[0.0, 0.0], [1.0, -1.0]]))
    yield Case(mean=randn(g, 64, 10), log_var=randn(g, 64, 10))
    yield Case(mean=randn(g, 1, 3), log_var=randn(g, 1, 3))
    yield Case(mean=torch.tensor([[500.0], [0.0]]), log_var=torch.tensor([[0.0], [-30.0]]))
    yield Case(mean=randn(g, 3, 2), log_var=torch.zeros(3, 2))


gaussian_kl.mistake(
    "You averaged over the latent dimensions. The KL of a product of independent Gaussians is the SUM of their KLs.",
    mean_over_latents=(".sum(1)", ".mean(1)"),
)
gaussian_kl.mistake("The factor ½ is missing.", no_half=("0.5 * ", ""))
gaussian_kl.mistake(
    "The sign is wrong: yours is −KL. A KL divergence is never negative.", negative=("0.5", "-0.5")
)
gaussian_kl.mistake(
    "You took exp(½ log_var), the standard deviation, where the formula has the variance: exp(log_var).",
    deviation_for_variance=("log_var.exp()", "(0.5 * log_var).exp()"),
)
gaussian_kl.mistake(
    "You treated log_var as log σ: the variance is exp(log_var), not exp(2 log_var), and its logarithm is log_var.",
    log_var_as_log_sigma=("log_var.exp() - log_var", "(2 * log_var).exp() - 2 * log_var"),
)
gaussian_kl.mistake(
    "The −1 is missing: at mean 0 and variance 1 the KL must be 0.", no_minus_one=(" - 1", "")
)
gaussian_kl.mistake(
    "This is KL(p || q), the other way round. Here q(z|x) comes first: KL(q(z|x) || N(0, I)).",
    reversed_kl=(
        "mean.square() + log_var.exp() - log_var - 1",
        "(1 + mean.square()) / log_var.exp() + log_var - 1",
    ),
)
gaussian_kl.mistake(
    "You summed over the batch too. Return one KL per example: sum over dim 1 only.",
    summed_over_batch=(".sum(1)", ".sum()"),
)


# ------------------------------------------------------------------ bernoulli_log_likelihood


@solution(
    lesson.bernoulli_log_likelihood,
    hints=[
        "This is minus the binary cross-entropy between the pixels and the predicted probabilities.",
        "Taking sigmoid first and log second overflows. One function of torch.nn.functional does both at once.",
        "-F.binary_cross_entropy_with_logits(logits, x, reduction='none'), then .flatten(1).sum(1).",
    ],
)
def bernoulli_log_likelihood(x, logits):
    return -F.binary_cross_entropy_with_logits(logits, x, reduction="none").flatten(1).sum(1)


@bernoulli_log_likelihood.cases
def _(g):
    yield Case(x=torch.tensor([[1.0, 0.0], [1.0, 1.0]]), logits=torch.tensor([[0.0, 0.0], [2.0, -1.0]]))
    yield Case(x=rand(g, 5, 1, 4, 4), logits=3 * randn(g, 5, 1, 4, 4))
    yield Case(x=(rand(g, 1, 3, 2, 2) > 0.5).float(), logits=randn(g, 1, 3, 2, 2))
    yield Case(x=torch.tensor([[1.0, 0.0, 1.0, 0.0]]), logits=torch.tensor([[200.0, -200.0, -200.0, 200.0]]))
    yield Case(x=rand(g, 2, 3), logits=torch.tensor([[500.0, -500.0, 0.0], [-500.0, 0.0, 500.0]]))


bernoulli_log_likelihood.mistake(
    "The sigmoid is applied twice: binary_cross_entropy_with_logits takes the logits as they are.",
    sigmoid_twice=("(logits,", "(logits.sigmoid(),"),
)
bernoulli_log_likelihood.mistake(
    "You averaged over the pixels. The log-likelihood of an image is the SUM over its pixels; with the mean, the KL "
    "term of the ELBO would weigh as many times too much as there are pixels.",
    mean_over_pixels=(".sum(1)", ".mean(1)"),
)
bernoulli_log_likelihood.mistake(
    "This is the cross-entropy, the negative log-likelihood. log p(x|z) of binary pixels is never positive.",
    cross_entropy=("-F", "F"),
)


@bernoulli_log_likelihood.mistake(
    "Right for moderate logits, but log(sigmoid(…)) is −∞ once the sigmoid rounds to 0 or 1. Use the form with logits."
)
def log_of_sigmoid(x, logits):
    p = logits.sigmoid()
    return (x * p.log() + (1 - x) * (1 - p).log()).flatten(1).sum(1)


bernoulli_log_likelihood.mistake(
    "You summed over the batch too. Return one number per image: flatten(1), then sum over dim 1.",
    summed_over_everything=(".sum(1)", ".sum()"),
)
bernoulli_log_likelihood.mistake(
    "A small number inside the logarithm, or a clamp (F.binary_cross_entropy cuts every logarithm off at −100), keeps the "
    "result finite and makes it wrong: log p may be far below, and no gradient comes from there. Use the form with logits.",
    clamped_probabilities=("_with_logits(logits,", "(logits.sigmoid(),"),
    **small_numbers(
        (
            '-F.binary_cross_entropy_with_logits(logits, x, reduction="none")',
            "(x * (logits.sigmoid(){plus}).log(){cut} + (1 - x) * (1 - logits.sigmoid(){plus}).log(){cut})",
        )
    ),
)


# ------------------------------------------------------------------ elbo


@solution(
    lesson.elbo,
    hints=[
        "Both of your functions return one number per image.",
        "The KL is a cost: it is subtracted. Then average over the batch.",
    ],
)
def elbo(x, logits, mean, log_var):
    return (lesson.bernoulli_log_likelihood(x, logits) - lesson.gaussian_kl(mean, log_var)).mean()


@elbo.cases
def _(g):
    yield Case(
        x=torch.tensor([[1.0, 0.0], [0.0, 0.0]]),
        logits=torch.tensor([[1.0, -1.0], [2.0, 0.0]]),
        mean=torch.tensor([[1.0], [-2.0]]),
        log_var=torch.tensor([[0.0], [-1.0]]),
    )
    yield Case(
        x=rand(g, 6, 1, 4, 4), logits=randn(g, 6, 1, 4, 4), mean=randn(g, 6, 3), log_var=randn(g, 6, 3)
    )
    yield Case(x=rand(g, 1, 5), logits=200 * randn(g, 1, 5), mean=10 * randn(g, 1, 2), log_var=randn(g, 1, 2))


elbo.mistake(
    "The KL must be subtracted: it is the price of the code, not a reward.",
    kl_added=(" - lesson", " + lesson"),
)
elbo.mistake(
    "This is the loss, −ELBO. Return the bound itself; the training loop turns the sign.",
    negative_elbo=("return (", "return -("),
)
elbo.mistake(
    "You summed over the batch. Average, or the loss grows with the batch size.",
    summed_elbo=(".mean()", ".sum()"),
)
elbo.mistake(
    "The KL term is missing: without it this is an autoencoder's likelihood, and no bound.",
    no_kl=(" - lesson.gaussian_kl(mean, log_var)", ""),
)
elbo.mistake(
    "You returned one number per image. The ELBO of the batch is their mean, a scalar.",
    per_image=(".mean()", ""),
)
elbo.mistake(
    "The KL enters as a mean over the latents: gaussian_kl is a sum, and the ELBO subtracts all of it.",
    kl_mean_over_latents=("(mean, log_var))", "(mean, log_var) / mean.shape[1])"),
)


# ------------------------------------------------------------------ importance_weighted_bound


@solution(
    lesson.importance_weighted_bound,
    hints=[
        "The mean over samples is taken of the weights, inside the logarithm; the mean over images outside of it.",
        "exp of a weight of −500 is 0. torch.logsumexp does log Σ exp without leaving the logarithms.",
        "log (1/K) Σ w = logsumexp(log w) − log K.",
    ],
)
def importance_weighted_bound(log_weights):
    return (log_weights.logsumexp(0) - math.log(len(log_weights))).mean()


@importance_weighted_bound.cases
def _(g):
    yield Case(log_weights=torch.tensor([[0.0, -1.0], [1.0, -3.0]]))
    yield Case(log_weights=2 * randn(g, 50, 8))
    yield Case(log_weights=randn(g, 5, 4) - 500)
    yield Case(log_weights=randn(g, 1, 3))
    yield Case(log_weights=randn(g, 4, 3) + torch.tensor([500.0, 0.0, -1000.0]))  # images that differ by far
    yield Case(log_weights=torch.tensor([[-3.0], [-3.0]]))


importance_weighted_bound.mistake(
    "log K is missing: you took the log of the sum of the weights, not of their mean. Your “bound” grows with K "
    "beyond log p(x).",
    no_log_k=(" - math.log(len(log_weights))", ""),
)
importance_weighted_bound.mistake(
    "You averaged the log-weights. That is the plain ELBO, however many samples it takes: the mean belongs inside the "
    "logarithm.",
    mean_of_logs=("logsumexp(0) - math.log(len(log_weights))", "mean(0)"),
)
importance_weighted_bound.mistake(
    "exp underflows at log-weights of −500, and its log is −∞. Use torch.logsumexp.",
    exp_of_weights=("logsumexp(0) - math.log(len(log_weights))", "exp().mean(0).log()"),
)
importance_weighted_bound.mistake(
    "You reduced over the wrong axis: samples are the rows (dim 0), images the columns.",
    wrong_axis=[("logsumexp(0)", "logsumexp(1)"), ("len(log_weights)", "log_weights.shape[1]")],
)
importance_weighted_bound.mistake(
    "You took the mean over samples and images inside the logarithm. Each image has a bound of its own; average those.",
    one_logarithm_for_all=[
        ("log_weights.logsumexp", "log_weights.flatten().logsumexp"),
        ("len(log_weights)", "log_weights.numel()"),
    ],
)
importance_weighted_bound.mistake(
    "You subtracted one maximum for all images. The weights of an image that lies far below it underflow to 0, and their "
    "logarithm is −∞. Each image, a column, needs its own: log_weights.amax(0), or torch.logsumexp(…, 0).",
    one_maximum_for_all=(
        "log_weights.logsumexp(0)",
        "(log_weights - log_weights.max()).exp().sum(0).log() + log_weights.max()",
    ),
)
importance_weighted_bound.mistake(
    "You returned one bound per image. L_K of the batch is their mean, a scalar.",
    per_image=(".mean()", ""),
)
importance_weighted_bound.mistake(
    "You summed over the images. Average, or the bound grows with the batch.",
    summed=(".mean()", ".sum()"),
)


# ------------------------------------------------------------------ linear_gaussian_log_likelihood


@solution(
    lesson.linear_gaussian_log_likelihood,
    hints=[
        "Integrating z out leaves a Gaussian in x. Its mean is b and its covariance is W Wᵀ + σ² I.",
        "One covariance serves the whole batch: solve once for all rows, (x − b)ᵀ as columns.",
        "slogdet(C).logabsdet for the log determinant, solve_ex(C, (x - b).T).result for C⁻¹(x − b).",
    ],
)
def linear_gaussian_log_likelihood(x, weight, bias, noise_variance):
    centred = x - bias  # (B, P)
    eye = torch.eye(len(bias), device=x.device, dtype=x.dtype)
    covariance = weight @ weight.T + noise_variance * eye  # (P, P)
    distance = (torch.linalg.solve_ex(covariance, centred.T).result * centred.T).sum(0)  # (B,)
    log_det = torch.linalg.slogdet(covariance).logabsdet
    return -0.5 * (distance + log_det + len(bias) * math.log(2 * math.pi))


@linear_gaussian_log_likelihood.cases
def _(g):
    yield Case(
        x=torch.tensor([[1.0, 0.0], [0.0, 2.0]]),
        weight=torch.tensor([[1.0], [0.5]]),
        bias=torch.tensor([0.5, 0.0]),
        noise_variance=torch.tensor(0.5),
    )
    yield Case(x=randn(g, 9, 6), weight=randn(g, 6, 3), bias=randn(g, 6), noise_variance=rand(g, 1)[0] + 0.2)
    yield Case(  # the determinant itself, 1e-60, is 0 in float32
        x=0.1 * randn(g, 4, 60),
        weight=0.1 * randn(g, 60, 2),
        bias=torch.zeros(60),
        noise_variance=torch.tensor(0.1),
    )
    yield Case(
        x=20 * randn(g, 1, 3), weight=randn(g, 3, 3), bias=randn(g, 3), noise_variance=torch.tensor(2.0)
    )


linear_gaussian_log_likelihood.mistake(
    "The noise enters as σ⁴: you squared noise_variance, which is σ² already. Add noise_variance to the diagonal.",
    noise_squared=("noise_variance * eye", "noise_variance**2 * eye"),
)
linear_gaussian_log_likelihood.mistake(
    "The constant is missing: P log 2π, with P the number of entries of x.",
    no_constant=(" + len(bias) * math.log(2 * math.pi)", ""),
)
linear_gaussian_log_likelihood.mistake(
    "The mean of x is the bias b: subtract it before measuring distances.", no_bias=("x - bias", "x")
)
linear_gaussian_log_likelihood.mistake(
    "This is log p(x|z = 0): the covariance lacks W Wᵀ, the part of x's variance that comes from z.",
    without_latents=("weight @ weight.T + ", ""),
)
linear_gaussian_log_likelihood.mistake(
    "The log determinant enters with the wrong sign: a wider Gaussian has a lower density at its centre.",
    determinant_added=("+ log_det", "- log_det"),
)
linear_gaussian_log_likelihood.mistake(
    "Right for a few pixels, but the determinant of a large matrix underflows to 0 and its log to −∞. "
    "torch.linalg.slogdet gives the logarithm itself.",
    log_of_det=("slogdet(covariance).logabsdet", "det(covariance).log()"),
)
linear_gaussian_log_likelihood.mistake(
    "You averaged over the batch. Return one log-likelihood for each row of x.",
    averaged=("math.log(2 * math.pi))", "math.log(2 * math.pi)).mean()"),
)
linear_gaussian_log_likelihood.mistake(
    "The factor −½ is missing.",
    no_half=(
        "-0.5 * (distance + log_det + len(bias) * math.log(2 * math.pi))",
        "-(distance + log_det + len(bias) * math.log(2 * math.pi))",
    ),
)
linear_gaussian_log_likelihood.mistake(
    "log 2π is counted once, not once for each of the P entries of x.",
    constant_once=("len(bias) * math", "math"),
)


# ------------------------------------------------------------------ traverse


@solution(
    lesson.traverse,
    hints=[
        "Build the whole batch of codes first, (V, D), then decode once.",
        "z.repeat(len(values), 1) gives V copies that you may write into; z itself must stay as it is.",
        "codes[:, latent] = values.",
    ],
)
def traverse(decode, z, latent, values):
    codes = z.repeat(len(values), 1)  # (V, D)
    codes[:, latent] = values
    return decode(codes)


@traverse.cases
def _(g):
    yield Case(
        weight=torch.tensor([[1.0, 0.0], [0.0, 1.0]]),
        z=torch.tensor([0.5, -0.5]),
        latent=1,
        values=torch.tensor([0.0, 1.0]),
    )
    yield Case(weight=randn(g, 5, 6), z=randn(g, 5), latent=3, values=torch.linspace(-2, 2, 9))
    yield Case(weight=randn(g, 5, 6), z=randn(g, 5), latent=0, values=torch.tensor([1.5]))
    yield Case(weight=randn(g, 3, 4), z=torch.zeros(3), latent=2, values=torch.tensor([0.0, 0.0, -500.0]))


traverse.mistake(
    "You ADDED the values to the latent. A traversal replaces it, so that rows can be compared.",
    added=("= values", "+= values"),
)


@traverse.mistake(
    "The images are right, but the decoder is called once for each value. Build all codes first and decode them in "
    "one batch: a GPU is as quick with a hundred as with one."
)
def one_at_a_time(decode, z, latent, values):
    images = []
    for value in values:
        code = z.clone()
        code[latent] = value
        images.append(decode(code[None])[0])
    return torch.stack(images)


traverse.mistake(
    "The other latents are lost: you decoded zeros but for one entry. Start from copies of z.",
    other_latents_zero=("z.repeat(len(values), 1)", "torch.zeros(len(values), len(z), device=z.device)"),
)
traverse.mistake(
    "You set all latents to the value. Only the entry `latent` changes: codes[:, latent] = values.",
    all_latents=("codes[:, latent] = values", "codes[:] = values[:, None]"),
)
