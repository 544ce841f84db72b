"""Wrong answers to lesson 02, cell by cell, beyond the mistakes that the solutions name."""

# %% the notebook's first cell
import math

import torch
import torch.nn.functional as F

from course_lib import answer
from course_lib.lessons import elbo


# %% reparameterise: noise of its own
@answer(elbo.reparameterise)
def reparameterise(mean, log_var, noise):
    return mean + (0.5 * log_var).exp() * torch.randn_like(mean)


# %% reparameterise: rsample of a distribution
@answer(elbo.reparameterise)
def reparameterise(mean, log_var, noise):
    return torch.distributions.Normal(mean, (0.5 * log_var).exp(), validate_args=False).rsample()


# %% reparameterise: the mean scaled, too
@answer(elbo.reparameterise)
def reparameterise(mean, log_var, noise):
    return (mean + noise) * (0.5 * log_var).exp()


# %% reparameterise: half outside the exponential
@answer(elbo.reparameterise)
def reparameterise(mean, log_var, noise):
    return mean + 0.5 * log_var.exp() * noise


# %% reparameterise: one noise for all examples
@answer(elbo.reparameterise)
def reparameterise(mean, log_var, noise):
    return mean + (0.5 * log_var).exp() * noise[:1]


# %% reparameterise: one noise for all latents
@answer(elbo.reparameterise)
def reparameterise(mean, log_var, noise):
    return mean + (0.5 * log_var).exp() * noise[:, :1]


# %% reparameterise: adds to the mean in place
# says: changes its input in place
@answer(elbo.reparameterise)
def reparameterise(mean, log_var, noise):
    mean += (0.5 * log_var).exp() * noise
    return mean


# %% reparameterise: no gradient for the mean
# says: No gradient reaches `mean`
@answer(elbo.reparameterise)
def reparameterise(mean, log_var, noise):
    return mean.detach() + (0.5 * log_var).exp() * noise


# %% reparameterise: the noise's gradient lost
# says: No gradient reaches `noise`
@answer(elbo.reparameterise)
def reparameterise(mean, log_var, noise):
    return mean + (0.5 * log_var).exp() * noise.data


# %% reparameterise: minus the noise
@answer(elbo.reparameterise)
def reparameterise(mean, log_var, noise):
    return mean - (0.5 * log_var).exp() * noise


# %% gaussian_kl: −1 once, not once for each latent
@answer(elbo.gaussian_kl)
def gaussian_kl(mean, log_var):
    return 0.5 * ((mean.square() + log_var.exp() - log_var).sum(1) - 1)


# %% gaussian_kl: half only of the squared mean
@answer(elbo.gaussian_kl)
def gaussian_kl(mean, log_var):
    return (0.5 * mean.square() + log_var.exp() - log_var - 1).sum(1)


# %% gaussian_kl: the mean not squared
@answer(elbo.gaussian_kl)
def gaussian_kl(mean, log_var):
    return 0.5 * (mean.abs() + log_var.exp() - log_var - 1).sum(1)


# %% gaussian_kl: log_var added
@answer(elbo.gaussian_kl)
def gaussian_kl(mean, log_var):
    return 0.5 * (mean.square() + log_var.exp() + log_var - 1).sum(1)


# %% gaussian_kl: the logarithm of the logarithm
# says: NaN
@answer(elbo.gaussian_kl)
def gaussian_kl(mean, log_var):
    return 0.5 * (mean.square() + log_var.exp() - log_var.log() - 1).sum(1)


# %% gaussian_kl: summed over the examples
# says: shape
@answer(elbo.gaussian_kl)
def gaussian_kl(mean, log_var):
    return 0.5 * (mean.square() + log_var.exp() - log_var - 1).sum(0)


# %% gaussian_kl: torch.distributions with validation
# says: validate_args
@answer(elbo.gaussian_kl)
def gaussian_kl(mean, log_var):
    q = torch.distributions.Normal(mean, (0.5 * log_var).exp())
    return torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0)).sum(1)


# %% gaussian_kl: torch.distributions, the other way round
@answer(elbo.gaussian_kl)
def gaussian_kl(mean, log_var):
    q = torch.distributions.Normal(mean, (0.5 * log_var).exp(), validate_args=False)
    p = torch.distributions.Normal(torch.zeros_like(mean), torch.ones_like(mean), validate_args=False)
    return torch.distributions.kl_divergence(p, q).sum(1)


# %% gaussian_kl: from one sample
@answer(elbo.gaussian_kl)
def gaussian_kl(mean, log_var):
    z = mean + (0.5 * log_var).exp() * torch.randn_like(mean)
    return 0.5 * (z.square() - (z - mean).square() / log_var.exp() - log_var).sum(1)


