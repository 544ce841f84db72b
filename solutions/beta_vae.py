"""Lesson 03: solutions, cases, named mistakes and hints."""

import math

import torch

from course_lib.exercise.solution import Case, rand, randn, solution
from course_lib.lessons import beta_vae as lesson
from course_lib.lessons import elbo
from course_lib.metrics import log_sum_exp

LOG_2PI = math.log(2 * math.pi)


def log_densities(z, mean, log_var):
    """log N(z_md; mean_nd, exp(log_var_nd)), (M, N, D)."""
    return -0.5 * ((z[:, None] - mean).square() * (-log_var).exp() + log_var + LOG_2PI)


# ------------------------------------------------------------------ beta_vae_loss


@solution(
    lesson.beta_vae_loss,
    hints=[
        "Start from −ELBO of lesson 02, and put β in front of one of its two terms.",
        "elbo.bernoulli_log_likelihood and elbo.gaussian_kl return one number per image; average at the very end.",
        "beta times elbo.gaussian_kl(mean, log_var), minus elbo.bernoulli_log_likelihood(x, logits); then the mean.",
    ],
)
def beta_vae_loss(x, logits, mean, log_var, beta):
    return (beta * elbo.gaussian_kl(mean, log_var) - elbo.bernoulli_log_likelihood(x, logits)).mean()


@beta_vae_loss.cases
def _(g):
    yield Case(
        x=torch.tensor([[1.0, 0.0], [0.0, 0.0]]),
        logits=torch.tensor([[1.0, -1.0], [2.0, 0.0]]),
        mean=torch.tensor([[1.0, 2.0], [0.0, -1.0]]),
        log_var=torch.tensor([[0.0, 0.0], [1.0, -1.0]]),
        beta=4.0,
    )
    yield Case(
        x=rand(g, 6, 1, 4, 4),
        logits=randn(g, 6, 1, 4, 4),
        mean=randn(g, 6, 3),
        log_var=randn(g, 6, 3),
        beta=0.5,
    )
    yield Case(
        x=rand(g, 1, 4), logits=200 * randn(g, 1, 4), mean=randn(g, 1, 2), log_var=randn(g, 1, 2), beta=1.0
    )
    yield Case(
        x=rand(g, 3, 4), logits=randn(g, 3, 4), mean=randn(g, 3, 2), log_var=torch.zeros(3, 2), beta=0.0
    )


beta_vae_loss.mistake(
    "β weighs the reconstruction instead of the KL. Compare the sizes: the loss asks for less KL as β grows.",
    beta_on_reconstruction=[("beta * elbo", "elbo"), ("- elbo", "- beta * elbo")],
)
beta_vae_loss.mistake(
    "The sign is turned: this is the bound, to be maximised. A loss is minimised: the KL enters with +β, the "
    "log-likelihood with −1.",
    to_be_maximised=("return (", "return -("),
)
beta_vae_loss.mistake(
    "You averaged the cross-entropy over the pixels (the default of binary_cross_entropy_with_logits). For an image of "
    "P pixels that is a hidden β, P times what you asked for. Sum over pixels, average over the batch.",
    mean_over_pixels=("(x, logits))", "(x, logits) / x[0].numel())"),
)
beta_vae_loss.mistake(
    "You averaged the KL over the latents: a hidden 1/D on β. The KL of an image is summed over its latents.",
    kl_mean_over_latents=("(mean, log_var)", "(mean, log_var) / mean.shape[1]"),
)
beta_vae_loss.mistake(
    "β is nowhere in it: this is −ELBO, the loss of a plain VAE.", beta_ignored=("beta * ", "")
)
beta_vae_loss.mistake(
    "You summed over the batch. Average, or the loss grows with the batch size.",
    summed_over_batch=(".mean()", ".sum()"),
)
beta_vae_loss.mistake(
    "You added β KL to −ELBO, which holds the KL once already: yours weighs it by 1 + β.",
    kl_counted_once_more=("beta * ", "(1 + beta) * "),
)
beta_vae_loss.mistake(
    "You weighed the KL by β − 1. That would be right on top of −ELBO, which holds the KL once; here the KL enters with β.",
    beta_minus_one=("beta * ", "(beta - 1) * "),
)
beta_vae_loss.mistake(
    "Without the mean over the batch this is one loss for each image: return a scalar.",
    per_image=(".mean()", ""),
)


# ------------------------------------------------------------------ active_dimensions


@solution(
    lesson.active_dimensions,
    hints=[
        "β σ² is a water level, one for each β. Give it a second axis, (B, 1), and it meets the eigenvalues (P,).",
        "Below the water the logarithm is negative and the rate is 0: a clamp does it, on any device, without an if.",
        "level = beta[:, None] * noise_variance; the distortion is torch.minimum(eigenvalues, level).",
    ],
)
def active_dimensions(eigenvalues, noise_variance, beta):
    level = beta[:, None] * noise_variance  # (B, 1)
    rate = 0.5 * (eigenvalues / level).log().clamp(min=0)  # (B, P)
    return rate, torch.minimum(eigenvalues, level)


