"""Wrong answers to lesson 03, cell by cell, beyond the mistakes that the solutions name."""

# %% the notebook's first cell
import math

import torch
import torch.nn.functional as F

from course_lib import answer
from course_lib.lessons import beta_vae, elbo


# %% beta_vae_loss: β − 1
# says: β|beta
@answer(beta_vae.beta_vae_loss)
def beta_vae_loss(x, logits, mean, log_var, beta):
    kl, log_likelihood = elbo.gaussian_kl(mean, log_var), elbo.bernoulli_log_likelihood(x, logits)
    return ((beta - 1) * kl - log_likelihood).mean()


# %% beta_vae_loss: β on everything
@answer(beta_vae.beta_vae_loss)
def beta_vae_loss(x, logits, mean, log_var, beta):
    return -beta * elbo.elbo(x, logits, mean, log_var)


# %% beta_vae_loss: the likelihood's sign
@answer(beta_vae.beta_vae_loss)
def beta_vae_loss(x, logits, mean, log_var, beta):
    return (beta * elbo.gaussian_kl(mean, log_var) + elbo.bernoulli_log_likelihood(x, logits)).mean()


# %% beta_vae_loss: one loss for each image
# says: scalar
@answer(beta_vae.beta_vae_loss)
def beta_vae_loss(x, logits, mean, log_var, beta):
    return beta * elbo.gaussian_kl(mean, log_var) - elbo.bernoulli_log_likelihood(x, logits)


# %% beta_vae_loss: the KL of the whole batch
@answer(beta_vae.beta_vae_loss)
def beta_vae_loss(x, logits, mean, log_var, beta):
    kl = elbo.gaussian_kl(mean, log_var).sum()
    return beta * kl - elbo.bernoulli_log_likelihood(x, logits).mean()


# %% beta_vae_loss: a squared error
@answer(beta_vae.beta_vae_loss)
def beta_vae_loss(x, logits, mean, log_var, beta):
    error = (x - logits.sigmoid()).square().flatten(1).sum(1)
    return (error + beta * elbo.gaussian_kl(mean, log_var)).mean()


# %% beta_vae_loss: β fixed at 4
@answer(beta_vae.beta_vae_loss)
def beta_vae_loss(x, logits, mean, log_var, beta):
    return (4 * elbo.gaussian_kl(mean, log_var) - elbo.bernoulli_log_likelihood(x, logits)).mean()


# %% beta_vae_loss: the KL detached
# says: gradient
@answer(beta_vae.beta_vae_loss)
def beta_vae_loss(x, logits, mean, log_var, beta):
    kl = elbo.gaussian_kl(mean.detach(), log_var)
    return (beta * kl - elbo.bernoulli_log_likelihood(x, logits)).mean()


# %% active_dimensions: the rate unclamped
# says: rate
@answer(beta_vae.active_dimensions)
def active_dimensions(eigenvalues, noise_variance, beta):
    level = beta[:, None] * noise_variance
    return 0.5 * (eigenvalues / level).log(), torch.minimum(eigenvalues, level)


# %% active_dimensions: the distortion unclamped
# says: distortion
@answer(beta_vae.active_dimensions)
def active_dimensions(eigenvalues, noise_variance, beta):
    level = beta[:, None] * noise_variance
    rate = (0.5 * (eigenvalues / level).log()).clamp(min=0)
    return rate, level.expand_as(rate)


# %% active_dimensions: 0 times the logarithm of an eigenvalue 0
# says: NaN
@answer(beta_vae.active_dimensions)
def active_dimensions(eigenvalues, noise_variance, beta):
    level = beta[:, None] * noise_variance
    on = (eigenvalues > level).to(eigenvalues.dtype)
    rate = on * 0.5 * (eigenvalues.log() - level.log())
    return rate, on * level + (1 - on) * eigenvalues


# %% active_dimensions: distortion first
# says: order|exchanged|swapped
@answer(beta_vae.active_dimensions)
def active_dimensions(eigenvalues, noise_variance, beta):
    level = beta[:, None] * noise_variance
    rate = (0.5 * (eigenvalues / level).log()).clamp(min=0)
    return torch.minimum(eigenvalues, level), rate


# %% active_dimensions: the absolute value
@answer(beta_vae.active_dimensions)
def active_dimensions(eigenvalues, noise_variance, beta):
    level = beta[:, None] * noise_variance
    return 0.5 * (eigenvalues / level).log().abs(), torch.minimum(eigenvalues, level)


# %% active_dimensions: the larger of the two
@answer(beta_vae.active_dimensions)
def active_dimensions(eigenvalues, noise_variance, beta):
    level = beta[:, None] * noise_variance
    rate = (0.5 * (eigenvalues / level).log()).clamp(min=0)
    return rate, torch.maximum(eigenvalues, level)


