"""Lesson 09: solutions, cases, named mistakes and hints."""

import math

import torch

from course_lib.exercise.solution import Case, rand, randn, solution
from course_lib.lessons import beta_vae, elbo
from course_lib.lessons import what_it_takes as lesson
from course_lib.lessons.what_it_takes import orthogonalise


def _rotation(g, n):
    """A random orthogonal matrix (n, n), of determinant 1 or −1."""
    return torch.linalg.qr(randn(g, n, n)).Q


# ------------------------------------------------------------------ rotated_uniforms


@solution(
    lesson.rotated_uniforms,
    hints=[
        "Φ and its inverse are torch.special.ndtr and torch.special.ndtri.",
        "A row becomes R g; for all rows at once that is gaussian @ rotation.T.",
    ],
)
def rotated_uniforms(u, rotation):
    gaussian = torch.special.ndtri(u)  # (N, D): independent N(0, 1) where u is uniform
    return torch.special.ndtr(gaussian @ rotation.mT)


@rotated_uniforms.cases
def _(g):
    yield Case(
        u=torch.tensor([[0.5, 0.9], [0.1, 0.3], [0.75, 0.6]]),
        rotation=torch.tensor([[0.8, -0.6], [0.6, 0.8]]),
    )
    yield Case(u=0.05 + 0.9 * rand(g, 20, 3), rotation=_rotation(g, 3))
    yield Case(u=0.05 + 0.9 * rand(g, 1, 4), rotation=_rotation(g, 4))


rotated_uniforms.mistake(
    "You rotated the uniform numbers themselves. A rotated square is no square: its coordinates are dependent. Rotate "
    "Gaussians, whose distribution is round.",
    uniforms_rotated=("torch.special.ndtri(u)", "u"),
)
rotated_uniforms.mistake(
    "The result is Gaussian: Φ, which brings it back to (0, 1), is missing.",
    no_way_back=("torch.special.ndtr(gaussian @ rotation.mT)", "gaussian @ rotation.mT"),
)
rotated_uniforms.mistake(
    "You rotated the other way: row g becomes R g, which is g @ R.T for all rows; g @ R is R⁻¹ g.",
    other_way=("rotation.mT", "rotation"),
)
rotated_uniforms.mistake(
    "You used the logistic function and its inverse. A vector of logistic numbers is not round: rotated, it is neither "
    "independent nor uniform. Φ is torch.special.ndtr.",
    logistic=[("torch.special.ndtri(u)", "u.logit()"), ("torch.special.ndtr(", "torch.sigmoid(")],
)
rotated_uniforms.mistake(
    "Φ and Φ⁻¹ are exchanged: ndtri takes (0, 1) to the real numbers, ndtr goes back.",
    exchanged=[
        ("torch.special.ndtri(u)", "torch.special.ndtr(u)"),
        ("return torch.special.ndtr(", "return torch.special.ndtri("),
    ],
)
rotated_uniforms.mistake(
    "You used the error function, whose argument is scaled by √2 and whose values lie in (−1, 1): Φ(x) = ½ (1 + erf(x/√2)).",
    error_function=[
        ("torch.special.ndtri(u)", "torch.erfinv(2 * u - 1)"),
        ("torch.special.ndtr(", "torch.erf("),
    ],
)


# ------------------------------------------------------------------ whiten


@solution(
    lesson.whiten,
    hints=[
        "Centre x first. The covariance is centred.T @ centred / N.",
        "torch.linalg.cholesky_ex gives it, under the name L, and waits for no host.",
        "z = L⁻¹ centred is, for all points at once, torch.linalg.solve_triangular(L, centred.T, upper=False).T.",
    ],
)
def whiten(x):
    centred = x - x.mean(0)
    covariance = centred.mT @ centred / len(x)
    lower = torch.linalg.cholesky_ex(covariance).L
    return torch.linalg.solve_triangular(lower, centred.mT, upper=False).mT


@whiten.cases
def _(g):
    yield Case(x=torch.tensor([[1.0, 2.0], [3.0, 1.0], [2.0, 5.0], [-1.0, 0.0]]))
    yield Case(x=randn(g, 30, 3) @ (torch.eye(3) + 0.5 * randn(g, 3, 3)) + torch.tensor([5.0, 0.0, -2.0]))
    yield Case(x=3 + 0.1 * randn(g, 6, 1))
    yield Case(x=randn(g, 200, 4) @ (torch.eye(4) + 0.3 * randn(g, 4, 4)))


