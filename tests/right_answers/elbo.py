"""Right answers to lesson 02, cell by cell."""

# %% the notebook's first cell
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib import answer
from course_lib.lessons import elbo


# %% reparameterise: the docstring, literally
@answer(elbo.reparameterise)
def reparameterise(mean: Tensor, log_var: Tensor, noise: Tensor) -> Tensor:
    sigma = torch.exp(0.5 * log_var)
    return mean + sigma * noise


# %% reparameterise: the root of the variance
@answer(elbo.reparameterise)
def reparameterise(mean, log_var, noise):
    return noise * log_var.exp().sqrt() + mean


# %% reparameterise: addcmul
@answer(elbo.reparameterise)
def reparameterise(mean, log_var, noise):
    return torch.addcmul(mean, noise, log_var.div(2).exp())


# %% reparameterise: an affine transform of torch.distributions
@answer(elbo.reparameterise)
def reparameterise(mean, log_var, noise):
    transform = torch.distributions.AffineTransform(loc=mean, scale=(log_var / 2).exp())
    return transform(noise)


# %% reparameterise: powers of e
@answer(elbo.reparameterise)
def reparameterise(mean, log_var, noise):
    return mean + math.e ** (log_var / 2) * noise


# %% reparameterise: in place on a tensor of its own
@answer(elbo.reparameterise)
def reparameterise(mean, log_var, noise):
    z = torch.exp(log_var * 0.5) * noise
    z += mean
    return z


# %% reparameterise: vmap over the batch
@answer(elbo.reparameterise)
def reparameterise(mean, log_var, noise):
    return torch.vmap(lambda m, v, e: m + (v / 2).exp() * e)(mean, log_var, noise)


# %% gaussian_kl: the docstring, literally
@answer(elbo.gaussian_kl)
def gaussian_kl(mean: Tensor, log_var: Tensor) -> Tensor:
    variance = log_var.exp()
    return 0.5 * torch.sum(mean**2 + variance - torch.log(variance) - 1, dim=1)


# %% gaussian_kl: the form of the VAE paper
@answer(elbo.gaussian_kl)
def gaussian_kl(mean, log_var):
    return -0.5 * torch.sum(1 + log_var - mean.pow(2) - log_var.exp(), dim=-1)


# %% gaussian_kl: torch.distributions
@answer(elbo.gaussian_kl)
def gaussian_kl(mean, log_var):
    q = torch.distributions.Normal(mean, (0.5 * log_var).exp(), validate_args=False)
    p = torch.distributions.Normal(torch.zeros_like(mean), torch.ones_like(mean), validate_args=False)
    return torch.distributions.kl_divergence(q, p).sum(1)


# %% gaussian_kl: expm1, exact near 0
@answer(elbo.gaussian_kl)
def gaussian_kl(mean, log_var):
    return (mean.square() + torch.expm1(log_var) - log_var).sum(1) / 2


# %% gaussian_kl: cross-entropy minus entropy
@answer(elbo.gaussian_kl)
def gaussian_kl(mean, log_var):
    log_2pi = math.log(2 * math.pi)
    cross_entropy = 0.5 * (log_2pi + mean.square() + log_var.exp())
    entropy = 0.5 * (log_2pi + log_var + 1)
    return (cross_entropy - entropy).sum(1)


# %% gaussian_kl: traces and log determinants
@answer(elbo.gaussian_kl)
def gaussian_kl(mean, log_var):
    trace = log_var.exp().sum(1)
    log_determinant = log_var.sum(1)
    distance = torch.einsum("bd,bd->b", mean, mean)
    return 0.5 * (trace + distance - mean.shape[1] - log_determinant)


# %% gaussian_kl: one example, and vmap over the batch
def kl_of_one(mean, log_var):
    return 0.5 * (mean @ mean + log_var.exp().sum() - log_var.sum() - len(mean))


@answer(elbo.gaussian_kl)
def gaussian_kl(mean, log_var):
    return torch.vmap(kl_of_one)(mean, log_var)


# %% gaussian_kl: in float64, cast back
@answer(elbo.gaussian_kl)
def gaussian_kl(mean, log_var):
    m, v = mean.double(), log_var.double()
    return (0.5 * (m * m + v.exp() - v - 1).sum(1)).to(mean.dtype)