# %% active_dimensions: β divides the noise
@answer(beta_vae.active_dimensions)
def active_dimensions(eigenvalues, noise_variance, beta):
    level = noise_variance / beta[:, None]
    return (0.5 * (eigenvalues / level).log()).clamp(min=0), torch.minimum(eigenvalues, level)


# %% active_dimensions: the ratio upside down
@answer(beta_vae.active_dimensions)
def active_dimensions(eigenvalues, noise_variance, beta):
    level = beta[:, None] * noise_variance
    return (0.5 * (level / eigenvalues).log()).clamp(min=0), torch.minimum(eigenvalues, level)


# %% active_dimensions: one sum over the dimensions
# says: shape
@answer(beta_vae.active_dimensions)
def active_dimensions(eigenvalues, noise_variance, beta):
    level = beta[:, None] * noise_variance
    rate = (0.5 * (eigenvalues / level).log()).clamp(min=0)
    return rate.sum(1), torch.minimum(eigenvalues, level).sum(1)


# %% active_dimensions: dimensions are rows
# says: shape
@answer(beta_vae.active_dimensions)
def active_dimensions(eigenvalues, noise_variance, beta):
    level = beta * noise_variance
    rate = (0.5 * (eigenvalues[:, None] / level).log()).clamp(min=0)
    return rate, torch.minimum(eigenvalues[:, None], level)


# %% active_dimensions: active ones picked by a mask
# says: boolean mask
@answer(beta_vae.active_dimensions)
def active_dimensions(eigenvalues, noise_variance, beta):
    level = (beta[:, None] * noise_variance).expand(-1, len(eigenvalues))
    values = eigenvalues.expand(len(beta), -1)
    active = values > level
    rate, distortion = torch.zeros_like(level), values.clone()
    rate[active] = 0.5 * (values[active] / level[active]).log()
    distortion[active] = level[active]
    return rate, distortion


# %% active_dimensions: a loop over β
# says: loop
@answer(beta_vae.active_dimensions)
def active_dimensions(eigenvalues, noise_variance, beta):
    rates, distortions = [], []
    for b in beta.unbind():
        level = b * noise_variance
        rates.append((0.5 * (eigenvalues / level).log()).clamp(min=0))
        distortions.append(torch.minimum(eigenvalues, level))
    return torch.stack(rates), torch.stack(distortions)


# %% pairwise_log_density: without centring
# says: centre
@answer(beta_vae.pairwise_log_density)
def pairwise_log_density(z, mean, log_var):
    precision = (-log_var).exp()
    constant = (mean.square() * precision + log_var + math.log(2 * math.pi)).sum(1)
    return -0.5 * (z.square() @ precision.T + constant) + z @ (mean * precision).T


# %% pairwise_log_density: only z is centred
@answer(beta_vae.pairwise_log_density)
def pairwise_log_density(z, mean, log_var):
    z = z - mean.mean(0)
    precision = (-log_var).exp()
    constant = (mean.square() * precision + log_var + math.log(2 * math.pi)).sum(1)
    return -0.5 * (z.square() @ precision.T + constant) + z @ (mean * precision).T


# %% pairwise_log_density: each centred by its own mean
@answer(beta_vae.pairwise_log_density)
def pairwise_log_density(z, mean, log_var):
    z, mean = z - z.mean(0), mean - mean.mean(0)
    precision = (-log_var).exp()
    constant = (mean.square() * precision + log_var + math.log(2 * math.pi)).sum(1)
    return -0.5 * (z.square() @ precision.T + constant) + z @ (mean * precision).T


# %% pairwise_log_density: broadcast over three axes
# says: memory
# says: \(M, N, D\)|three axes|broadcast
@answer(beta_vae.pairwise_log_density)
def pairwise_log_density(z, mean, log_var):
    square = (z[:, None] - mean).square() / log_var.exp()
    return -0.5 * (square + log_var + math.log(2 * math.pi)).sum(2)


# %% pairwise_log_density: torch.distributions over three axes
# says: memory
@answer(beta_vae.pairwise_log_density)
def pairwise_log_density(z, mean, log_var):
    q = torch.distributions.Normal(mean, (0.5 * log_var).exp(), validate_args=False)
    return q.log_prob(z[:, None]).sum(-1)


# %% pairwise_log_density: the cross term has the wrong sign
@answer(beta_vae.pairwise_log_density)
def pairwise_log_density(z, mean, log_var):
    c = mean.mean(0)
    z, mean = z - c, mean - c
    precision = (-log_var).exp()
    constant = (mean.square() * precision + log_var + math.log(2 * math.pi)).sum(1)
    return -0.5 * (z.square() @ precision.T + constant) - z @ (mean * precision).T