whiten.mistake(
    "The mean is not 0: subtract it from the points, too, not only in the covariance.",
    not_centred=("lower, centred.mT", "lower, x.mT"),
)
whiten.mistake(
    "You divided by N − 1. The contract's covariance divides by N.",
    n_minus_one=("/ len(x)", "/ (len(x) - 1)"),
)
whiten.mistake(
    "You only scaled every feature by its own standard deviation. Whitening also takes the correlations away.",
    standardised=("torch.linalg.cholesky_ex(covariance).L", "covariance.diagonal().sqrt().diag()"),
)
whiten.mistake(
    "You multiplied by L where L⁻¹ is wanted: the covariance becomes its square.",
    not_inverted=("torch.linalg.solve_triangular(lower, centred.mT, upper=False).mT", "centred @ lower.mT"),
)
whiten.mistake(
    "You multiplied by L⁻¹ from the wrong side: rows need centred @ L⁻ᵀ, and yours is centred @ L⁻¹.",
    wrong_side=(
        "torch.linalg.solve_triangular(lower, centred.mT, upper=False).mT",
        "torch.linalg.solve_triangular(lower, centred, upper=False, left=False)",
    ),
)
whiten.mistake(
    "You divided by the covariance where its root is wanted: solve with L once, not with Σ.",
    by_the_covariance=(
        "torch.linalg.solve_triangular(lower, centred.mT, upper=False).mT",
        "torch.linalg.solve_ex(covariance, centred.mT).result.mT",
    ),
)
whiten.mistake(
    "The covariance was taken without subtracting the mean first.",
    second_moment=("centred.mT @ centred / len(x)", "x.mT @ x / len(x)"),
)


@whiten.mistake(
    "White, but by the symmetric root Σ^(−½) (ZCA), another rotation than the contract's. Use the Cholesky factor: then "
    "the result is unique, and a GPU does not wait."
)
def symmetric_root(x):
    centred = x - x.mean(0)
    values, vectors = torch.linalg.eigh(centred.mT @ centred / len(x))
    return centred @ (vectors / values.sqrt()) @ vectors.mT


# ------------------------------------------------------------------ fastica_step


@solution(
    lesson.fastica_step,
    hints=[
        "y = z @ unmixing.T has all guesses at all points, (N, D). One tanh serves g and g'.",
        "The first term of all rows at once is tanh(y).T @ z / N, (D, D).",
        "The second is (1 − tanh²(y)).mean(0)[:, None] * unmixing. Subtract it, then orthogonalise.",
    ],
)
def fastica_step(z, unmixing):
    response = torch.tanh(z @ unmixing.mT)  # (N, D)
    slope = (1 - response**2).mean(0)  # (D,)
    return orthogonalise(response.mT @ z / len(z) - slope[:, None] * unmixing)


def _white(x):
    """Points (N, D) made white, to rounding."""
    centred = x - x.mean(0)
    return torch.linalg.qr(centred).Q * math.sqrt(len(x))


def _sources(g, n):
    """A mixture of a Laplace, a uniform and a lopsided source, made white: (n, 3)."""
    laplace = -rand(g, n).clamp(min=1e-3).log() * torch.sign(randn(g, n))
    lopsided = -rand(g, n).clamp(min=1e-3).log()
    return _white(torch.stack([laplace, rand(g, n), lopsided], 1) @ randn(g, 3, 3))


@fastica_step.cases
def _(g):
    x = torch.tensor([[1.0, 0.0], [0.2, 2.0], [-1.0, 0.3], [0.5, -1.0], [-0.4, -0.2], [2.0, 0.4]])
    yield Case(z=_white(x), unmixing=torch.tensor([[0.8, -0.6], [0.6, 0.8]]))
    yield Case(z=_sources(g, 200), unmixing=_rotation(g, 3))
    yield Case(z=_sources(g, 100), unmixing=_rotation(g, 3))
    yield Case(z=2 * rand(g, 9, 1), unmixing=torch.ones(1, 1))