# %% gaussian_kl: F.kl_div
@answer(elbo.gaussian_kl)
def gaussian_kl(mean, log_var):
    return F.kl_div(log_var, mean, reduction="none").sum(1)


# %% gaussian_kl: squeezed
# says: shape
@answer(elbo.gaussian_kl)
def gaussian_kl(mean, log_var):
    return 0.5 * (mean.square() + log_var.exp() - log_var - 1).sum(1).squeeze()


# %% gaussian_kl: example by example
# says: loop
@answer(elbo.gaussian_kl)
def gaussian_kl(mean, log_var):
    rows = [0.5 * (m.square() + v.exp() - v - 1).sum() for m, v in zip(mean, log_var, strict=True)]
    return torch.stack(rows)


# %% bernoulli_log_likelihood: a squared error
@answer(elbo.bernoulli_log_likelihood)
def bernoulli_log_likelihood(x, logits):
    return -0.5 * (x - logits.sigmoid()).square().flatten(1).sum(1)


# %% bernoulli_log_likelihood: only the pixels that are 1
@answer(elbo.bernoulli_log_likelihood)
def bernoulli_log_likelihood(x, logits):
    return (x * F.logsigmoid(logits)).flatten(1).sum(1)


# %% bernoulli_log_likelihood: x and 1 − x exchanged
@answer(elbo.bernoulli_log_likelihood)
def bernoulli_log_likelihood(x, logits):
    return ((1 - x) * F.logsigmoid(logits) + x * F.logsigmoid(-logits)).flatten(1).sum(1)


# %% bernoulli_log_likelihood: x binarised
@answer(elbo.bernoulli_log_likelihood)
def bernoulli_log_likelihood(x, logits):
    hard = (x > 0.5).float()
    return -F.binary_cross_entropy_with_logits(logits, hard, reduction="none").flatten(1).sum(1)


# %% bernoulli_log_likelihood: a small number inside the logarithm
# not: overflow
@answer(elbo.bernoulli_log_likelihood)
def bernoulli_log_likelihood(x, logits):
    p = logits.sigmoid()
    return (x * (p + 1e-8).log() + (1 - x) * (1 - p + 1e-8).log()).flatten(1).sum(1)


# %% bernoulli_log_likelihood: clamped probabilities
@answer(elbo.bernoulli_log_likelihood)
def bernoulli_log_likelihood(x, logits):
    p = logits.sigmoid().clamp(1e-6, 1 - 1e-6)
    return (x * p.log() + (1 - x) * (1 - p).log()).flatten(1).sum(1)


# %% bernoulli_log_likelihood: the images of three axes only
# says: shape|Dimension|index|dim
@answer(elbo.bernoulli_log_likelihood)
def bernoulli_log_likelihood(x, logits):
    return -F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum((1, 2, 3))


# %% bernoulli_log_likelihood: summed over the channels only
# says: shape
@answer(elbo.bernoulli_log_likelihood)
def bernoulli_log_likelihood(x, logits):
    return -F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(1)


# %% bernoulli_log_likelihood: one number for the batch
# says: shape
@answer(elbo.bernoulli_log_likelihood)
def bernoulli_log_likelihood(x, logits):
    return -F.binary_cross_entropy_with_logits(logits, x, reduction="sum") / len(x)


# %% bernoulli_log_likelihood: view, which wants contiguous images
# says: contiguous
@answer(elbo.bernoulli_log_likelihood)
def bernoulli_log_likelihood(x, logits):
    x, logits = x.view(len(x), -1), logits.view(len(x), -1)
    return -F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(1)


# %% bernoulli_log_likelihood: the continuous Bernoulli
@answer(elbo.bernoulli_log_likelihood)
def bernoulli_log_likelihood(x, logits):
    p = torch.distributions.ContinuousBernoulli(logits=logits, validate_args=False)
    return p.log_prob(x).flatten(1).sum(1)


# %% bernoulli_log_likelihood: relu and log1p, without a gradient at logit 0
# says: gradient
@answer(elbo.bernoulli_log_likelihood)
def bernoulli_log_likelihood(x, logits):
    softplus = logits.relu() + torch.log1p(torch.exp(-logits.abs()))
    return (x * logits - softplus).flatten(1).sum(1)


# %% elbo: the likelihood averaged over pixels
@answer(elbo.elbo)
def bound(x, logits, mean, log_var):
    return -F.binary_cross_entropy_with_logits(logits, x) - elbo.gaussian_kl(mean, log_var).mean()