@active_dimensions.cases
def _(g):
    yield Case(
        eigenvalues=torch.tensor([4.0, 2.0, 1.0, 0.5]),
        noise_variance=torch.tensor(0.1),
        beta=torch.tensor([1.0, 8.0, 30.0]),
    )
    yield Case(eigenvalues=rand(g, 7) + 0.05, noise_variance=torch.tensor(0.3), beta=3 * rand(g, 5) + 0.1)
    yield Case(  # one eigenvalue at the water level, one of 0, one of both sides far away
        eigenvalues=torch.tensor([0.5, 0.0, 500.0, 1e-6]),
        noise_variance=torch.tensor(0.25),
        beta=torch.tensor([2.0]),
    )


active_dimensions.mistake(
    "The noise enters squared, as σ⁴: noise_variance is σ² already. The water level is β · noise_variance.",
    noise_squared=("* noise_variance", "* noise_variance**2"),
)
active_dimensions.mistake(
    "The noise enters as σ: you took the square root of noise_variance. The water level is β σ².",
    noise_deviation=("* noise_variance", "* noise_variance.sqrt()"),
)
active_dimensions.mistake(
    "The ½ of the rate is missing: a Gaussian's rate is ½ log of a ratio of variances.",
    no_half=("0.5 * ", ""),
)
active_dimensions.mistake(
    "Rates below 0, and distortions above λ: dimensions under water are treated as active. Nothing can cost less than "
    "0 nats, and saying nothing about a dimension costs no more than its variance λ.",
    nothing_under_water=[
        (".clamp(min=0)", ""),
        ("torch.minimum(eigenvalues, level)", "level.expand(-1, len(eigenvalues))"),
    ],
)
active_dimensions.mistake(
    "The distortion of a dead dimension is not 0: it is not transmitted at all, so all of its variance λ is lost.",
    dead_without_distortion=(
        "torch.minimum(eigenvalues, level)",
        "torch.where(eigenvalues > level, level, 0)",
    ),
)
active_dimensions.mistake(
    "β is missing from the water level: yours is the plain VAE's, σ², whatever β is.",
    beta_ignored_in_level=("beta[:, None]", "torch.ones_like(beta)[:, None]"),
)
active_dimensions.mistake(
    "Your rates are in bits. The course counts in nats: take the natural logarithm.",
    in_bits=(".log()", ".log2()"),
)
active_dimensions.mistake(
    "The rates are right. The distortion of a dead dimension is its own variance λ, not the water level above it: "
    "torch.minimum(eigenvalues, level).",
    distortion_unclamped=("torch.minimum(eigenvalues, level)", "level.expand(-1, len(eigenvalues))"),
)
active_dimensions.mistake(
    "The distortions are right. A dimension under water has a rate of 0 nats, not a negative one.",
    rate_unclamped=(".clamp(min=0)", ""),
)
active_dimensions.mistake(
    "The two outputs are exchanged: first the rate, then the distortion.",
    outputs_swapped=(
        "return rate, torch.minimum(eigenvalues, level)",
        "return torch.minimum(eigenvalues, level), rate",
    ),
)


# ------------------------------------------------------------------ pairwise_log_density


@solution(
    lesson.pairwise_log_density,
    hints=[
        "Write (z − μ)² / σ² as z² / σ² − 2 z μ / σ² + μ² / σ². Which of the three parts depend on m, which on n?",
        "Σ_d z²_md (1/σ²)_nd is a matrix product: z.square() @ precision.T with precision = (-log_var).exp(), (N, D).",
        "Centre first: c = mean.mean(0), z - c, mean - c. Then -0.5 * (z² @ precisionᵀ + constant) + z @ (mean * "
        "precision)ᵀ, where constant (N,) is (mean² * precision + log_var + log 2π).sum(1).",
    ],
)
def pairwise_log_density(z, mean, log_var):
    centre = mean.mean(0).detach()
    z, mean = z - centre, mean - centre
    precision = (-log_var).exp()  # (N, D)
    constant = (mean.square() * precision + log_var + LOG_2PI).sum(1)  # (N,)
    return -0.5 * (z.square() @ precision.T + constant) + z @ (mean * precision).T


@pairwise_log_density.cases
def _(g):
    yield Case(
        z=torch.tensor([[0.0, 1.0], [2.0, 0.0]]),
        mean=torch.tensor([[0.0, 0.0], [2.0, 1.0]]),
        log_var=torch.tensor([[0.0, 0.0], [-1.0, 1.0]]),
    )
    yield Case(z=randn(g, 5, 4), mean=randn(g, 7, 4), log_var=randn(g, 7, 4))
    yield Case(z=randn(g, 1, 1), mean=randn(g, 3, 1), log_var=randn(g, 3, 1) - 1)
    far = torch.tensor([200.0, -200.0, 200.0])
    yield Case(z=far + randn(g, 6, 3), mean=far + randn(g, 4, 3), log_var=randn(g, 4, 3) - 1).alone(
        "Right near 0 only: far from there the parts of the written-out square are large and cancel, and their difference "
        "keeps few digits. Subtract the centre of the means, mean.mean(0), from z and mean first."
    )
    yield Case(
        z=randn(g, 3, 2),
        mean=torch.tensor([[-500.0, 0.0], [500.0, 0.0]]),
        log_var=torch.tensor([[8.0, 0.0], [10.0, -3.0]]),
    )