# %% bernoulli_log_likelihood: the hint, literally
@answer(elbo.bernoulli_log_likelihood)
def bernoulli_log_likelihood(x: Tensor, logits: Tensor) -> Tensor:
    return -F.binary_cross_entropy_with_logits(logits, x, reduction="none").flatten(1).sum(1)


# %% bernoulli_log_likelihood: the formula with log sigmoids
@answer(elbo.bernoulli_log_likelihood)
def bernoulli_log_likelihood(x, logits):
    log_p, log_not_p = F.logsigmoid(logits), F.logsigmoid(-logits)
    return (x * log_p + (1 - x) * log_not_p).flatten(1).sum(1)


# %% bernoulli_log_likelihood: x times the logit minus softplus
@answer(elbo.bernoulli_log_likelihood)
def bernoulli_log_likelihood(x, logits):
    return (x * logits - F.softplus(logits)).sum(dim=tuple(range(1, x.ndim)))


# %% bernoulli_log_likelihood: torch.distributions
@answer(elbo.bernoulli_log_likelihood)
def bernoulli_log_likelihood(x, logits):
    p = torch.distributions.Bernoulli(logits=logits, validate_args=False)
    return p.log_prob(x).reshape(len(x), -1).sum(-1)


# %% bernoulli_log_likelihood: a loss module
@answer(elbo.bernoulli_log_likelihood)
def bernoulli_log_likelihood(x, logits):
    loss = nn.BCEWithLogitsLoss(reduction="none")
    pixels = loss(logits.reshape(len(logits), -1), x.reshape(len(x), -1))
    return pixels.sum(1).neg()


# %% bernoulli_log_likelihood: a softmax of two classes
@answer(elbo.bernoulli_log_likelihood)
def bernoulli_log_likelihood(x, logits):
    x, logits = x.flatten(1), logits.flatten(1)
    two = torch.stack([torch.zeros_like(logits), logits], dim=1)
    target = torch.stack([1 - x, x], dim=1)
    return -F.cross_entropy(two, target, reduction="none").sum(1)


# %% bernoulli_log_likelihood: logaddexp
@answer(elbo.bernoulli_log_likelihood)
def bernoulli_log_likelihood(x, logits):
    normaliser = torch.logaddexp(logits, torch.zeros_like(logits))
    return torch.einsum("bi,bi->b", x.flatten(1), logits.flatten(1)) - normaliser.flatten(1).sum(1)


# %% elbo: the two functions of the lesson
@answer(elbo.elbo)
def elbo_of_batch(x, logits, mean, log_var):
    return (elbo.bernoulli_log_likelihood(x, logits) - elbo.gaussian_kl(mean, log_var)).mean()