# %% pairwise_log_density: the sample's own variance
# says: shape|raised|size|value
@answer(beta_vae.pairwise_log_density)
def pairwise_log_density(z, mean, log_var):
    return -0.5 * (torch.cdist(z, mean).square() / log_var.exp().mean(1) + log_var.sum(1)) - 0.5 * z.shape[
        1
    ] * math.log(2 * math.pi)


# %% pairwise_log_density: σ in place of σ²
@answer(beta_vae.pairwise_log_density)
def pairwise_log_density(z, mean, log_var):
    c = mean.mean(0)
    z, mean = z - c, mean - c
    precision = (-0.5 * log_var).exp()
    constant = (mean.square() * precision + log_var + math.log(2 * math.pi)).sum(1)
    return -0.5 * (z.square() @ precision.T + constant) + z @ (mean * precision).T


# %% pairwise_log_density: the means' gradient cut
# says: gradient
@answer(beta_vae.pairwise_log_density)
def pairwise_log_density(z, mean, log_var):
    c = mean.mean(0)
    z, mean = z - c, (mean - c).detach()
    precision = (-log_var).exp()
    constant = (mean.square() * precision + log_var + math.log(2 * math.pi)).sum(1)
    return -0.5 * (z.square() @ precision.T + constant) + z @ (mean * precision).T


# %% pairwise_log_density: a loop over the samples
# says: loop
@answer(beta_vae.pairwise_log_density)
def pairwise_log_density(z, mean, log_var):
    def log_normal(row):
        return -0.5 * ((row - mean).square() / log_var.exp() + log_var + math.log(2 * math.pi)).sum(1)

    return torch.stack([log_normal(row) for row in z])


# %% log_aggregate_posterior: marginals first
# says: order|exchanged|swapped|shape
@answer(beta_vae.log_aggregate_posterior)
def log_aggregate_posterior(z, mean, log_var, dataset_size):
    log_density = -0.5 * ((z[:, None] - mean).square() / log_var.exp() + log_var + math.log(2 * math.pi))
    constant = math.log(dataset_size * len(z))
    return log_density.logsumexp(1) - constant, log_density.sum(2).logsumexp(1) - constant


# %% log_aggregate_posterior: the constant for the marginals only
@answer(beta_vae.log_aggregate_posterior)
def log_aggregate_posterior(z, mean, log_var, dataset_size):
    log_density = -0.5 * ((z[:, None] - mean).square() / log_var.exp() + log_var + math.log(2 * math.pi))
    constant = math.log(dataset_size * len(z))
    return log_density.sum(2).logsumexp(1), log_density.logsumexp(1) - constant


# %% log_aggregate_posterior: the stratified weights (MSS for MWS)
# says: stratified|weight
@answer(beta_vae.log_aggregate_posterior)
def log_aggregate_posterior(z, mean, log_var, dataset_size):
    log_density = -0.5 * ((z[:, None] - mean).square() / log_var.exp() + log_var + math.log(2 * math.pi))
    M, N = len(z) - 1, dataset_size
    own = torch.eye(M + 1, device=z.device)
    neighbour = own.roll(1, dims=1)
    log_w = (own / N + neighbour * (N - M) / (N * M) + (1 - own - neighbour).clamp(min=0) / M).log()
    joint = (log_density.sum(2) + log_w).logsumexp(1)
    return joint, (log_density + log_w[:, :, None]).logsumexp(1)


# %% log_aggregate_posterior: mean over the latents
@answer(beta_vae.log_aggregate_posterior)
def log_aggregate_posterior(z, mean, log_var, dataset_size):
    log_density = -0.5 * ((z[:, None] - mean).square() / log_var.exp() + log_var + math.log(2 * math.pi))
    constant = math.log(dataset_size * len(z))
    return log_density.mean(2).logsumexp(1) - constant, log_density.logsumexp(1) - constant


# %% log_aggregate_posterior: the constant multiplied by D in the joint
@answer(beta_vae.log_aggregate_posterior)
def log_aggregate_posterior(z, mean, log_var, dataset_size):
    log_density = -0.5 * ((z[:, None] - mean).square() / log_var.exp() + log_var + math.log(2 * math.pi))
    constant = math.log(dataset_size * len(z))
    return log_density.sum(2).logsumexp(1) - z.shape[1] * constant, log_density.logsumexp(1) - constant