pairwise_log_density.mistake(
    "You treated log_var as log σ: the precision is exp(−log_var), and the log determinant is Σ log_var.",
    log_var_as_log_sigma=[("(-log_var)", "(-2 * log_var)"), ("+ log_var", "+ 2 * log_var")],
)
pairwise_log_density.mistake(
    "The constant is missing: −½ log 2π for each of the D latents. It cancels in no term but the prior's.",
    no_constant=(" + LOG_2PI", ""),
)
pairwise_log_density.mistake(
    "log 2π is counted once, not once for each of the D latents.",
    constant_once=(" + LOG_2PI).sum(1)", ").sum(1) + LOG_2PI"),
)
pairwise_log_density.mistake(
    "You averaged over the latents. The density of independent latents is a product, its logarithm a SUM.",
    mean_over_latents=[
        ("return -0.5", "return (-0.5"),
        ("(mean * precision).T", "(mean * precision).T) / z.shape[1]"),
    ],
)
pairwise_log_density.mistake(
    "Your result is transposed: samples are the rows, posteriors the columns, (M, N).",
    transposed=[("return -0.5", "return (-0.5"), ("(mean * precision).T", "(mean * precision).T).T")],
)
pairwise_log_density.mistake(
    "You multiplied by the variance where the formula divides by it: the precision is exp(−log_var).",
    variance_as_precision=("(-log_var)", "log_var"),
)
pairwise_log_density.mistake(
    "The log determinant is missing: −½ Σ_d log σ²_nd. Without it a wide posterior is as high as a narrow one.",
    no_log_determinant=(" + log_var", ""),
)


@pairwise_log_density.mistake(
    "The cross term −2 z μ / σ² has lost its 2: with the −½ in front, + z μ / σ² must remain."
)
def half_cross_term(z, mean, log_var):
    return log_densities(z, mean, log_var).sum(2) - 0.5 * z @ (mean * (-log_var).exp()).T


# ------------------------------------------------------------------ log_aggregate_posterior


@solution(
    lesson.log_aggregate_posterior,
    hints=[
        "At this batch size one tensor of all log densities, (M, M, D), does it. Axis 0: samples, 1: posteriors, 2: latents.",
        "Joint: first sum over the latents (a density of all latents at once), then logsumexp over the posteriors. "
        "Marginals: logsumexp over the posteriors at once.",
        "Subtract math.log(dataset_size * len(z)) from each of the two, at the very end. (The solution's "
        "course_lib.metrics.log_sum_exp is torch.logsumexp, several times as fast on a CPU where terms underflow.)",
    ],
)
def log_aggregate_posterior(z, mean, log_var, dataset_size):
    log_density = -0.5 * ((z[:, None] - mean).square() * (-log_var).exp() + log_var + LOG_2PI)  # (M, M, D)
    log_weight = -math.log(dataset_size * len(z))
    return log_sum_exp(log_density.sum(2), 1) + log_weight, log_sum_exp(log_density, 1) + log_weight


@log_aggregate_posterior.cases
def _(g):
    yield Case(
        z=torch.tensor([[0.0, 1.0], [2.0, 0.0]]),
        mean=torch.tensor([[0.0, 0.5], [1.0, 0.0]]),
        log_var=torch.tensor([[0.0, -1.0], [0.5, 0.0]]),
        dataset_size=10,
    )
    yield Case(z=randn(g, 16, 4), mean=randn(g, 16, 4), log_var=randn(g, 16, 4) - 1, dataset_size=2000)
    yield Case(z=8 * randn(g, 3, 60), mean=randn(g, 3, 60), log_var=randn(g, 3, 60) + 3, dataset_size=5)
    yield Case(z=randn(g, 4, 1), mean=torch.zeros(4, 1), log_var=torch.zeros(4, 1), dataset_size=4)