# %% elbo: two means
@answer(elbo.elbo)
def bound(x: Tensor, logits: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    reconstruction = torch.mean(elbo.bernoulli_log_likelihood(x, logits))
    return reconstruction - torch.mean(elbo.gaussian_kl(mean, log_var))


# %% elbo: everything written out
@answer(elbo.elbo)
def bound(x, logits, mean, log_var):
    B = x.shape[0]
    log_likelihood = -F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
    kl = 0.5 * (mean.square() + log_var.exp() - log_var - 1).sum()
    return (log_likelihood - kl) / B


# %% elbo: the docstring's 1/B and sum
@answer(elbo.elbo)
def bound(x, logits, mean, log_var):
    per_image = elbo.bernoulli_log_likelihood(x, logits) - elbo.gaussian_kl(mean, log_var)
    return 1 / len(x) * per_image.sum()


# %% elbo: torch.distributions
@answer(elbo.elbo)
def bound(x, logits, mean, log_var):
    D = torch.distributions
    p = D.Bernoulli(logits=logits, validate_args=False)
    q = D.Normal(mean, (log_var / 2).exp(), validate_args=False)
    prior = D.Normal(torch.zeros_like(mean), torch.ones_like(mean), validate_args=False)
    return p.log_prob(x).flatten(1).sum(1).mean() - D.kl_divergence(q, prior).sum(1).mean()


# %% importance_weighted_bound: the hint, literally
@answer(elbo.importance_weighted_bound)
def importance_weighted_bound(log_weights: Tensor) -> Tensor:
    K = len(log_weights)
    return (torch.logsumexp(log_weights, dim=0) - math.log(K)).mean()


# %% importance_weighted_bound: each image's maximum taken out
@answer(elbo.importance_weighted_bound)
def importance_weighted_bound(log_weights):
    top = log_weights.max(dim=0, keepdim=True).values
    weights = (log_weights - top).exp()
    return (weights.mean(0).log() + top.squeeze(0)).mean()


# %% importance_weighted_bound: log K inside
@answer(elbo.importance_weighted_bound)
def importance_weighted_bound(log_weights):
    K, B = log_weights.shape
    return torch.logsumexp(log_weights - math.log(K), 0).sum() / B


# %% importance_weighted_bound: a running log-sum
@answer(elbo.importance_weighted_bound)
def importance_weighted_bound(log_weights):
    return log_weights.logcumsumexp(0)[-1].mean() - math.log(log_weights.shape[0])


# %% importance_weighted_bound: expectation under the weights plus their entropy
@answer(elbo.importance_weighted_bound)
def importance_weighted_bound(log_weights):
    log_share = log_weights.log_softmax(0)
    bound = (log_share.exp() * (log_weights - log_share)).sum(0)
    return bound.mean() - math.log(len(log_weights))


# %% importance_weighted_bound: transposed, by vmap
@answer(elbo.importance_weighted_bound)
def importance_weighted_bound(log_weights):
    def of_one_image(w):
        return w.logsumexp(0) - math.log(len(w))

    return torch.vmap(of_one_image)(log_weights.T).mean()


# %% linear_gaussian_log_likelihood: the hint, literally
@answer(elbo.linear_gaussian_log_likelihood)
def linear_gaussian_log_likelihood(x, weight, bias, noise_variance):
    P = len(bias)
    C = weight @ weight.T + noise_variance * torch.eye(P, device=x.device)
    centred = (x - bias).T
    quadratic = (centred * torch.linalg.solve_ex(C, centred).result).sum(0)
    return -0.5 * (quadratic + torch.linalg.slogdet(C).logabsdet + P * math.log(2 * math.pi))


# %% linear_gaussian_log_likelihood: a Cholesky factor
@answer(elbo.linear_gaussian_log_likelihood)
def linear_gaussian_log_likelihood(x, weight, bias, noise_variance):
    P = weight.shape[0]
    C = weight @ weight.mT + torch.diag_embed(noise_variance.expand(P))
    L, _ = torch.linalg.cholesky_ex(C)
    white = torch.linalg.solve_triangular(L, (x - bias).T, upper=False)  # (P, B)
    log_det = 2 * L.diagonal().log().sum()
    return -0.5 * (white.square().sum(0) + log_det + P * math.log(2 * math.pi))


# %% linear_gaussian_log_likelihood: MultivariateNormal with a Cholesky factor
@answer(elbo.linear_gaussian_log_likelihood)
def linear_gaussian_log_likelihood(x, weight, bias, noise_variance):
    C = weight @ weight.T + noise_variance * torch.eye(len(weight), device=weight.device)
    L = torch.linalg.cholesky_ex(C).L
    return torch.distributions.MultivariateNormal(bias, scale_tril=L, validate_args=False).log_prob(x)


# %% linear_gaussian_log_likelihood: inv_ex and einsum
@answer(elbo.linear_gaussian_log_likelihood)
def linear_gaussian_log_likelihood(x, weight, bias, noise_variance):
    eye = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    C = torch.einsum("pd,qd->pq", weight, weight) + noise_variance * eye
    precision = torch.linalg.inv_ex(C).inverse
    d = x - bias
    distance = torch.einsum("bp,pq,bq->b", d, precision, d)
    return -(distance + torch.logdet(2 * math.pi * C)) / 2


# %% linear_gaussian_log_likelihood: Woodbury, with matrices of D × D
@answer(elbo.linear_gaussian_log_likelihood)
def linear_gaussian_log_likelihood(x, weight, bias, noise_variance):
    P, D = weight.shape
    M = weight.T @ weight + noise_variance * torch.eye(D, device=x.device)  # (D, D)
    centred = x - bias
    projected = centred @ weight  # (B, D)
    inside = (projected * torch.linalg.solve_ex(M, projected.T).result.T).sum(1)
    distance = (centred.square().sum(1) - inside) / noise_variance
    log_det = torch.linalg.slogdet(M).logabsdet + (P - D) * noise_variance.log()
    return -0.5 * (distance + log_det + P * math.log(2 * math.pi))


# %% linear_gaussian_log_likelihood: log p(x, z) − log p(z|x) at the posterior mean
@answer(elbo.linear_gaussian_log_likelihood)
def linear_gaussian_log_likelihood(x, weight, bias, noise_variance):
    P, D = weight.shape
    precision = torch.eye(D, device=x.device) + weight.T @ weight / noise_variance
    z = torch.linalg.solve_ex(precision, ((x - bias) @ weight / noise_variance).T).result.T
    error = x - z @ weight.T - bias
    log_2pi = math.log(2 * math.pi)
    log_x = -0.5 * (error.square().sum(1) / noise_variance + P * (noise_variance.log() + log_2pi))
    log_z = -0.5 * (z.square().sum(1) + D * log_2pi)
    log_posterior = 0.5 * (torch.linalg.slogdet(precision).logabsdet - D * log_2pi)
    return log_x + log_z - log_posterior


# %% linear_gaussian_log_likelihood: LU factors, used twice
@answer(elbo.linear_gaussian_log_likelihood)
def linear_gaussian_log_likelihood(x, weight, bias, noise_variance):
    C = weight @ weight.T + noise_variance * torch.eye(len(bias), device=x.device)
    LU, pivots, _ = torch.linalg.lu_factor_ex(C)
    centred = (x - bias).T
    distance = (torch.linalg.lu_solve(LU, pivots, centred) * centred).sum(0)
    log_det = LU.diagonal().abs().log().sum()
    return -0.5 * (distance + log_det + len(bias) * math.log(2 * math.pi))


# %% linear_gaussian_log_likelihood: in float64, cast back
@answer(elbo.linear_gaussian_log_likelihood)
def linear_gaussian_log_likelihood(x, weight, bias, noise_variance):
    x, weight, bias, noise_variance = (t.double() for t in (x, weight, bias, noise_variance))
    C = weight @ weight.T + noise_variance * torch.eye(len(bias), device=x.device, dtype=x.dtype)
    L = torch.linalg.cholesky_ex(C).L
    white = torch.linalg.solve_triangular(L, (x - bias).T, upper=False)
    result = -0.5 * white.square().sum(0) - L.diagonal().log().sum()
    return (result - 0.5 * len(bias) * math.log(2 * math.pi)).float()


# %% traverse: the hint, literally
@answer(elbo.traverse)
def traverse(decode, z, latent, values):
    codes = z.repeat(len(values), 1)
    codes[:, latent] = values
    return decode(codes)


# %% traverse: expand and clone
@answer(elbo.traverse)
def traverse(decode, z, latent, values):
    codes = z.expand(len(values), -1).clone()
    codes.select(1, latent).copy_(values)
    return decode(codes)


# %% traverse: torch.where on a mask
@answer(elbo.traverse)
def traverse(decode, z, latent, values):
    here = torch.arange(len(z), device=z.device) == latent
    return decode(torch.where(here, values[:, None], z))


# %% traverse: three pieces side by side
@answer(elbo.traverse)
def traverse(decode, z, latent, values):
    before, after = z[:latent], z[latent + 1 :]
    V = len(values)
    return decode(torch.cat([before.expand(V, -1), values[:, None], after.expand(V, -1)], dim=1))


# %% traverse: z plus a step along one axis
@answer(elbo.traverse)
def traverse(decode, z, latent, values):
    axis = torch.zeros_like(z)
    axis[latent] = 1
    return decode(z + torch.outer(values - z[latent], axis))


# %% traverse: vmap makes the codes
@answer(elbo.traverse)
def traverse(decode, z, latent, values):
    def code(value):
        return torch.cat([z[:latent], value[None], z[latent + 1 :]])

    return decode(torch.vmap(code)(values))


# %% traverse: the tables of lesson 00
@answer(elbo.traverse)
def traverse(decode, z, latent, values):
    from course_lib.lessons import why_disentangle

    row = torch.full((1,), latent, device=z.device)
    return decode(why_disentangle.traversal_grid(z, row, values)[0])