# %% log_aggregate_posterior: log 2π forgotten
@answer(beta_vae.log_aggregate_posterior)
def log_aggregate_posterior(z, mean, log_var, dataset_size):
    log_density = -0.5 * ((z[:, None] - mean).square() / log_var.exp() + log_var)
    constant = math.log(dataset_size * len(z))
    return log_density.sum(2).logsumexp(1) - constant, log_density.logsumexp(1) - constant


# %% log_aggregate_posterior: the sample itself left out
@answer(beta_vae.log_aggregate_posterior)
def log_aggregate_posterior(z, mean, log_var, dataset_size):
    log_density = -0.5 * ((z[:, None] - mean).square() / log_var.exp() + log_var + math.log(2 * math.pi))
    own = torch.eye(len(z), device=z.device, dtype=torch.bool)
    log_density = log_density.masked_fill(own[:, :, None], -1e30)
    constant = math.log(dataset_size * len(z))
    return log_density.sum(2).logsumexp(1) - constant, log_density.logsumexp(1) - constant


# %% log_aggregate_posterior: a small number inside the logarithm
@answer(beta_vae.log_aggregate_posterior)
def log_aggregate_posterior(z, mean, log_var, dataset_size):
    log_density = -0.5 * ((z[:, None] - mean).square() / log_var.exp() + log_var + math.log(2 * math.pi))
    constant = math.log(dataset_size * len(z))
    joint = (log_density.sum(2).exp().sum(1) + 1e-20).log() - constant
    return joint, (log_density.exp().sum(1) + 1e-20).log() - constant


# %% log_aggregate_posterior: sampling without a gradient for the means
# says: gradient
@answer(beta_vae.log_aggregate_posterior)
def log_aggregate_posterior(z, mean, log_var, dataset_size):
    mean, log_var = mean.detach(), log_var.detach()
    log_density = -0.5 * ((z[:, None] - mean).square() / log_var.exp() + log_var + math.log(2 * math.pi))
    constant = math.log(dataset_size * len(z))
    return log_density.sum(2).logsumexp(1) - constant, log_density.logsumexp(1) - constant


# %% stratified_weights: made on the CPU, then moved
# says: CPU
@answer(beta_vae.stratified_weights)
def stratified_weights(z, dataset_size):
    B = len(z)
    M = B - 1
    own = torch.eye(B)
    neighbour = own.roll(1, dims=1)
    stratum = (dataset_size - M) / (dataset_size * M)
    weights = own / dataset_size + neighbour * stratum + (1 - own - neighbour) / M
    return weights.log().to(z)


# %% stratified_weights: made on the CPU and left there
# says: device|CPU
@answer(beta_vae.stratified_weights)
def stratified_weights(z, dataset_size):
    B = len(z)
    M = B - 1
    own = torch.eye(B, dtype=z.dtype)
    neighbour = own.roll(1, dims=1)
    stratum = (dataset_size - M) / (dataset_size * M)
    return (own / dataset_size + neighbour * stratum + (1 - own - neighbour) / M).log()


# %% stratified_weights: float32, whatever z is
# says: float64
@answer(beta_vae.stratified_weights)
def stratified_weights(z, dataset_size):
    B, N = len(z), dataset_size
    M = B - 1
    own = torch.eye(B, device=z.device)
    neighbour = own.roll(1, dims=1)
    return (own / N + neighbour * (N - M) / (N * M) + (1 - own - neighbour) / M).log()


# %% stratified_weights: NumPy
# says: CPU|NumPy
@answer(beta_vae.stratified_weights)
def stratified_weights(z, dataset_size):
    import numpy as np

    B, N = len(z), dataset_size
    M = B - 1
    weights = np.full((B, B), 1 / M)
    np.fill_diagonal(weights, 1 / N)
    weights[np.arange(B), (np.arange(B) + 1) % B] = (N - M) / (N * M)
    return torch.as_tensor(np.log(weights), dtype=z.dtype, device=z.device)


# %% stratified_weights: a Python list of lists
# says: CPU|list|loop
@answer(beta_vae.stratified_weights)
def stratified_weights(z, dataset_size):
    B, N = len(z), dataset_size
    M = B - 1

    def log_weight(i, j):
        if i == j:
            return -math.log(N)
        return math.log((N - M) / (N * M)) if j == (i + 1) % B else -math.log(M)

    rows = [[log_weight(i, j) for j in range(B)] for i in range(B)]
    return torch.tensor(rows, dtype=z.dtype, device=z.device)


# %% stratified_weights: a Python loop over the rows
# says: loop
@answer(beta_vae.stratified_weights)
def stratified_weights(z, dataset_size):
    B, N = len(z), dataset_size
    M = B - 1
    log_w = torch.full((B, B), -math.log(M), dtype=z.dtype, device=z.device)
    for i in range(B):
        log_w[i, i] = -math.log(N)
        log_w[i, (i + 1) % B] = math.log((N - M) / (N * M))
    return log_w