fastica_step.mistake(
    "The second term is missing. Without it the step is a gradient step whose direction depends on the sign of the "
    "kurtosis, and it does not converge for every source.",
    no_slope=(" - slope[:, None] * unmixing", ""),
)
fastica_step.mistake(
    "The rows are not orthonormal: orthogonalise is missing, and nothing keeps two rows from finding the same source.",
    not_orthogonal=(
        "orthogonalise(response.mT @ z / len(z) - slope[:, None] * unmixing)",
        "response.mT @ z / len(z) - slope[:, None] * unmixing",
    ),
)
fastica_step.mistake(
    "You scaled every row to length 1. That is not enough: two rows may still be alike. orthogonalise does both.",
    rows_normalised=(
        "orthogonalise(response.mT @ z / len(z) - slope[:, None] * unmixing)",
        "torch.nn.functional.normalize(response.mT @ z / len(z) - slope[:, None] * unmixing, dim=1)",
    ),
)
fastica_step.mistake(
    "The slopes multiply the columns of W. g'(w_d·z) belongs to row d: slope[:, None] * unmixing.",
    slope_of_columns=("slope[:, None] * unmixing", "slope * unmixing"),
)
fastica_step.mistake(
    "The sum over the points is divided by N in one term and not in the other. Both are means over the points.",
    sum_of_slopes=(".mean(0)", ".sum(0)"),
)
fastica_step.mistake(
    "The guesses are y_n = W z_n, for all points z @ W.T. Yours are z @ W, those of the inverse rotation.",
    transposed=("z @ unmixing.mT", "z @ unmixing"),
)
fastica_step.mistake(
    "The derivative of tanh(y) is 1 − tanh²(y). Yours is 1 − tanh(y).",
    no_square=("response**2", "response"),
)
fastica_step.mistake(
    "The second term is added. It is subtracted.",
    added=(" - slope[:, None]", " + slope[:, None]"),
)
fastica_step.mistake(
    "You used g(y) = y³, g' = 3 y², the other usual choice. The contract asks for tanh, which outliers move less.",
    cubic=[
        ("torch.tanh(z @ unmixing.mT)", "(z @ unmixing.mT) ** 3"),
        ("(1 - response**2)", "(3 * (z @ unmixing.mT) ** 2)"),
    ],
)


# ------------------------------------------------------------------ mean_correlation


@solution(
    lesson.mean_correlation,
    hints=[
        "Centre and scale every column to length 1; then codes.T @ factors has all correlations, (D, D).",
        "match gets the ABSOLUTE correlations and returns (rows, columns): scores[rows, columns].mean().",
        "A column of zeros has length 0: torch.where, or a clamp of the length from below, keeps 0/0 away.",
    ],
)
def mean_correlation(codes, factors, match):
    def standardised(x):
        centred = x - x.mean(0)
        length = centred.norm(dim=0)
        return torch.where(length > 0, centred / length, 0.0)

    scores = (standardised(codes).mT @ standardised(factors)).abs()  # (D, D)
    rows, columns = match(scores)
    return scores[rows, columns].mean()


@mean_correlation.cases
def _(g):
    factors = torch.tensor([[1.0, 0.0], [2.0, 3.0], [0.0, 1.0], [5.0, 2.0]])
    yield Case(codes=torch.tensor([[0.5, 2.0], [-3.0, 4.5], [-1.0, 1.0], [-1.5, 9.0]]), factors=factors)
    v = randn(g, 60, 3)
    yield Case(
        codes=(v + 0.5 * randn(g, 60, 3))[:, [2, 0, 1]] * torch.tensor([-2.0, 0.1, 5.0]) + 3, factors=v
    )
    mixed = torch.tensor([[1.0, 0.8, 0.0], [0.9, 0.5, 0.1], [0.0, 0.1, 1.0]])  # both like factor 0 best
    yield Case(codes=v @ mixed.T + 0.1 * randn(g, 60, 3), factors=v)
    yield Case(codes=torch.cat([v[:, 1:2], torch.full((60, 1), 2.0), -v[:, :1]], 1), factors=v)
    yield Case(codes=torch.randn(9, 1, generator=g), factors=randn(g, 9, 1))
    yield Case(codes=torch.full((1, 2), 3.0), factors=torch.ones(1, 2))