log_aggregate_posterior.mistake(
    "You added the weight before the sum over the latents, so the joint counts it D times. log(N M) is subtracted once, "
    "after everything.",
    weight_counted_d_times=[
        ("log_density.sum(2)", "(log_density + log_weight).sum(2)"),
        (", 1) + log_weight, ", ", 1), "),
    ],
)
log_aggregate_posterior.mistake(
    "The constant log(N M) is missing. It does not cancel: the TC subtracts D marginals from one joint, so yours is too "
    "low by (D − 1) log(N M), the source of many a “negative total correlation”.",
    no_weight=("-math.log(dataset_size * len(z))", "0"),
)
log_aggregate_posterior.mistake(
    "You divided by the batch size only: that is the aggregate posterior of the batch. The batch stands for a whole data "
    "set: divide by N M.",
    batch_only=("dataset_size * len(z)", "len(z)"),
)
log_aggregate_posterior.mistake(
    "You divided by N only. Minibatch weighted sampling divides by N M.", dataset_only=(" * len(z)", "")
)
log_aggregate_posterior.mistake(
    "You summed the latents after the logsumexp: your joint is the product of the marginals, and its total correlation "
    "is 0 whatever the code. Sum over latents first, then mix the posteriors.",
    joint_from_marginals=(
        "log_sum_exp(log_density.sum(2), 1) + log_weight",
        "(log_sum_exp(log_density, 1) + log_weight).sum(1)",
    ),
)
log_aggregate_posterior.mistake(
    "You summed over the samples, not over the posteriors: log q(z_m) keeps its sample m and mixes all posteriors j.",
    over_samples=[
        ("(log_density.sum(2), 1)", "(log_density.sum(2), 0)"),
        ("(log_density, 1)", "(log_density, 0)"),
    ],
)
log_aggregate_posterior.mistake(
    "Right where densities are moderate, but exp of −200 is 0 and its logarithm −∞. torch.logsumexp does log Σ exp without "
    "leaving the logarithms.",
    exp_then_log=[
        ("log_sum_exp(log_density.sum(2), 1)", "log_density.sum(2).exp().sum(1).log()"),
        ("log_sum_exp(log_density, 1)", "log_density.exp().sum(1).log()"),
    ],
)
log_aggregate_posterior.mistake(
    "You treated log_var as log σ. It is the logarithm of the variance, here as everywhere in the course.",
    log_sigma=[("(-log_var)", "(-2 * log_var)"), ("+ log_var", "+ 2 * log_var")],
)
log_aggregate_posterior.mistake(
    "These are the stratified weights (MSS). Here every posterior weighs the same, 1/(N M): subtract log(N M) once.",
    stratified=[
        ("-math.log(dataset_size * len(z))", "lesson.stratified_weights(z, dataset_size)"),
        ("(log_density.sum(2), 1) + log_weight", "(log_density.sum(2) + log_weight, 1)"),
        ("(log_density, 1) + log_weight", "(log_density + log_weight[:, :, None], 1)"),
    ],
)
log_aggregate_posterior.mistake(
    "The two outputs are exchanged: first the joint (M,), then the marginals (M, D).",
    outputs_swapped=[
        ("log_sum_exp(log_density.sum(2), 1) + log_weight, ", ""),
        ("1) + log_weight", "1) + log_weight, log_sum_exp(log_density.sum(2), 1) + log_weight"),
    ],
)


# ------------------------------------------------------------------ stratified_weights


@solution(
    lesson.stratified_weights,
    hints=[
        "Make a square matrix of 1/M on the device of z; then the diagonal; then its right-hand neighbours.",
        "M is len(z) − 1. `.fill_diagonal_(value)` sets the diagonal; `.roll(1, dims=1)` moves an identity one column to "
        "the right, around the edge.",
        "own = torch.eye(M + 1, dtype=z.dtype, device=z.device), neighbour = own.roll(1, dims=1): own / N + neighbour * "
        "(N − M)/(N M) + (1 − own − neighbour) / M, and the logarithm at the end.",
    ],
)
def stratified_weights(z, dataset_size):
    m = len(z) - 1
    own = torch.eye(m + 1, dtype=z.dtype, device=z.device)
    neighbour = own.roll(1, dims=1)
    rest = 1 - own - neighbour
    stratum = (dataset_size - m) / (dataset_size * m)
    return (own / dataset_size + neighbour * stratum + rest / m).log()


@stratified_weights.cases
def _(g):
    yield Case(z=randn(g, 4, 2), dataset_size=10)
    yield Case(z=randn(g, 3, 1), dataset_size=5)
    size = int(torch.randint(1000, 3000, (), generator=g))  # the weights depend on nothing else that is drawn
    yield Case(z=randn(g, 16, 4), dataset_size=size)
    yield Case(z=torch.zeros(4, 1), dataset_size=4)
    yield Case(z=torch.zeros(3, 1), dataset_size=50_000_000)
    yield Case(z=randn(g, 5, 2).double(), dataset_size=12)


@stratified_weights.mistake(
    "This is the line that public code copies: W.view(-1)[::M+1] steps by the row's length, so it walks down column 0, "
    "not down the diagonal (that would be [::M+2]). Every sample then treats the first example's posterior as its own."
)
def walks_down_a_column(z, dataset_size):
    m = len(z) - 1
    weights = torch.full((m + 1, m + 1), 1 / m, dtype=z.dtype, device=z.device)
    stratum = (dataset_size - m) / (dataset_size * m)
    weights.view(-1)[:: m + 1] = 1 / dataset_size
    weights.view(-1)[1 :: m + 1] = stratum
    weights[m - 1, 0] = stratum
    return weights.log()