# %% stratified_weights: the last row forgotten
@answer(beta_vae.stratified_weights)
def stratified_weights(z, dataset_size):
    M = len(z) - 1
    stratum = (dataset_size - M) / (dataset_size * M)
    weights = torch.full((M + 1, M + 1), 1 / M, dtype=z.dtype, device=z.device)
    weights.fill_diagonal_(1 / dataset_size)
    weights.diagonal(offset=1).fill_(stratum)
    return weights.log()


# %% stratified_weights: (N − M)/N without the M
@answer(beta_vae.stratified_weights)
def stratified_weights(z, dataset_size):
    B, N = len(z), dataset_size
    M = B - 1
    own = torch.eye(B, device=z.device)
    neighbour = own.roll(1, dims=1)
    return (own / N + neighbour * (N - M) / N + (1 - own - neighbour) / M).log()


# %% stratified_weights: rolled along the rows
@answer(beta_vae.stratified_weights)
def stratified_weights(z, dataset_size):
    B, N = len(z), dataset_size
    M = B - 1
    own = torch.eye(B, device=z.device)
    neighbour = own.roll(1, dims=0)
    return (own / N + neighbour * (N - M) / (N * M) + (1 - own - neighbour) / M).log()


# %% stratified_weights: the latents counted, not the examples
# says: shape
@answer(beta_vae.stratified_weights)
def stratified_weights(z, dataset_size):
    B, N = z.shape[1], dataset_size
    M = max(B - 1, 1)
    own = torch.eye(B, device=z.device)
    neighbour = own.roll(1, dims=1)
    return (own / N + neighbour * (N - M) / (N * M) + (1 - own - neighbour) / M).log()


# %% kl_decomposition: in another order
# says: order|exchanged|swapped
@answer(beta_vae.kl_decomposition)
def kl_decomposition(z, log_conditional, log_joint, log_marginals):
    log_prior = -0.5 * (z.square() + math.log(2 * math.pi))
    mi = (log_conditional - log_joint).mean()
    tc = (log_joint - log_marginals.sum(1)).mean()
    return tc, mi, (log_marginals - log_prior).sum(1).mean()


# %% kl_decomposition: the third averaged over the latents
@answer(beta_vae.kl_decomposition)
def kl_decomposition(z, log_conditional, log_joint, log_marginals):
    log_prior = -0.5 * (z.square() + math.log(2 * math.pi))
    mi = (log_conditional - log_joint).mean()
    tc = (log_joint - log_marginals.sum(1)).mean()
    return mi, tc, (log_marginals - log_prior).mean()


# %% kl_decomposition: the prior without its half
@answer(beta_vae.kl_decomposition)
def kl_decomposition(z, log_conditional, log_joint, log_marginals):
    log_prior = -(z.square() + math.log(2 * math.pi))
    mi = (log_conditional - log_joint).mean()
    tc = (log_joint - log_marginals.sum(1)).mean()
    return mi, tc, (log_marginals - log_prior).sum(1).mean()


# %% kl_decomposition: the constant once for all latents
@answer(beta_vae.kl_decomposition)
def kl_decomposition(z, log_conditional, log_joint, log_marginals):
    log_prior = -0.5 * z.square().sum(1) - 0.5 * math.log(2 * math.pi)
    mi = (log_conditional - log_joint).mean()
    tc = (log_joint - log_marginals.sum(1)).mean()
    return mi, tc, (log_marginals.sum(1) - log_prior).mean()


# %% kl_decomposition: the first latent's marginal only
@answer(beta_vae.kl_decomposition)
def kl_decomposition(z, log_conditional, log_joint, log_marginals):
    log_prior = -0.5 * (z.square() + math.log(2 * math.pi))
    mi = (log_conditional - log_joint).mean()
    tc = (log_joint - log_marginals[:, 0]).mean()
    return mi, tc, (log_marginals - log_prior).sum(1).mean()


# %% kl_decomposition: one number for each sample
# says: scalar
@answer(beta_vae.kl_decomposition)
def kl_decomposition(z, log_conditional, log_joint, log_marginals):
    log_prior = -0.5 * (z.square() + math.log(2 * math.pi))
    product = log_marginals.sum(1)
    return log_conditional - log_joint, log_joint - product, product - log_prior.sum(1)


# %% kl_decomposition: the sum of the three
# says: tuple
@answer(beta_vae.kl_decomposition)
def kl_decomposition(z, log_conditional, log_joint, log_marginals):
    log_prior = -0.5 * (z.square() + math.log(2 * math.pi)).sum(1)
    return (log_conditional - log_prior).mean()