# %% elbo: the KL averaged over latents
@answer(elbo.elbo)
def bound(x, logits, mean, log_var):
    kl = 0.5 * (mean.square() + log_var.exp() - log_var - 1).mean()
    return elbo.bernoulli_log_likelihood(x, logits).mean() - kl


# %% elbo: the KL summed over the batch
@answer(elbo.elbo)
def bound(x, logits, mean, log_var):
    return elbo.bernoulli_log_likelihood(x, logits).mean() - elbo.gaussian_kl(mean, log_var).sum()


# %% elbo: arguments exchanged
@answer(elbo.elbo)
def bound(x, logits, mean, log_var):
    return (elbo.bernoulli_log_likelihood(logits, x) - elbo.gaussian_kl(mean, log_var)).mean()


# %% elbo: mean and log_var exchanged
@answer(elbo.elbo)
def bound(x, logits, mean, log_var):
    return (elbo.bernoulli_log_likelihood(x, logits) - elbo.gaussian_kl(log_var, mean)).mean()


# %% elbo: the KL without a gradient
# says: gradient
@answer(elbo.elbo)
def bound(x, logits, mean, log_var):
    kl = elbo.gaussian_kl(mean, log_var).detach()
    return (elbo.bernoulli_log_likelihood(x, logits) - kl).mean()


# %% elbo: a probability where a logit belongs
@answer(elbo.elbo)
def bound(x, logits, mean, log_var):
    return (elbo.bernoulli_log_likelihood(x, logits.sigmoid()) - elbo.gaussian_kl(mean, log_var)).mean()


# %% elbo: a Python number
# says: float
@answer(elbo.elbo)
def bound(x, logits, mean, log_var):
    return (elbo.bernoulli_log_likelihood(x, logits) - elbo.gaussian_kl(mean, log_var)).mean().item()


# %% importance_weighted_bound: one maximum for all images
# says: overflow|infinity|underflow
@answer(elbo.importance_weighted_bound)
def importance_weighted_bound(log_weights):
    top = log_weights.max()
    return ((log_weights - top).exp().mean(0).log() + top).mean()


# %% importance_weighted_bound: exp in float64, which underflows later
# says: overflow|infinity|underflow
@answer(elbo.importance_weighted_bound)
def importance_weighted_bound(log_weights):
    return log_weights.double().exp().mean(0).log().float().mean()


# %% importance_weighted_bound: a small number inside the logarithm
@answer(elbo.importance_weighted_bound)
def importance_weighted_bound(log_weights):
    return (log_weights.exp().mean(0) + 1e-10).log().mean()


# %% importance_weighted_bound: log of the number of images
@answer(elbo.importance_weighted_bound)
def importance_weighted_bound(log_weights):
    return (log_weights.logsumexp(0) - math.log(log_weights.shape[1])).mean()


# %% importance_weighted_bound: summed over images
@answer(elbo.importance_weighted_bound)
def importance_weighted_bound(log_weights):
    return (log_weights.logsumexp(0) - math.log(len(log_weights))).sum()


# %% importance_weighted_bound: the best sample
@answer(elbo.importance_weighted_bound)
def importance_weighted_bound(log_weights):
    return log_weights.amax(0).mean()


# %% importance_weighted_bound: weighted by the shares, which are detached
# says: gradient
@answer(elbo.importance_weighted_bound)
def importance_weighted_bound(log_weights):
    log_share = log_weights.log_softmax(0).detach()
    bound = (log_share.exp() * (log_weights - log_share)).sum(0)
    return bound.mean() - math.log(len(log_weights)) + 0.5 * (log_weights - log_weights.detach()).mean()


# %% importance_weighted_bound: weighted mean of the logs
@answer(elbo.importance_weighted_bound)
def importance_weighted_bound(log_weights):
    return (log_weights.softmax(0) * log_weights).sum(0).mean()


# %% importance_weighted_bound: one for each image
# says: scalar
@answer(elbo.importance_weighted_bound)
def importance_weighted_bound(log_weights):
    return log_weights.logsumexp(0) - math.log(len(log_weights))


# %% importance_weighted_bound: image by image
# says: loop
@answer(elbo.importance_weighted_bound)
def importance_weighted_bound(log_weights):
    K = len(log_weights)
    return torch.stack([w.logsumexp(0) - math.log(K) for w in log_weights.unbind(1)]).mean()


# %% linear_gaussian_log_likelihood: cholesky that reports errors
# says: cholesky_ex
@answer(elbo.linear_gaussian_log_likelihood)
def linear_gaussian_log_likelihood(x, weight, bias, noise_variance):
    C = weight @ weight.T + noise_variance * torch.eye(len(bias), device=x.device)
    L = torch.linalg.cholesky(C)
    white = torch.linalg.solve_triangular(L, (x - bias).T, upper=False)
    return -0.5 * (white.square().sum(0) + len(bias) * math.log(2 * math.pi)) - L.diagonal().log().sum()