stratified_weights.mistake(
    "The values are right, but they are the weights themselves: return their logarithms.",
    not_logarithms=(".log()", ""),
)
stratified_weights.mistake(
    "M is the number of OTHER examples, len(z) − 1: the batch holds M + 1. With M = len(z) no row sums to 1.",
    batch_counted_as_m=[("len(z) - 1", "len(z)"), ("m + 1", "m")],
)
stratified_weights.mistake(
    "One of the others must get (N − M)/(N M) instead of 1/M: with all others at 1/M a row sums to 1 + 1/N.",
    no_stratum=("neighbour * stratum", "neighbour / m"),
)
stratified_weights.mistake(
    "The two special weights are swapped: 1/N belongs to the sample's own posterior, on the diagonal.",
    swapped=("own / dataset_size + neighbour * stratum", "own * stratum + neighbour / dataset_size"),
)


@stratified_weights.mistake(
    "All weights are equal. The sample's own posterior is in the batch for sure, the others by chance: it must weigh 1/N "
    "only, or q(z) is far too high near z."
)
def all_equal(z, dataset_size):
    return torch.full((len(z), len(z)), -math.log(len(z)), dtype=z.dtype, device=z.device)


stratified_weights.mistake(
    "The heavier neighbour stands to the left of the diagonal. Any other would be as good, but the contract says j = i + 1, "
    "so that results can be compared.",
    neighbour_on_the_left=("roll(1,", "roll(-1,"),
)
stratified_weights.mistake(
    "The last row has no heavier neighbour: its j = i + 1 would lie outside. It is j = 0 there; else that row sums to less "
    "than 1.",
    last_row_forgotten=("dims=1)", "dims=1).triu()"),
)


# ------------------------------------------------------------------ kl_decomposition


@solution(
    lesson.kl_decomposition,
    hints=[
        "Every term is the mean of a difference of two log densities; each density appears once with + and once with −.",
        "log p(z_d) = −½ (z² + log 2π), shape (M, D). Sum over latents, then average over samples.",
    ],
)
def kl_decomposition(z, log_conditional, log_joint, log_marginals):
    log_prior = -0.5 * (z.square() + LOG_2PI)  # (M, D)
    mutual_information = (log_conditional - log_joint).mean()
    total_correlation = (log_joint - log_marginals.sum(1)).mean()
    dimension_wise_kl = (log_marginals - log_prior).sum(1).mean()
    return mutual_information, total_correlation, dimension_wise_kl


@kl_decomposition.cases
def _(g):
    yield Case(
        z=torch.tensor([[0.0, 1.0], [2.0, 0.0]]),
        log_conditional=torch.tensor([-1.0, -2.0]),
        log_joint=torch.tensor([-3.0, -5.0]),
        log_marginals=torch.tensor([[-1.0, -2.5], [-3.0, -2.0]]),
    )
    yield Case(
        z=randn(g, 9, 3),
        log_conditional=2 * randn(g, 9) - 2,
        log_joint=2 * randn(g, 9) - 5,
        log_marginals=randn(g, 9, 3) - 2,
    )
    yield Case(
        z=20 * randn(g, 1, 2),
        log_conditional=torch.tensor([5.0]),
        log_joint=torch.tensor([-500.0]),
        log_marginals=torch.tensor([[-200.0, 0.0]]),
    )


kl_decomposition.mistake(
    "You summed over the samples. Every term is an expectation: average.",
    summed_over_samples=[
        ("log_joint).mean()", "log_joint).sum()"),
        ("sum(1)).mean()", "sum(1)).sum()"),
        (".sum(1).mean()", ".sum()"),
    ],
)
kl_decomposition.mistake(
    "Your first term is the whole KL: log q(z|x) − log p(z). The mutual information compares q(z|x) with the aggregate "
    "posterior q(z), not with the prior.",
    information_against_prior=("log_conditional - log_joint", "log_conditional - log_prior.sum(1)"),
)
kl_decomposition.mistake(
    "Your total correlation has the wrong sign: it is KL(q(z) || Π q(z_d)), the joint first.",
    negative_tc=("log_joint - log_marginals.sum(1)", "log_marginals.sum(1) - log_joint"),
)
kl_decomposition.mistake(
    "Your third term is KL(q(z) || p(z)), from the joint. It contains the total correlation once more; the dimension-wise "
    "KL compares the marginals with the prior, latent by latent.",
    joint_against_prior=("(log_marginals - log_prior).sum(1)", "(log_joint - log_prior.sum(1))"),
)
kl_decomposition.mistake(
    "You averaged the marginals over the latents. log Π_d q(z_d) is their SUM.",
    marginals_averaged=[
        ("log_marginals.sum(1)", "log_marginals.mean(1)"),
        ("log_prior).sum(1)", "log_prior).mean(1)"),
    ],
)
kl_decomposition.mistake(
    "The prior lacks its constant, −½ log 2π for each latent: it does not cancel against the marginals.",
    prior_without_constant=(" + LOG_2PI", ""),
)
kl_decomposition.mistake(
    "Your total correlation starts from q(z|x). Given x the latents are independent by construction; what is "
    "correlated is the aggregate q(z), log_joint.",
    tc_of_conditional=("log_joint - log_marginals", "log_conditional - log_marginals"),
)
kl_decomposition.mistake(
    "The outputs are in another order: mutual information, total correlation, dimension-wise KL.",
    tc_first=(
        "return mutual_information, total_correlation,",
        "return total_correlation, mutual_information,",
    ),
    tc_last=("total_correlation, dimension_wise_kl", "dimension_wise_kl, total_correlation"),
)
kl_decomposition.mistake(
    "Each term is a mean over the samples, a scalar: yours is one number for each sample.",
    per_sample=[
        ("log_joint).mean()", "log_joint)"),
        ("sum(1)).mean()", "sum(1))"),
        (".sum(1).mean()", ".sum(1)"),
    ],
)