# %% kl_decomposition: stacked
# says: tuple
@answer(beta_vae.kl_decomposition)
def kl_decomposition(z, log_conditional, log_joint, log_marginals):
    log_prior = -0.5 * (z.square() + math.log(2 * math.pi)).sum(1)
    chain = torch.stack([log_conditional, log_joint, log_marginals.sum(1), log_prior])
    return (chain[:-1] - chain[1:]).mean(1)


# %% kl_decomposition: TC from below 0 cut off
@answer(beta_vae.kl_decomposition)
def kl_decomposition(z, log_conditional, log_joint, log_marginals):
    log_prior = -0.5 * (z.square() + math.log(2 * math.pi))
    mi = (log_conditional - log_joint).mean().clamp(min=0)
    tc = (log_joint - log_marginals.sum(1)).clamp(min=0).mean()
    return mi, tc, (log_marginals - log_prior).sum(1).mean()


# %% log_marginals_streaming: a plain loop over blocks, whose graph keeps them all
# says: memory
# says: autograd keeps every block|checkpoint
@answer(beta_vae.log_marginals_streaming)
def log_marginals_streaming(z, mean, log_var, block):
    total = torch.full_like(z, -torch.inf)
    for m, v in zip(mean.split(block), log_var.split(block), strict=True):
        log_density = -0.5 * ((z[:, None] - m).square() / v.exp() + v + math.log(2 * math.pi))
        total = torch.logaddexp(total, log_density.logsumexp(1))
    return total - math.log(len(mean))


# %% log_marginals_streaming: everything at once
# says: memory
@answer(beta_vae.log_marginals_streaming)
def log_marginals_streaming(z, mean, log_var, block):
    log_density = -0.5 * ((z[:, None] - mean).square() / log_var.exp() + log_var + math.log(2 * math.pi))
    return log_density.logsumexp(1) - math.log(len(mean))


# %% log_marginals_streaming: checkpoints of float64 blocks, twice as large
# says: memory
# says: float64
@answer(beta_vae.log_marginals_streaming)
def log_marginals_streaming(z, mean, log_var, block):
    from torch.utils.checkpoint import checkpoint

    def f(z, m, v):
        log_density = -0.5 * ((z[:, None] - m).square() / v.exp() + v + math.log(2 * math.pi))
        return log_density.logsumexp(1)

    z64, parts = z.double(), []
    for m, v in zip(mean.double().split(block), log_var.double().split(block), strict=True):
        parts.append(checkpoint(f, z64, m, v, use_reentrant=False, preserve_rng_state=False))
    return (torch.stack(parts).logsumexp(0) - math.log(len(mean))).float()


# %% log_marginals_streaming: log of the block size
@answer(beta_vae.log_marginals_streaming)
def log_marginals_streaming(z, mean, log_var, block):
    from torch.utils.checkpoint import checkpoint

    def f(z, m, v):
        log_density = -0.5 * ((z[:, None] - m).square() / v.exp() + v + math.log(2 * math.pi))
        return log_density.logsumexp(1)

    total = torch.full_like(z, -torch.inf)
    for m, v in zip(mean.split(block), log_var.split(block), strict=True):
        part = checkpoint(f, z, m, v, use_reentrant=False, preserve_rng_state=False)
        total = torch.logaddexp(total, part)
    return total - math.log(block)


# %% log_marginals_streaming: log N subtracted in every block
@answer(beta_vae.log_marginals_streaming)
def log_marginals_streaming(z, mean, log_var, block):
    total = torch.full_like(z, -torch.inf)
    for m, v in zip(mean.split(block), log_var.split(block), strict=True):
        log_density = -0.5 * ((z[:, None] - m).square() / v.exp() + v + math.log(2 * math.pi))
        total = torch.logaddexp(total, log_density.logsumexp(1)) - math.log(len(mean))
    return total


# %% log_marginals_streaming: starts from 0 and not from −∞
@answer(beta_vae.log_marginals_streaming)
def log_marginals_streaming(z, mean, log_var, block):
    total = torch.zeros_like(z)
    for m, v in zip(mean.split(block), log_var.split(block), strict=True):
        log_density = -0.5 * ((z[:, None] - m).square() / v.exp() + v + math.log(2 * math.pi))
        total = torch.logaddexp(total, log_density.logsumexp(1))
    return total - math.log(len(mean))


# %% log_marginals_streaming: maximum over the blocks
@answer(beta_vae.log_marginals_streaming)
def log_marginals_streaming(z, mean, log_var, block):
    parts = []
    for m, v in zip(mean.split(block), log_var.split(block), strict=True):
        log_density = -0.5 * ((z[:, None] - m).square() / v.exp() + v + math.log(2 * math.pi))
        parts.append(log_density.logsumexp(1))
    return torch.stack(parts).amax(0) - math.log(len(mean))