mean_correlation.mistake(
    "You left the sign: a code that runs backwards is as good. Take absolute values before matching.",
    signed=(".abs()", ""),
)
mean_correlation.mistake(
    "Code i was compared with factor i. Codes come in any order: use the rows and columns that match returns.",
    in_order=("scores[rows, columns].mean()", "scores.diagonal().mean()"),
)
mean_correlation.mistake(
    "Every code was given the factor that it likes best, so two codes may share one. The matching is one to one.",
    best_for_each=("scores[rows, columns].mean()", "scores.amax(1).mean()"),
)
mean_correlation.mistake(
    "Every factor was given the code that it likes best, so one code may serve two. The matching is one to one.",
    best_of_each_factor=("scores[rows, columns].mean()", "scores.amax(0).mean()"),
)
mean_correlation.mistake(
    "You summed over the matching; MCC is the mean, at most 1.",
    summed=("columns].mean()", "columns].sum()"),
)
mean_correlation.mistake(
    "The squared correlation is the share of variance explained. MCC is the mean of the absolute correlations.",
    squared=(".abs()", ".square()"),
)
mean_correlation.mistake(
    "You compared without subtracting the means: a cosine, not a correlation.",
    not_centred=("x - x.mean(0)", "x"),
)
mean_correlation.mistake(
    "A constant column has length 0, and 0/0 is NaN. Its correlation counts as 0.",
    not_a_number=("torch.where(length > 0, centred / length, 0.0)", "centred / length"),
)
mean_correlation.mistake(
    "The matching was made on one matrix and read off its transpose: rows are codes, columns are factors, in both.",
    read_transposed=("scores[rows, columns]", "scores[columns, rows]"),
)
mean_correlation.mistake(
    "These are covariances: divide by the standard deviations, or the scale of a code counts.",
    covariances=[
        ("torch.where(length > 0, centred / length, 0.0)", "centred"),
        ("standardised(factors))", "standardised(factors) / len(codes))"),
    ],
)


# ------------------------------------------------------------------ gaussian_kl_between


@solution(
    lesson.gaussian_kl_between,
    hints=[
        "With other_log_var = 0 and other_mean = 0 it is each latent's part of elbo.gaussian_kl.",
        "σ²/s² is (log_var − other_log_var).exp(): one exponential of a difference, which stays small where the two are near.",
    ],
)
def gaussian_kl_between(mean, log_var, other_mean, other_log_var):
    ratio = (log_var - other_log_var).exp()
    distance = ((mean - other_mean) * (-0.5 * other_log_var).exp()).square()
    return 0.5 * (ratio + distance - 1 - log_var + other_log_var)


def _near(g, n, d, scale=1.0):
    first = dict(mean=randn(g, n, d), log_var=scale * randn(g, n, d))
    second = dict(other_mean=randn(g, n, d), other_log_var=first["log_var"] + 0.7 * randn(g, n, d))
    return first | second


@gaussian_kl_between.cases
def _(g):
    yield Case(
        mean=torch.tensor([[1.0, 0.0], [0.5, -1.0]]),
        log_var=torch.tensor([[0.0, -1.0], [0.5, 0.2]]),
        other_mean=torch.tensor([[0.0, 0.0], [0.5, 1.0]]),
        other_log_var=torch.tensor([[1.0, 0.0], [0.5, -0.4]]),
    )
    yield Case(**_near(g, 12, 5))
    yield Case(**_near(g, 1, 3))
    means = 1e-13 * randn(g, 2, 2)
    yield Case(
        mean=means,
        log_var=torch.tensor([[-60.0, 60.0], [-59.0, 59.0]]),
        other_mean=torch.zeros(2, 2),
        other_log_var=torch.tensor([[-60.5, 60.5], [-60.0, 60.0]]),
    )


gaussian_kl_between.mistake(
    "This is the KL in the other direction: KL(other || first). The variance that divides is the second one's.",
    other_direction=[
        ("(log_var - other_log_var).exp()", "(other_log_var - log_var).exp()"),
        ("(-0.5 * other_log_var).exp()", "(-0.5 * log_var).exp()"),
        ("- 1 - log_var + other_log_var", "- 1 + log_var - other_log_var"),
    ],
)
gaussian_kl_between.mistake("The ½ is missing.", no_half=("0.5 * (ratio", "(ratio"))
gaussian_kl_between.mistake(
    "You summed over the latents. Here every latent keeps its own number: the sum comes later, where it is needed.",
    summed=(
        "0.5 * (ratio + distance - 1 - log_var + other_log_var)",
        "0.5 * (ratio + distance - 1 - log_var + other_log_var).sum(1)",
    ),
)
gaussian_kl_between.mistake(
    "This is the KL to N(0, I): the other Gaussian was ignored.",
    standard_prior=[
        ("(log_var - other_log_var).exp()", "log_var.exp()"),
        ("((mean - other_mean) * (-0.5 * other_log_var).exp()).square()", "mean.square()"),
        (" + other_log_var)", ")"),
    ],
)
gaussian_kl_between.mistake(
    "The distance of the means is not divided by the variance of the second Gaussian.",
    distance_not_scaled=(" * (-0.5 * other_log_var).exp()", ""),
)
gaussian_kl_between.mistake(
    "log_var is the logarithm of the variance; you used it as that of the standard deviation.",
    log_deviation=[
        ("(log_var - other_log_var).exp()", "(2 * (log_var - other_log_var)).exp()"),
        ("(-0.5 * other_log_var)", "(-other_log_var)"),
        ("- 1 - log_var + other_log_var", "- 1 - 2 * log_var + 2 * other_log_var"),
    ],
)
gaussian_kl_between.mistake(
    "The −1 is missing: the KL of two equal Gaussians is 0.", no_minus_one=("- 1 - log_var", "- log_var")
)
gaussian_kl_between.mistake(
    "The log variances have the wrong sign: + log s² − log σ².",
    logs_exchanged=("- 1 - log_var + other_log_var", "- 1 + log_var - other_log_var"),
)
gaussian_kl_between.mistake(
    "The variance of the first Gaussian divides the distance of the means. It is the second one's.",
    divided_by_the_first=("(-0.5 * other_log_var).exp()", "(-0.5 * log_var).exp()"),
)