# %% linear_gaussian_log_likelihood: MultivariateNormal of a covariance
# says: host|cholesky_ex
@answer(elbo.linear_gaussian_log_likelihood)
def linear_gaussian_log_likelihood(x, weight, bias, noise_variance):
    C = weight @ weight.T + noise_variance * torch.eye(len(bias), device=x.device)
    return torch.distributions.MultivariateNormal(bias, C, validate_args=False).log_prob(x)


# %% linear_gaussian_log_likelihood: an identity on the CPU
# says: CPU
@answer(elbo.linear_gaussian_log_likelihood)
def linear_gaussian_log_likelihood(x, weight, bias, noise_variance):
    C = weight @ weight.T + noise_variance * torch.eye(len(bias))
    centred = (x - bias).T
    distance = (torch.linalg.solve_ex(C, centred).result * centred).sum(0)
    log_det = torch.linalg.slogdet(C).logabsdet
    return -0.5 * (distance + log_det + len(bias) * math.log(2 * math.pi))


# %% linear_gaussian_log_likelihood: the covariance of the latents
# says: shape|raised|size
@answer(elbo.linear_gaussian_log_likelihood)
def linear_gaussian_log_likelihood(x, weight, bias, noise_variance):
    C = weight.T @ weight + noise_variance * torch.eye(weight.shape[1], device=x.device)
    centred = (x - bias).T
    distance = (torch.linalg.solve_ex(C, centred).result * centred).sum(0)
    log_det = torch.linalg.slogdet(C).logabsdet
    return -0.5 * (distance + log_det + len(bias) * math.log(2 * math.pi))


# %% linear_gaussian_log_likelihood: noise on every entry
@answer(elbo.linear_gaussian_log_likelihood)
def linear_gaussian_log_likelihood(x, weight, bias, noise_variance):
    C = weight @ weight.T + noise_variance
    C = C + 1e-3 * torch.eye(len(bias), device=x.device)
    centred = (x - bias).T
    distance = (torch.linalg.solve_ex(C, centred).result * centred).sum(0)
    log_det = torch.linalg.slogdet(C).logabsdet
    return -0.5 * (distance + log_det + len(bias) * math.log(2 * math.pi))


# %% linear_gaussian_log_likelihood: half only of the distance
@answer(elbo.linear_gaussian_log_likelihood)
def linear_gaussian_log_likelihood(x, weight, bias, noise_variance):
    C = weight @ weight.T + noise_variance * torch.eye(len(bias), device=x.device)
    centred = (x - bias).T
    distance = (torch.linalg.solve_ex(C, centred).result * centred).sum(0)
    log_det = torch.linalg.slogdet(C).logabsdet
    return -0.5 * distance - log_det - 0.5 * len(bias) * math.log(2 * math.pi)


# %% linear_gaussian_log_likelihood: the diagonal of the covariance alone
@answer(elbo.linear_gaussian_log_likelihood)
def linear_gaussian_log_likelihood(x, weight, bias, noise_variance):
    variance = weight.square().sum(1) + noise_variance
    return -0.5 * ((x - bias).square() / variance + variance.log() + math.log(2 * math.pi)).sum(1)


# %% linear_gaussian_log_likelihood: summed over the batch
# says: shape
@answer(elbo.linear_gaussian_log_likelihood)
def linear_gaussian_log_likelihood(x, weight, bias, noise_variance):
    C = weight @ weight.T + noise_variance * torch.eye(len(bias), device=x.device)
    centred = (x - bias).T
    distance = (torch.linalg.solve_ex(C, centred).result * centred).sum()
    log_det = torch.linalg.slogdet(C).logabsdet
    return -0.5 * (distance + log_det + len(bias) * math.log(2 * math.pi))


# %% linear_gaussian_log_likelihood: a covariance for every example
# says: memory
@answer(elbo.linear_gaussian_log_likelihood)
def linear_gaussian_log_likelihood(x, weight, bias, noise_variance):
    C = weight @ weight.T + noise_variance * torch.eye(len(bias), device=x.device)
    C = C.repeat(len(x), 1, 1)
    centred = (x - bias)[:, :, None]
    distance = (torch.linalg.solve_ex(C, centred).result * centred).sum((1, 2))
    log_det = torch.linalg.slogdet(C).logabsdet
    return -0.5 * (distance + log_det + len(bias) * math.log(2 * math.pi))