# %% log_marginals_streaming: the joint density
# says: shape|value
@answer(beta_vae.log_marginals_streaming)
def log_marginals_streaming(z, mean, log_var, block):
    log_density = -0.5 * ((z[:, None] - mean).square() / log_var.exp() + log_var + math.log(2 * math.pi))
    return log_density.sum(2).logsumexp(1) - math.log(len(mean))


# %% log_marginals_streaming: one posterior at a time
# says: loop|operations
@answer(beta_vae.log_marginals_streaming)
def log_marginals_streaming(z, mean, log_var, block):
    from torch.utils.checkpoint import checkpoint

    def f(total, z, m, v):
        log_density = -0.5 * ((z - m).square() / v.exp() + v + math.log(2 * math.pi))
        return torch.logaddexp(total, log_density)

    total = torch.full_like(z, -torch.inf)
    for m, v in zip(mean, log_var, strict=True):
        total = checkpoint(f, total, z, m, v, use_reentrant=False, preserve_rng_state=False)
    return total - math.log(len(mean))


# %% beta_tcvae_loss: β for β − 1, and one KL too few
@answer(beta_vae.beta_tcvae_loss)
def beta_tcvae_loss(x, logits, mean, log_var, z, dataset_size, beta):
    joint, marginals = beta_vae.log_aggregate_posterior(z, mean, log_var, dataset_size)
    tc = (joint - marginals.sum(1)).mean()
    return beta * tc - elbo.bernoulli_log_likelihood(x, logits).mean() + 0 * mean.sum()


# %% beta_tcvae_loss: the total correlation of means of marginals
@answer(beta_vae.beta_tcvae_loss)
def beta_tcvae_loss(x, logits, mean, log_var, z, dataset_size, beta):
    joint, marginals = beta_vae.log_aggregate_posterior(z, mean, log_var, dataset_size)
    tc = (joint - marginals.mean(1)).mean()
    return (beta - 1) * tc - elbo.elbo(x, logits, mean, log_var)


# %% beta_tcvae_loss: joint and marginals exchanged
# says: raised|shape|value
@answer(beta_vae.beta_tcvae_loss)
def beta_tcvae_loss(x, logits, mean, log_var, z, dataset_size, beta):
    marginals, joint = beta_vae.log_aggregate_posterior(z, mean, log_var, dataset_size)
    tc = (joint - marginals.sum()).mean()
    return (beta - 1) * tc - elbo.elbo(x, logits, mean, log_var)


# %% beta_tcvae_loss: the batch taken for the data set
@answer(beta_vae.beta_tcvae_loss)
def beta_tcvae_loss(x, logits, mean, log_var, z, dataset_size, beta):
    joint, marginals = beta_vae.log_aggregate_posterior(z, mean, log_var, len(z))
    tc = (joint - marginals.sum(1)).mean()
    return (beta - 1) * tc - elbo.elbo(x, logits, mean, log_var)


# %% beta_tcvae_loss: +ELBO
@answer(beta_vae.beta_tcvae_loss)
def beta_tcvae_loss(x, logits, mean, log_var, z, dataset_size, beta):
    joint, marginals = beta_vae.log_aggregate_posterior(z, mean, log_var, dataset_size)
    tc = (joint - marginals.sum(1)).mean()
    return (beta - 1) * tc + elbo.elbo(x, logits, mean, log_var)


# %% beta_tcvae_loss: the means in place of the samples
# says: gradient|value
@answer(beta_vae.beta_tcvae_loss)
def beta_tcvae_loss(x, logits, mean, log_var, z, dataset_size, beta):
    joint, marginals = beta_vae.log_aggregate_posterior(mean, mean, log_var, dataset_size)
    tc = (joint - marginals.sum(1)).mean()
    return (beta - 1) * tc - elbo.elbo(x, logits, mean, log_var)


# %% beta_tcvae_loss: a sample of its own
@answer(beta_vae.beta_tcvae_loss)
def beta_tcvae_loss(x, logits, mean, log_var, z, dataset_size, beta):
    z = elbo.reparameterise(mean, log_var, torch.randn_like(mean))
    joint, marginals = beta_vae.log_aggregate_posterior(z, mean, log_var, dataset_size)
    tc = (joint - marginals.sum(1)).mean()
    return (beta - 1) * tc - elbo.elbo(x, logits, mean, log_var)