# ------------------------------------------------------------------ ivae_loss


@solution(
    lesson.ivae_loss,
    hints=[
        "−log N(x; f, σ² I) = ½ Σ_p [(x_p − f_p)²/σ² + log 2πσ²].",
        "Sum over P and over D first, then add, then take the mean over the batch.",
    ],
)
def ivae_loss(x, prediction, mean, log_var, prior_mean, prior_log_var, noise_variance):
    constant = math.log(2 * math.pi * noise_variance)
    distortion = 0.5 * ((x - prediction).square() / noise_variance + constant).sum(1)  # (B,)
    kl = lesson.gaussian_kl_between(mean, log_var, prior_mean, prior_log_var).sum(1)
    return (distortion + kl).mean()


def _segment(g, n, p, d, noise_variance):
    kl = _near(g, n, d)
    prior = dict(prior_mean=kl.pop("other_mean"), prior_log_var=kl.pop("other_log_var"))
    return Case(x=randn(g, n, p), prediction=randn(g, n, p), **kl, **prior, noise_variance=noise_variance)


@ivae_loss.cases
def _(g):
    yield _segment(g, 3, 2, 2, 0.5)
    yield _segment(g, 20, 5, 3, 0.1)
    yield _segment(g, 1, 4, 2, 2.0)


ivae_loss.mistake(
    "The sign is wrong: the loss is MINUS the bound, small for a good model.",
    bound_itself=("return (distortion + kl)", "return -(distortion + kl)"),
)
ivae_loss.mistake(
    "The KL was subtracted. Both terms of −bound are costs: distortion plus KL.",
    kl_subtracted=("distortion + kl", "distortion - kl"),
)
ivae_loss.mistake(
    "The KL was averaged over the latents. The latents' KLs are summed.",
    mean_over_latents=("prior_log_var).sum(1)", "prior_log_var).mean(1)"),
)
ivae_loss.mistake(
    "The distortion was averaged over the features of x. It is a log density of all of them: summed.",
    mean_over_features=("constant).sum(1)", "constant).mean(1)"),
)
ivae_loss.mistake(
    "The constant ½ P log 2πσ² is missing, so this is no bound on log p(x|u).",
    no_constant=(" + constant", ""),
)
ivae_loss.mistake(
    "The constant was added once; every feature of x has one.",
    constant_once=("+ constant).sum(1)", ").sum(1) + 0.5 * constant"),
)
ivae_loss.mistake(
    "You divided by σ where σ² is wanted: noise_variance is the variance already.",
    by_the_deviation=("square() / noise_variance", "square() / noise_variance**0.5"),
    variance_squared=("square() / noise_variance", "square() / noise_variance**2"),
)
ivae_loss.mistake(
    "The prior is N(0, I) in yours: what the segment says of z is not used.",
    standard_prior=("prior_mean, prior_log_var)", "0 * prior_mean, 0 * prior_log_var)"),
)
ivae_loss.mistake(
    "The arguments of the KL are exchanged: it is KL(q(z|x, u) || p(z|u)).",
    other_direction=(
        "(mean, log_var, prior_mean, prior_log_var)",
        "(prior_mean, prior_log_var, mean, log_var)",
    ),
)
ivae_loss.mistake(
    "You summed over the batch. The loss is the mean over examples.", batch_summed=("kl).mean()", "kl).sum()")
)


# ------------------------------------------------------------------ average_shared