# ------------------------------------------------------------------ log_marginals_streaming


@solution(
    lesson.log_marginals_streaming,
    hints=[
        "Start the running log-sum at −∞. For each block: its log densities, (M, block, D), their logsumexp over the "
        "block, and torch.logaddexp with the running sum.",
        "mean.split(block) gives the blocks, the last one smaller. Subtract log N once, after the loop.",
        "Put the block's work into a function f(z, mean_block, log_var_block) -> (M, D) and call it through "
        "checkpoint(f, …): then autograd keeps the arguments of f, not what f computes. (The solution is several times "
        "as fast: a torch.autograd.Function whose backward goes through the blocks again, since the gradient of a "
        "logsumexp is a softmax; exponents from matrix products, the square written out; work in place; nothing below "
        "exp(−60), since torch.exp crawls on a CPU where results fall below exp(−87).)",
    ],
)
def log_marginals_streaming(z, mean, log_var, block):
    class LogSum(torch.autograd.Function):
        """log Σ_n exp(c_n · f_m), (D, M): f (D, 3, M), c (D, 3, N)."""

        @staticmethod
        def forward(ctx, f, c):
            top = torch.full_like(f[:, :1], -math.inf)  # (D, 1, M), the largest exponent so far
            total = torch.zeros_like(top)  # Σ exp(exponent − top)
            for part in c.split(block, dim=2):
                exponent = part.mT @ f  # (D, block, M)
                higher = torch.maximum(top, exponent.amax(1, keepdim=True))
                # exp(−60) is nothing beside 1. Below exp(−87) torch.exp is 60 times as slow on a CPU, and more.
                terms = exponent.sub_(higher).clamp_(min=-60).exp_()
                total = total * (top - higher).exp() + terms.sum(1, keepdim=True)
                top = higher
            log_sum = top + total.log()
            ctx.save_for_backward(f, c, log_sum)
            return log_sum[:, 0]

        @staticmethod
        def backward(ctx, gradient):
            f, c, log_sum = ctx.saved_tensors
            weighted, to_f, to_c = f * gradient[:, None], torch.zeros_like(f), []
            for part in c.split(block, dim=2):  # computed anew: no block was kept
                softmax = (part.mT @ f).sub_(log_sum).clamp_(min=-60).exp_()  # over n
                to_f.baddbmm_(part, softmax)
                to_c.append(weighted @ softmax.mT)
            return to_f * gradient[:, None], torch.cat(to_c, dim=2)

    # The square written out: the exponent is a product of three numbers of each posterior and three of each sample.
    centre = mean.mean(0).detach()
    x, m, precision = (z - centre).T, (mean - centre).T, (-log_var.T).exp()
    f = torch.stack([x.square(), x, torch.ones_like(x)], dim=1)
    constant = precision * m.square() + (log_var + LOG_2PI).T
    c = torch.stack([-0.5 * precision, precision * m, -0.5 * constant], dim=1)
    return LogSum.apply(f, c).T - math.log(len(mean))


@log_marginals_streaming.cases
def _(g):
    yield Case(
        z=torch.tensor([[0.0, 1.0], [2.0, 0.0]]),
        mean=torch.tensor([[0.0, 0.0], [2.0, 1.0], [-1.0, 3.0]]),
        log_var=torch.tensor([[0.0, 0.0], [-1.0, 1.0], [0.5, 0.0]]),
        block=2,
    )
    yield Case(z=randn(g, 5, 3), mean=randn(g, 11, 3), log_var=randn(g, 11, 3) - 1, block=4)
    yield Case(z=randn(g, 4, 2) + 40, mean=randn(g, 6, 2), log_var=randn(g, 6, 2) / 4, block=3)
    yield Case(z=randn(g, 1, 1), mean=randn(g, 5, 1), log_var=randn(g, 5, 1), block=1)
    far = torch.tensor([200.0, -200.0])
    yield Case(z=far + randn(g, 3, 2), mean=far + randn(g, 4, 2), log_var=randn(g, 4, 2), block=2).alone(
        "Right near 0 only: far from there the parts of a written-out square cancel. Subtract the centre of the means first."
    )
    yield Case(z=randn(g, 2, 3), mean=torch.zeros(4, 3), log_var=torch.zeros(4, 3), block=100)


log_marginals_streaming.mistake(
    "log N is missing: the aggregate posterior is the MEAN of the posteriors, and integrates to 1.",
    no_log_n=(" - math.log(len(mean))", ""),
)