# %% beta_tcvae_loss: the posteriors detached in the total correlation
# says: gradient
@answer(beta_vae.beta_tcvae_loss)
def beta_tcvae_loss(x, logits, mean, log_var, z, dataset_size, beta):
    joint, marginals = beta_vae.log_aggregate_posterior(z, mean.detach(), log_var.detach(), dataset_size)
    tc = (joint - marginals.sum(1)).mean()
    return (beta - 1) * tc - elbo.elbo(x, logits, mean, log_var)


# %% mutual_information_gap: ties masked together
@answer(beta_vae.mutual_information_gap)
def mutual_information_gap(mutual_information, entropies):
    best = mutual_information.amax(0)
    others = torch.where(mutual_information == best, -torch.inf, mutual_information)
    return ((best - others.amax(0).clamp(min=0)) / entropies).mean()


# %% mutual_information_gap: the best one is set to 0 in place
# says: changes its input in place
@answer(beta_vae.mutual_information_gap)
def mutual_information_gap(mutual_information, entropies):
    best, index = mutual_information.max(0)
    mutual_information.scatter_(0, index[None], 0.0)
    return ((best - mutual_information.amax(0)) / entropies).mean()


# %% mutual_information_gap: the sum over the factors
@answer(beta_vae.mutual_information_gap)
def mutual_information_gap(mutual_information, entropies):
    first, second = mutual_information.topk(2, dim=0).values
    return ((first - second) / entropies).sum()


# %% mutual_information_gap: one gap for each factor
# says: scalar
@answer(beta_vae.mutual_information_gap)
def mutual_information_gap(mutual_information, entropies):
    first, second = mutual_information.topk(2, dim=0).values
    return (first - second) / entropies


# %% mutual_information_gap: divided by the best information
@answer(beta_vae.mutual_information_gap)
def mutual_information_gap(mutual_information, entropies):
    first, second = mutual_information.topk(2, dim=0).values
    return ((first - second) / first).mean()


# %% mutual_information_gap: best minus the mean of the others
@answer(beta_vae.mutual_information_gap)
def mutual_information_gap(mutual_information, entropies):
    best = mutual_information.amax(0)
    others = (mutual_information.sum(0) - best) / (len(mutual_information) - 1)
    return ((best - others) / entropies).mean()


# %% mutual_information_gap: the best latent may win once only
# says: value
@answer(beta_vae.mutual_information_gap)
def mutual_information_gap(mutual_information, entropies):
    best, index = mutual_information.max(0)
    used = F.one_hot(index, len(mutual_information)).amax(0).bool()
    others = torch.where(used[:, None], 0, mutual_information)
    return ((best - others.amax(0)) / entropies).mean()


# %% mutual_information_gap: a loop over the factors
# says: loop
@answer(beta_vae.mutual_information_gap)
def mutual_information_gap(mutual_information, entropies):
    gaps = []
    for column, h in zip(mutual_information.T, entropies, strict=True):
        first, second = column.topk(2).values
        gaps.append((first - second) / h)
    return torch.stack(gaps).mean()


# %% mutual_information_gap: the difference to the next row
@answer(beta_vae.mutual_information_gap)
def mutual_information_gap(mutual_information, entropies):
    best = mutual_information.argmax(0)
    other = (best + 1) % len(mutual_information)
    columns = torch.arange(len(entropies), device=entropies.device)
    return ((mutual_information[best, columns] - mutual_information[other, columns]) / entropies).mean()


# %% mutual_information_gap: divided by the largest entropy
@answer(beta_vae.mutual_information_gap)
def mutual_information_gap(mutual_information, entropies):
    first, second = mutual_information.topk(2, dim=0).values
    return ((first - second) / entropies.max()).mean()


# %% beta_tcvae_loss: β fixed at 6
@answer(beta_vae.beta_tcvae_loss)
def beta_tcvae_loss(x, logits, mean, log_var, z, dataset_size, beta):
    joint, marginals = beta_vae.log_aggregate_posterior(z, mean, log_var, dataset_size)
    return 5 * (joint - marginals.sum(1)).mean() - elbo.elbo(x, logits, mean, log_var)


# %% log_marginals_streaming: blocks of a size of one's own
# says: memory|value
@answer(beta_vae.log_marginals_streaming)
def log_marginals_streaming(z, mean, log_var, block):
    from torch.utils.checkpoint import checkpoint

    def f(z, m, v):
        log_density = -0.5 * ((z[:, None] - m).square() / v.exp() + v + math.log(2 * math.pi))
        return log_density.logsumexp(1)

    total = torch.full_like(z, -torch.inf)
    for m, v in zip(mean.split(1024), log_var.split(1024), strict=True):
        part = checkpoint(f, z, m, v, use_reentrant=False, preserve_rng_state=False)
        total = torch.logaddexp(total, part)
    return total - math.log(len(mean))