@solution(
    lesson.average_shared,
    hints=[
        "gaussian_kl_between gives δ, (B, D). Its largest and smallest value in each row: amax and amin with keepdim=True.",
        "shared = δ < threshold is a mask (B, D); torch.where(shared, average, own) chooses without a loop.",
        "log of the mean of two variances: torch.logaddexp(log_var, other_log_var) − log 2.",
    ],
)
def average_shared(mean, log_var, other_mean, other_log_var):
    kl = lesson.gaussian_kl_between(mean, log_var, other_mean, other_log_var)  # (B, D)
    shared = kl < 0.5 * (kl.amax(1, keepdim=True) + kl.amin(1, keepdim=True))
    both_mean = 0.5 * (mean + other_mean)
    both_log_var = torch.logaddexp(log_var, other_log_var) - math.log(2)
    first = torch.where(shared, both_mean, mean), torch.where(shared, both_log_var, log_var)
    second = torch.where(shared, both_mean, other_mean), torch.where(shared, both_log_var, other_log_var)
    return *first, *second


@average_shared.cases
def _(g):
    yield Case(  # latent 0 differs, 1 and 2 are shared; in the second pair latents 0 and 2 differ
        mean=torch.tensor([[2.0, 0.1, -1.0], [1.0, 0.5, 2.0]]),
        log_var=torch.tensor([[-1.0, -0.5, 0.0], [-1.0, 0.0, -2.0]]),
        other_mean=torch.tensor([[-1.0, 0.3, -0.8], [-1.0, 0.6, 1.0]]),
        other_log_var=torch.tensor([[-0.5, -0.7, 0.2], [-1.5, 0.3, -2.0]]),
    )
    yield Case(**_near(g, 20, 6))
    yield Case(**_near(g, 1, 4, 0.3))
    few = _near(g, 5, 3)  # pairs whose differences are of very different sizes: no threshold serves all
    few["other_mean"] = few["mean"] + torch.tensor([0.05, 0.2, 1.0, 3.0, 9.0])[:, None] * randn(g, 5, 3)
    yield Case(**few)
    alone = _near(g, 2, 1)
    yield Case(**alone)


average_shared.mistake(
    "You averaged the latents that differ. Shared are those whose KL is BELOW the threshold.",
    differing_averaged=("shared = kl < 0.5", "shared = kl > 0.5"),
)
average_shared.mistake(
    "One threshold for the whole batch. Every pair has its own, halfway between ITS largest and smallest KL.",
    one_threshold=("(kl.amax(1, keepdim=True) + kl.amin(1, keepdim=True))", "(kl.max() + kl.min())"),
)
average_shared.mistake(
    "The threshold was taken over the batch, one for each latent. It is one for each pair, over the latents.",
    over_the_batch=(
        "(kl.amax(1, keepdim=True) + kl.amin(1, keepdim=True))",
        "(kl.amax(0, keepdim=True) + kl.amin(0, keepdim=True))",
    ),
)
average_shared.mistake(
    "The threshold is the mean of the KLs in yours. It is halfway between the largest and the smallest.",
    mean_as_threshold=(
        "0.5 * (kl.amax(1, keepdim=True) + kl.amin(1, keepdim=True))",
        "kl.mean(1, keepdim=True)",
    ),
)
average_shared.mistake(
    "The threshold is half of the largest KL in yours: the smallest is missing.",
    half_of_the_largest=(" + kl.amin(1, keepdim=True))", ")"),
)
average_shared.mistake(
    "You averaged the log variances, which is the geometric mean of the variances. Average the variances.",
    log_variances_averaged=(
        "torch.logaddexp(log_var, other_log_var) - math.log(2)",
        "0.5 * (log_var + other_log_var)",
    ),
)
average_shared.mistake(
    "The sum of the two variances, not their mean: log 2 is missing.", summed=(" - math.log(2)", "")
)
average_shared.mistake(
    "Only the first image's posterior was changed. Both become the average where they share a latent.",
    first_only=[
        ("torch.where(shared, both_mean, other_mean)", "other_mean"),
        ("torch.where(shared, both_log_var, other_log_var)", "other_log_var"),
    ],
)
average_shared.mistake(
    "The variances were not averaged: a shared latent has one Gaussian, the same for both images.",
    means_only=[
        ("torch.where(shared, both_log_var, log_var)", "log_var"),
        ("torch.where(shared, both_log_var, other_log_var)", "other_log_var"),
    ],
)
average_shared.mistake(
    "Every latent was averaged: the images would have one code and nothing could tell them apart.",
    all_averaged=[
        (
            "torch.where(shared, both_mean, mean), torch.where(shared, both_log_var, log_var)",
            "both_mean, both_log_var",
        ),
        (
            "torch.where(shared, both_mean, other_mean), torch.where(shared, both_log_var, other_log_var)",
            "both_mean, both_log_var",
        ),
    ],
)
average_shared.mistake(
    "The KL goes the other way in yours: it is KL(q(z|x) || q(z|y)), with the first image's posterior first.",
    other_direction=(
        "(mean, log_var, other_mean, other_log_var)  #",
        "(other_mean, other_log_var, mean, log_var)  #",
    ),
)
average_shared.mistake(
    "You compared the means alone. A latent that is uncertain in both images may differ in its mean and tell nothing: use "
    "the KL.",
    distance_of_means=(
        "lesson.gaussian_kl_between(mean, log_var, other_mean, other_log_var)  #",
        "(mean - other_mean).square()  #",
    ),
)
average_shared.mistake(
    "A latent just at the threshold is not shared: <, not ≤. With one latent alone, nothing is.",
    at_the_threshold=("kl < 0.5", "kl <= 0.5"),
)