# %% linear_gaussian_log_likelihood: no gradient for the noise
# says: gradient
@answer(elbo.linear_gaussian_log_likelihood)
def linear_gaussian_log_likelihood(x, weight, bias, noise_variance):
    C = weight @ weight.T + noise_variance.detach() * torch.eye(len(bias), device=x.device)
    centred = (x - bias).T
    distance = (torch.linalg.solve_ex(C, centred).result * centred).sum(0)
    log_det = torch.linalg.slogdet(C).logabsdet
    return -0.5 * (distance + log_det + len(bias) * math.log(2 * math.pi))


# %% linear_gaussian_log_likelihood: the noise as a Python number
# says: host|gradient
@answer(elbo.linear_gaussian_log_likelihood)
def linear_gaussian_log_likelihood(x, weight, bias, noise_variance):
    C = weight @ weight.T + torch.diag(torch.full_like(bias, noise_variance.item()))
    centred = (x - bias).T
    distance = (torch.linalg.solve_ex(C, centred).result * centred).sum(0)
    log_det = torch.linalg.slogdet(C).logabsdet
    constant = len(bias) * math.log(2 * math.pi) + 0 * noise_variance
    return -0.5 * (distance + log_det + constant)


# %% traverse: writes into z
# says: changes its input in place
@answer(elbo.traverse)
def traverse(decode, z, latent, values):
    codes = []
    for value in values:
        z[latent] = value
        codes.append(z.clone())
    return decode(torch.stack(codes))


# %% traverse: the same code over and over
@answer(elbo.traverse)
def traverse(decode, z, latent, values):
    code, codes = z.clone(), []
    for value in values:
        code[latent] = value
        codes.append(code)
    return decode(torch.stack(codes))


# %% traverse: the values multiply the latent
@answer(elbo.traverse)
def traverse(decode, z, latent, values):
    codes = z.repeat(len(values), 1)
    codes[:, latent] *= values
    return decode(codes)


# %% traverse: the row, not the column
# says: raised|value|shape
@answer(elbo.traverse)
def traverse(decode, z, latent, values):
    codes = z.repeat(len(values), 1)
    codes[latent] = values[0]
    return decode(codes)


# %% traverse: decoded twice
@answer(elbo.traverse)
def traverse(decode, z, latent, values):
    codes = z.repeat(len(values), 1)
    codes[:, latent] = values
    assert decode(codes).shape[0] == len(values)
    return decode(codes)


# %% traverse: the codes, not the images
@answer(elbo.traverse)
def traverse(decode, z, latent, values):
    codes = z.repeat(len(values), 1)
    codes[:, latent] = values
    return codes


# %% traverse: values in their own order
@answer(elbo.traverse)
def traverse(decode, z, latent, values):
    codes = z.repeat(len(values), 1)
    codes[:, latent] = values.flip(0)
    return decode(codes)


# %% traverse: a Python list of values
# says: host|CPU
@answer(elbo.traverse)
def traverse(decode, z, latent, values):
    codes = torch.stack([z] * len(values))
    codes[:, latent] = torch.tensor(values.tolist())
    return decode(codes)


# %% traverse: always the first latent
@answer(elbo.traverse)
def traverse(decode, z, latent, values):
    return decode(torch.cat([values[:, None], z[1:].expand(len(values), -1)], dim=1))


# %% gaussian_kl: parameters with names of one's own
# says: argument
@answer(elbo.gaussian_kl)
def gaussian_kl(mu, logvar):
    return -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp(), dim=1)


# %% linear_gaussian_log_likelihood: an identity made on the CPU, then moved
# says: CPU
@answer(elbo.linear_gaussian_log_likelihood)
def linear_gaussian_log_likelihood(x, weight, bias, noise_variance):
    C = weight @ weight.T + noise_variance * torch.eye(len(bias)).to(x.device)
    centred = (x - bias).T
    distance = (torch.linalg.solve_ex(C, centred).result * centred).sum(0)
    log_det = torch.linalg.slogdet(C).logabsdet
    return -0.5 * (distance + log_det + len(bias) * math.log(2 * math.pi))


# %% linear_gaussian_log_likelihood: eigenvalues, whose gradient is NaN where they are equal
# says: host|NaN
@answer(elbo.linear_gaussian_log_likelihood)
def linear_gaussian_log_likelihood(x, weight, bias, noise_variance):
    C = weight @ weight.T + noise_variance * torch.eye(len(bias), device=x.device)
    values, vectors = torch.linalg.eigh(C)
    white = (x - bias) @ vectors / values.sqrt()
    return -0.5 * (white.square().sum(1) + values.log().sum() + len(bias) * math.log(2 * math.pi))