@log_marginals_streaming.mistake(
    "You added up exp(…) over the blocks. Far from all posteriors that sum is 0 and its logarithm −∞: stay in logarithms, "
    "with torch.logaddexp."
)
def exponentials_added(z, mean, log_var, block):
    return log_densities(z, mean, log_var).exp().mean(1).log()


@log_marginals_streaming.mistake(
    "You averaged each block and then the blocks: posteriors of the last, smaller block count too much. Add up the sums, and "
    "divide by N once."
)
def mean_of_block_means(z, mean, log_var, block):
    parts = log_densities(z, mean, log_var).split(block, dim=1)
    means = torch.stack([p.logsumexp(1) - math.log(p.shape[1]) for p in parts])
    return means.logsumexp(0) - math.log(len(parts))


@log_marginals_streaming.mistake(
    "The last block is missing where N is not a multiple of the block: 11 posteriors in blocks of 4 are three blocks."
)
def last_block_dropped(z, mean, log_var, block):
    whole = len(mean) // block * block
    return log_densities(z, mean[:whole], log_var[:whole]).logsumexp(1) - math.log(len(mean))


@log_marginals_streaming.mistake(
    "You averaged the logarithms of the blocks. The mixture is a sum of densities: mean inside the logarithm."
)
def logarithms_averaged(z, mean, log_var, block):
    parts = log_densities(z, mean, log_var).split(block, dim=1)
    return torch.stack([p.logsumexp(1) - math.log(p.shape[1]) for p in parts]).mean(0)


@log_marginals_streaming.mistake(
    "The values are right, but no gradient comes back: no_grad or detach saves the memory by giving up the training. "
    "checkpoint saves it by computing twice."
)
def without_gradient(z, mean, log_var, block):
    return (log_densities(z, mean, log_var).logsumexp(1) - math.log(len(mean))).detach()


log_marginals_streaming.mistake(
    "You treated log_var as log σ. It is the logarithm of the variance.",
    log_sigma_in_blocks=[
        ("(-log_var.T)", "(-2 * log_var.T)"),
        ("(log_var + LOG_2PI)", "(2 * log_var + LOG_2PI)"),
    ],
)


# ------------------------------------------------------------------ beta_tcvae_loss


@solution(
    lesson.beta_tcvae_loss,
    hints=[
        "−ELBO holds all three terms of the KL with weight 1. How much of the TC must be added so that it weighs β?",
        "joint, marginals = lesson's log_aggregate_posterior; the TC is the mean of joint minus the sum of marginals.",
        "-elbo.elbo(x, logits, mean, log_var) + (beta - 1) * TC, with the gradient through z left alone.",
    ],
)
def beta_tcvae_loss(x, logits, mean, log_var, z, dataset_size, beta):
    joint, marginals = lesson.log_aggregate_posterior(z, mean, log_var, dataset_size)
    total_correlation = (joint - marginals.sum(1)).mean()
    return (beta - 1) * total_correlation - elbo.elbo(x, logits, mean, log_var)


@beta_tcvae_loss.cases
def _(g):
    yield Case(
        x=torch.tensor([[1.0, 0.0], [0.0, 0.0]]),
        logits=torch.tensor([[1.0, -1.0], [-2.0, 0.5]]),
        mean=torch.tensor([[0.0, 0.5], [1.0, 0.0]]),
        log_var=torch.tensor([[0.0, -1.0], [0.5, 0.0]]),
        z=torch.tensor([[0.0, 1.0], [2.0, 0.0]]),
        dataset_size=10,
        beta=6.0,
    )
    yield Case(
        x=rand(g, 6, 1, 4, 4),
        logits=randn(g, 6, 1, 4, 4),
        mean=randn(g, 6, 3),
        log_var=randn(g, 6, 3) - 1,
        z=randn(g, 6, 3),
        dataset_size=500,
        beta=4.0,
    )
    yield Case(
        x=rand(g, 1, 2),
        logits=200 * randn(g, 1, 2),
        mean=randn(g, 1, 2),
        log_var=torch.zeros(1, 2),
        z=5 * randn(g, 1, 2),
        dataset_size=3,
        beta=0.0,
    )


beta_tcvae_loss.mistake(
    "You added β TC to −ELBO, whose KL holds the TC once already: yours weighs it by 1 + β.",
    tc_counted_once_more=("(beta - 1)", "beta"),
)
beta_tcvae_loss.mistake(
    "The total correlation is rewarded, not penalised: the loss is minimised, so it enters with a plus.",
    tc_rewarded=("(beta - 1)", "(1 - beta)"),
)
beta_tcvae_loss.mistake(
    "The gradients are right, the value is not: the constants log(N M) of the joint and of the D marginals are dropped, and "
    "(D − 1) log(N M) is missing from the TC. Nobody can read such a curve: its TC is negative.",
    constant_dropped=(".mean()", ".mean() - (z.shape[1] - 1) * math.log(dataset_size * len(z))"),
)


beta_tcvae_loss.mistake(
    "This is the beta-VAE: β weighs the whole KL, mutual information included.",
    whole_kl=("total_correlation - elbo", "elbo.gaussian_kl(mean, log_var).mean() - elbo"),
)