# ------------------------------------------------------------------ pair_loss


@solution(
    lesson.pair_loss,
    hints=[
        "Encode x and y, and give all four tensors to average_shared; from here on only what it returns is used.",
        "Each image has its own z, its own logits, and the KL of its own averaged posterior: beta_vae.beta_vae_loss(image, "
        "logits, mean, log_var, beta). Add the two.",
    ],
)
def pair_loss(vae, x, y, noise, beta):
    m, v, n, w = lesson.average_shared(*vae.encode(x), *vae.encode(y))
    x_logits = vae.decode(elbo.reparameterise(m, v, noise[0]))
    y_logits = vae.decode(elbo.reparameterise(n, w, noise[1]))
    x_loss = beta_vae.beta_vae_loss(x, x_logits, m, v, beta)
    return x_loss + beta_vae.beta_vae_loss(y, y_logits, n, w, beta)


def _pair(g, batch, pixels, latents, beta):
    encoder, decoder = 0.5 * randn(g, 2 * latents, pixels), randn(g, pixels, latents)
    x, y = rand(g, batch, pixels), rand(g, batch, pixels)
    return Case(x=x, y=y, noise=randn(g, 2, batch, latents), beta=beta, encoder=encoder, decoder=decoder)


@pair_loss.cases
def _(g):
    yield _pair(g, 2, 3, 2, 2.0)
    yield _pair(g, 8, 6, 4, 1.0)
    yield _pair(g, 1, 5, 3, 4.0)


pair_loss.mistake(
    "Nothing was averaged: this is the loss of two single images, and what they share is not used.",
    nothing_averaged=(
        "lesson.average_shared(*vae.encode(x), *vae.encode(y))",
        "*vae.encode(x), *vae.encode(y)",
    ),
)
pair_loss.mistake(
    "You took the mean of the two images. The loss is that of the pair: their sum.",
    halved=(
        "return x_loss + beta_vae.beta_vae_loss(y, y_logits, n, w, beta)",
        "return 0.5 * (x_loss + beta_vae.beta_vae_loss(y, y_logits, n, w, beta))",
    ),
)
pair_loss.mistake(
    "Only x is in the loss. Its partner has a reconstruction and a KL, too.",
    first_only=("return x_loss + beta_vae.beta_vae_loss(y, y_logits, n, w, beta)", "return x_loss"),
)
pair_loss.mistake(
    "Both images were drawn with the same noise: noise[0] is for x, noise[1] for y.",
    same_noise=("noise[1]", "noise[0]"),
)
pair_loss.mistake(
    "The KLs are those of the posteriors before averaging. The bound holds for the q that z was drawn from.",
    kl_before_averaging=[
        ("    x_loss =", "    (m, v), (n, w) = vae.encode(x), vae.encode(y)\n    x_loss ="),
    ],
)
pair_loss.mistake(
    "z was drawn from the posteriors before averaging: average first, then draw.",
    drawn_before_averaging=[
        ("reparameterise(m, v, noise[0])", "reparameterise(*vae.encode(x), noise[0])"),
        ("reparameterise(n, w, noise[1])", "reparameterise(*vae.encode(y), noise[1])"),
    ],
)
pair_loss.mistake(
    "The reconstructions are exchanged: z of x is compared with y.",
    exchanged=[
        ("beta_vae_loss(x, x_logits", "beta_vae_loss(x, y_logits"),
        ("beta_vae_loss(y, y_logits", "beta_vae_loss(y, x_logits"),
    ],
)
pair_loss.mistake(
    "β is missing in one of the two terms, or in both.",
    beta_for_x_alone=("n, w, beta)", "n, w, 1.0)"),
    no_beta=[("m, v, beta)", "m, v, 1.0)"), ("n, w, beta)", "n, w, 1.0)")],
)
pair_loss.mistake(
    "You decoded the means: without noise there is no bound.",
    means_decoded=[
        ("elbo.reparameterise(m, v, noise[0])", "m"),
        ("elbo.reparameterise(n, w, noise[1])", "n"),
    ],
)