beta_tcvae_loss.mistake(
    "The value is right, but no gradient of the TC reaches z: you detached it. The encoder can lower the TC only by moving "
    "the samples together with the posteriors.",
    z_detached=("posterior(z,", "posterior(z.detach(),"),
)
beta_tcvae_loss.mistake(
    "You averaged the cross-entropy over the pixels. For an image of P pixels both the KL and the TC then weigh P times too "
    "much.",
    cross_entropy_mean=(
        "elbo.elbo(x, logits, mean, log_var)",
        "elbo.bernoulli_log_likelihood(x, logits).mean() / x[0].numel() + elbo.gaussian_kl(mean, log_var).mean()",
    ),
)
beta_tcvae_loss.mistake(
    "The total correlation is summed over the batch, the rest averaged: β then grows with the batch size.",
    tc_summed_over_batch=(".mean()", ".sum()"),
)
beta_tcvae_loss.mistake(
    "The total correlation is one number for each sample in yours. Take its mean over the batch: the loss is a scalar.",
    tc_per_sample=(".mean()", ""),
)


# ------------------------------------------------------------------ mutual_information_gap


@solution(
    lesson.mutual_information_gap,
    hints=[
        "For each factor, a column, you need the two largest entries. torch.topk takes an axis.",
        "top = mutual_information.topk(2, dim=0).values, (2, K). Divide each factor's gap by its own entropy.",
    ],
)
def mutual_information_gap(mutual_information, entropies):
    first, second = mutual_information.topk(2, dim=0).values  # (K,) each
    return ((first - second) / entropies).mean()


@mutual_information_gap.cases
def _(g):
    yield Case(
        mutual_information=torch.tensor([[1.5, 0.1], [0.3, 0.2], [0.0, 0.9]]),
        entropies=torch.tensor([2.0, 1.0]),
    )
    yield Case(mutual_information=2 * rand(g, 10, 5), entropies=2 + rand(g, 5))
    yield Case(mutual_information=rand(g, 4, 4), entropies=1 + rand(g, 4))
    yield Case(  # two best latents, a factor that no latent knows, three best latents
        mutual_information=torch.tensor([[0.8, 0.0, 0.5], [0.8, 0.0, 0.5], [0.2, 0.0, 0.5]]),
        entropies=torch.tensor([1.0, 0.7, 2.0]),
    )
    yield Case(mutual_information=torch.tensor([[0.1], [0.6]]), entropies=torch.tensor([0.7]))


mutual_information_gap.mistake(
    "You reshaped (D, K) to (K, D) with view or reshape. That reads the same numbers in the same order and mixes latents "
    "with factors: a known bug of public code. Transpose with .T, or take topk along dim=0.",
    view_for_transpose=(
        "mutual_information.topk(2, dim=0).values",
        "mutual_information.reshape(len(entropies), -1).topk(2, dim=1).values.T",
    ),
)
mutual_information_gap.mistake(
    "The gaps are not divided by the entropies of the factors: MIG is a share of what there is to know.",
    not_normalised=(" / entropies", ""),
)
mutual_information_gap.mistake(
    "You divided the mean gap by the mean entropy. Every factor counts alike: divide first, then average.",
    ratio_of_means=("((first - second) / entropies).mean()", "(first - second).mean() / entropies.mean()"),
)


@mutual_information_gap.mistake(
    "You took the two best FACTORS of each latent, along dim 1. MIG takes the two best latents of each factor."
)
def best_factors_of_a_latent(mutual_information, entropies):
    top = mutual_information.topk(2, dim=1)
    first, second = top.values.T
    return ((first - second) / entropies[top.indices[:, 0]]).mean()


mutual_information_gap.mistake(
    "You subtracted the smallest entry. The rival is the second best latent.",
    against_the_worst=("first - second", "first - mutual_information.amin(0)"),
)
mutual_information_gap.mistake(
    "The second best latent is not subtracted: a code that stores every factor twice would score as well as one that stores "
    "it once.",
    best_only=("first - second", "first"),
)
mutual_information_gap.mistake(
    "The first and second latent are not the best and the second best: sort each column first.",
    unsorted=("mutual_information.topk(2, dim=0).values", "mutual_information[:2]"),
)
mutual_information_gap.mistake(
    "You looked for the second best among the entries that are smaller than the best, and so passed over a latent that is "
    "just as good. Two equal latents have a gap of 0: torch.topk or a sort keeps both.",
    **{
        f"ties_{name}": (
            "first, second = mutual_information.topk(2, dim=0).values",
            "first = mutual_information.amax(0)\n"
            f"    second = mutual_information.masked_fill(mutual_information == first, {value}).amax(0)",
        )
        for name, value in (("set_to_0", 0), ("set_below_0", -1), ("taken_out", "-math.inf"))
    },
)
mutual_information_gap.mistake(
    "You summed over the factors. MIG is the mean of their gaps, from 0 to 1.",
    summed=(".mean()", ".sum()"),
)
mutual_information_gap.mistake(
    "You returned one gap for each factor. MIG is their mean, a scalar.",
    per_factor=(".mean()", ""),
)