# ------------------------------------------------------------------ erase


@solution(
    lesson.erase,
    hints=[
        "Centre both. Σ = centred.T @ centred / N is (D, D), C = centred.T @ centred_attributes / N is (D, K).",
        "readout = torch.linalg.solve_ex(Σ, C).result, (D, K), is the linear reader: centred @ readout is what it says of "
        "every point, (N, K).",
        "What is taken away is centred @ readout @ (Cᵀ readout)⁻¹ @ Cᵀ; the middle is one more solve_ex, (K, K).",
    ],
)
def erase(x, attributes):
    centred, a = x - x.mean(0), attributes - attributes.mean(0)
    covariance, cross = centred.mT @ centred / len(x), centred.mT @ a / len(x)  # (D, D), (D, K)
    readout = torch.linalg.solve_ex(covariance, cross).result  # (D, K): the best linear reader, but for scale
    back = torch.linalg.solve_ex(cross.mT @ readout, cross.mT).result  # (K, D)
    return x - centred @ readout @ back


def _marked(g, n, d, k, strength=1.0):
    """Points (n, d) of correlated features, some of which tell of k attributes."""
    a = randn(g, n, k)
    x = randn(g, n, d) @ (torch.eye(d) + 0.4 * randn(g, d, d)) + strength * a @ randn(g, k, d)
    return Case(x=x + torch.arange(float(d)), attributes=a + 1)


@erase.cases
def _(g):
    yield Case(
        x=torch.tensor([[1.0, 2.0], [3.0, 1.0], [2.0, 5.0], [-1.0, 0.0], [0.0, 1.0]]),
        attributes=torch.tensor([[0.0], [1.0], [1.0], [0.0], [0.0]]),
    )
    yield _marked(g, 40, 4, 1)
    yield _marked(g, 60, 5, 2)
    yield _marked(g, 30, 1, 1)


erase.mistake(
    "You projected the direction C out, with no regard to Σ. That also equals the means, but takes away more of the points "
    "than need be: Cᵀ Σ⁻¹ is the reader, and only what it reads has to go.",
    orthogonal_projection=("torch.linalg.solve_ex(covariance, cross).result", "cross"),
)
erase.mistake(
    "The points were not centred before they are read, so all are moved by the same amount too far: the mean of the "
    "result is not that of x.",
    not_centred=("x - centred @ readout", "x - x @ readout"),
)
erase.mistake(
    "You returned what is taken away, not what is left.",
    what_was_taken=("return x - centred @", "return centred @"),
)
erase.mistake(
    "The result has lost its mean: r(x) = x − …, not centred − ….",
    mean_lost=("return x - centred", "return centred - centred"),
)
erase.mistake(
    "The middle factor (Cᵀ Σ⁻¹ C)⁻¹ is missing: the strength of what is taken away is wrong, and covariance is left.",
    no_middle=("torch.linalg.solve_ex(cross.mT @ readout, cross.mT).result", "cross.mT"),
)
erase.mistake(
    "C was taken of the raw attributes with the raw points: second moments, not a covariance.",
    second_moments=("centred.mT @ a / len(x)", "x.mT @ attributes / len(x)"),
)
erase.mistake(
    "You subtracted the best linear PREDICTION of x from the attributes. It needs the attributes of every point when it is "
    "used, and a reader of both would find the trace; the eraser is a function of x alone.",
    regressed_on_the_attributes=(
        "return x - centred @ readout @ back",
        "return x - a @ torch.linalg.solve_ex(a.mT @ a / len(x), cross.mT).result",
    ),
)
erase.mistake(
    "You multiplied by Σ where Σ⁻¹ is wanted.",
    not_inverted=("torch.linalg.solve_ex(covariance, cross).result", "covariance @ cross"),
)
erase.mistake(
    "Taken away in the wrong direction: the points are moved along C, not along Σ⁻¹ C.",
    moved_along_the_reader=[
        ("cross.mT @ readout, cross.mT).result", "readout.mT @ cross, readout.mT).result"),
        ("centred @ readout @ back", "centred @ cross @ back"),
    ],
)
erase.mistake(
    "Only every feature's own variance was used, not the covariances between features.",
    variances_alone=(
        "torch.linalg.solve_ex(covariance, cross).result",
        "cross / covariance.diagonal()[:, None]",
    ),
)
