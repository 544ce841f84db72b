"""Right answers to lesson 03, cell by cell."""

# %% the notebook's first cell
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from course_lib import answer
from course_lib.lessons import beta_vae, elbo


# %% beta_vae_loss: the docstring, literally
@answer(beta_vae.beta_vae_loss)
def beta_vae_loss(x: Tensor, logits: Tensor, mean: Tensor, log_var: Tensor, beta: float) -> Tensor:
    log_likelihood = elbo.bernoulli_log_likelihood(x, logits)
    kl = elbo.gaussian_kl(mean, log_var)
    return (-log_likelihood + beta * kl).mean()


# %% beta_vae_loss: −ELBO plus what is missing of the KL
@answer(beta_vae.beta_vae_loss)
def beta_vae_loss(x, logits, mean, log_var, beta):
    return (beta - 1) * elbo.gaussian_kl(mean, log_var).mean() - elbo.elbo(x, logits, mean, log_var)


# %% beta_vae_loss: everything written out
@answer(beta_vae.beta_vae_loss)
def beta_vae_loss(x, logits, mean, log_var, beta):
    B = len(x)
    reconstruction = F.binary_cross_entropy_with_logits(logits, x, reduction="sum") / B
    kl = -0.5 * torch.sum(1 + log_var - mean**2 - log_var.exp()) / B
    return reconstruction + beta * kl


# %% beta_vae_loss: torch.distributions
@answer(beta_vae.beta_vae_loss)
def beta_vae_loss(x, logits, mean, log_var, beta):
    p = torch.distributions.Bernoulli(logits=logits, validate_args=False)
    q = torch.distributions.Normal(mean, (0.5 * log_var).exp(), validate_args=False)
    prior = torch.distributions.Normal(torch.zeros_like(mean), torch.ones_like(mean), validate_args=False)
    kl = torch.distributions.kl_divergence(q, prior).sum(1)
    return torch.mean(beta * kl - p.log_prob(x).flatten(1).sum(1))


# %% beta_vae_loss: two means
@answer(beta_vae.beta_vae_loss)
def beta_vae_loss(x, logits, mean, log_var, beta):
    loss = beta * elbo.gaussian_kl(mean, log_var).mean()
    return loss - elbo.bernoulli_log_likelihood(x, logits).mean()


# %% active_dimensions: the hint, literally
@answer(beta_vae.active_dimensions)
def active_dimensions(eigenvalues, noise_variance, beta):
    level = beta[:, None] * noise_variance
    rate = (0.5 * torch.log(eigenvalues / level)).clamp(min=0)
    return rate, torch.minimum(eigenvalues, level)


# %% active_dimensions: the docstring's condition, by torch.where
@answer(beta_vae.active_dimensions)
def active_dimensions(eigenvalues, noise_variance, beta):
    level = (beta * noise_variance).unsqueeze(1)
    active = eigenvalues > level
    rate = torch.where(active, 0.5 * torch.log(eigenvalues / level), 0.0)
    distortion = torch.where(active, level, eigenvalues)
    return rate, distortion


# %% active_dimensions: relu of a difference of logarithms
@answer(beta_vae.active_dimensions)
def active_dimensions(eigenvalues, noise_variance, beta):
    log_level = (beta.log() + noise_variance.log())[:, None]
    rate = F.relu(eigenvalues.log() - log_level) / 2
    return rate, torch.exp(eigenvalues.log() - 2 * rate)


# %% active_dimensions: what stands above the water, and the water
@answer(beta_vae.active_dimensions)
def active_dimensions(eigenvalues, noise_variance, beta):
    level = torch.outer(beta, noise_variance[None])
    rate = 0.5 * (torch.maximum(eigenvalues, level).log() - level.log())
    return rate, torch.clamp(eigenvalues.expand_as(rate), max=level)


# %% active_dimensions: weights 0 and 1
@answer(beta_vae.active_dimensions)
def active_dimensions(eigenvalues, noise_variance, beta):
    level = torch.einsum("b,->b", beta, noise_variance)[:, None]
    on = (eigenvalues > level).to(eigenvalues.dtype)
    ratio = on * eigenvalues / level + (1 - on)
    return 0.5 * ratio.log(), on * level + (1 - on) * eigenvalues


# %% active_dimensions: vmap over β
@answer(beta_vae.active_dimensions)
def active_dimensions(eigenvalues, noise_variance, beta):
    def at(b):
        level = b * noise_variance
        return torch.log(eigenvalues / level).clamp_min(0) / 2, torch.minimum(eigenvalues, level)

    return torch.vmap(at)(beta)


# %% pairwise_log_density: the hint, literally
@answer(beta_vae.pairwise_log_density)
def pairwise_log_density(z, mean, log_var):
    c = mean.mean(0)
    z, mean = z - c, mean - c
    precision = (-log_var).exp()
    constant = (mean**2 * precision + log_var + math.log(2 * math.pi)).sum(1)
    return -0.5 * (z.square() @ precision.T + constant) + z @ (mean * precision).T


# %% pairwise_log_density: three matrix products
@answer(beta_vae.pairwise_log_density)
def pairwise_log_density(z, mean, log_var):
    D = z.shape[1]
    centre = z.mean(dim=0, keepdim=True)
    z, mean = z - centre, mean - centre
    precision = 1 / log_var.exp()
    square = z.pow(2) @ precision.T - 2 * z @ (mean * precision).T + (mean.pow(2) * precision).sum(1)
    return -0.5 * (square + log_var.sum(1) + D * math.log(2 * math.pi))


# %% pairwise_log_density: one product of stacked features
@answer(beta_vae.pairwise_log_density)
def pairwise_log_density(z, mean, log_var):
    centre = mean.mean(0).detach()
    z, mean = z - centre, mean - centre
    precision = torch.exp(-log_var)
    constant = -0.5 * (mean.square() * precision + log_var + math.log(2 * math.pi)).sum(1, keepdim=True)
    features = torch.cat([z.square(), z, torch.ones_like(z[:, :1])], dim=1)
    weights = torch.cat([-0.5 * precision, mean * precision, constant], dim=1)
    return features @ weights.T


# %% pairwise_log_density: einsum
@answer(beta_vae.pairwise_log_density)
def pairwise_log_density(z, mean, log_var):
    shift = mean.mean(0)
    z, mean, w = z - shift, mean - shift, log_var.neg().exp()
    quadratic = torch.einsum("md,nd->mn", z * z, w)
    linear = torch.einsum("md,nd->mn", z, mean * w)
    constant = torch.einsum("nd,nd->n", mean * mean, w) + log_var.sum(1) + z.shape[1] * beta_vae.LOG_2PI
    return linear - 0.5 * (quadratic + constant)


# %% pairwise_log_density: addmm
@answer(beta_vae.pairwise_log_density)
def pairwise_log_density(z, mean, log_var):
    centre = mean.mean(0)
    z, mean = z - centre, mean - centre
    precision = torch.exp(-log_var)
    constant = -0.5 * (mean.square() * precision + log_var + math.log(2 * math.pi)).sum(1)
    linear = torch.addmm(constant, z, (mean * precision).T)
    return torch.addmm(linear, z.square(), precision.T, alpha=-0.5)


# %% pairwise_log_density: in float64, without centring, cast back
@answer(beta_vae.pairwise_log_density)
def pairwise_log_density(z, mean, log_var):
    dtype = z.dtype
    z, mean, log_var = z.double(), mean.double(), log_var.double()
    precision = (-log_var).exp()
    weights = torch.cat([-0.5 * precision, mean * precision], dim=1)
    constant = -0.5 * (mean.square() * precision + log_var + math.log(2 * math.pi)).sum(1)
    return (torch.cat([z.square(), z], dim=1) @ weights.T + constant).to(dtype)


# %% pairwise_log_density: latent by latent, computed anew in the backward pass
from torch.utils.checkpoint import checkpoint


@answer(beta_vae.pairwise_log_density)
def pairwise_log_density(z, mean, log_var):
    def of_one(z, mean, log_var):
        return -0.5 * ((z[:, None] - mean) ** 2 * torch.exp(-log_var) + log_var + math.log(2 * math.pi))

    total = torch.zeros((), device=z.device)
    for latent in zip(z.unbind(1), mean.unbind(1), log_var.unbind(1), strict=True):
        total = total + checkpoint(of_one, *latent, use_reentrant=False, preserve_rng_state=False)
    return total


# %% log_aggregate_posterior: the hint, literally
@answer(beta_vae.log_aggregate_posterior)
def log_aggregate_posterior(z, mean, log_var, dataset_size):
    difference = z[:, None] - mean[None]
    log_density = -0.5 * (difference**2 / log_var.exp() + log_var + math.log(2 * math.pi))
    constant = math.log(dataset_size * len(z))
    joint = log_density.sum(2).logsumexp(1) - constant
    marginals = log_density.logsumexp(1) - constant
    return joint, marginals


# %% log_aggregate_posterior: torch.distributions
@answer(beta_vae.log_aggregate_posterior)
def log_aggregate_posterior(z, mean, log_var, dataset_size):
    q = torch.distributions.Normal(mean, torch.exp(log_var / 2), validate_args=False)
    log_q = q.log_prob(z.unsqueeze(1))  # (M, M, D)
    log_weight = -math.log(dataset_size) - math.log(len(z))
    return torch.logsumexp(log_q.sum(-1), 1) + log_weight, torch.logsumexp(log_q, 1) + log_weight


# %% log_aggregate_posterior: the student's own pairwise_log_density
@answer(beta_vae.log_aggregate_posterior)
def log_aggregate_posterior(z, mean, log_var, dataset_size):
    constant = math.log(len(z) * dataset_size)
    joint = beta_vae.pairwise_log_density(z, mean, log_var).logsumexp(1) - constant
    latents = zip(z.split(1, 1), mean.split(1, 1), log_var.split(1, 1), strict=True)
    marginals = [beta_vae.pairwise_log_density(*latent).logsumexp(1) for latent in latents]
    return joint, torch.stack(marginals, dim=1) - constant


# %% log_aggregate_posterior: the weight inside the sum over posteriors
@answer(beta_vae.log_aggregate_posterior)
def log_aggregate_posterior(z, mean, log_var, dataset_size):
    M, D = z.shape
    log_density = -0.5 * ((z[:, None] - mean) ** 2 / log_var.exp() + log_var + beta_vae.LOG_2PI)
    log_weight = torch.full((M, M), -math.log(M * dataset_size), device=z.device)
    joint = torch.logsumexp(log_density.sum(-1) + log_weight, dim=1)
    return joint, torch.logsumexp(log_density + log_weight[..., None], dim=1)


# %% log_aggregate_posterior: posteriors on axis 0
@answer(beta_vae.log_aggregate_posterior)
def log_aggregate_posterior(z, mean, log_var, dataset_size):
    std = (0.5 * log_var).exp()[:, None]
    standard = (z - mean[:, None]) / std
    log_density = -0.5 * standard.square() - std.log() - 0.5 * math.log(2 * math.pi)
    shift = math.log(dataset_size * z.shape[0])
    return log_density.sum(-1).logsumexp(0) - shift, log_density.logsumexp(0) - shift


# %% log_aggregate_posterior: maxima taken out by hand
@answer(beta_vae.log_aggregate_posterior)
def log_aggregate_posterior(z, mean, log_var, dataset_size):
    def log_sum_exp(values):
        top = values.amax(1, keepdim=True)
        return (values - top).exp().sum(1).log() + top.squeeze(1)

    log_density = -0.5 * ((z[:, None] - mean).square() / log_var.exp() + log_var + beta_vae.LOG_2PI)
    constant = math.log(dataset_size * len(z))
    return log_sum_exp(log_density.sum(2)) - constant, log_sum_exp(log_density) - constant


# %% stratified_weights: the hint, with the identity on the device of z
@answer(beta_vae.stratified_weights)
def stratified_weights(z, dataset_size):
    B, N = len(z), dataset_size
    M = B - 1
    own = torch.eye(B, dtype=z.dtype, device=z.device)
    neighbour = own.roll(1, dims=1)
    return (own / N + neighbour * (N - M) / (N * M) + (1 - own - neighbour) / M).log()


# %% stratified_weights: filled along the diagonals
@answer(beta_vae.stratified_weights)
def stratified_weights(z, dataset_size):
    M = len(z) - 1
    stratum = (dataset_size - M) / (dataset_size * M)
    weights = torch.full((M + 1, M + 1), 1 / M, dtype=z.dtype, device=z.device)
    weights.fill_diagonal_(1 / dataset_size)
    weights.diagonal(offset=1).fill_(stratum)
    weights[-1, 0] = stratum
    return weights.log()


# %% stratified_weights: j − i, and torch.where
@answer(beta_vae.stratified_weights)
def stratified_weights(z, dataset_size):
    B = z.shape[0]
    M = B - 1
    i = torch.arange(B, device=z.device)
    ahead = (i[None, :] - i[:, None]) % B
    rest = torch.full((B, B), -math.log(M), dtype=z.dtype, device=z.device)
    log_stratum = math.log((dataset_size - M) / (dataset_size * M))
    weights = torch.where(ahead == 1, log_stratum, rest)
    return torch.where(ahead == 0, -math.log(dataset_size), weights)


# %% stratified_weights: index pairs
@answer(beta_vae.stratified_weights)
def stratified_weights(z, dataset_size):
    B = len(z)
    M, N = B - 1, dataset_size
    rows = torch.arange(B, device=z.device)
    log_w = z.new_full((B, B), math.log(1 / M))
    log_w[rows, rows] = math.log(1 / N)
    log_w[rows, (rows + 1) % B] = math.log(N - M) - math.log(N) - math.log(M)
    return log_w


# %% stratified_weights: scatter into every row
@answer(beta_vae.stratified_weights)
def stratified_weights(z, dataset_size):
    B = len(z)
    M = B - 1
    place = torch.arange(B, device=z.device)[:, None]
    weights = torch.ones(B, B, dtype=z.dtype, device=z.device) / M
    weights = weights.scatter(1, place, 1 / dataset_size)
    return weights.scatter(1, (place + 1) % B, (dataset_size - M) / (dataset_size * M)).log()


# %% stratified_weights: one row, rolled
@answer(beta_vae.stratified_weights)
def stratified_weights(z, dataset_size):
    B, N = len(z), dataset_size
    M = B - 1
    row = torch.full((B,), -math.log(M), dtype=z.dtype, device=z.device)
    row[0] = -math.log(N)
    row[1] = math.log((N - M) / (N * M))
    i = torch.arange(B, device=z.device)
    return row[(i - i[:, None]) % B]


# %% kl_decomposition: the docstring, literally
@answer(beta_vae.kl_decomposition)
def kl_decomposition(z, log_conditional, log_joint, log_marginals):
    log_prior = -0.5 * (z**2 + math.log(2 * math.pi))
    mi = (log_conditional - log_joint).mean()
    tc = (log_joint - log_marginals.sum(1)).mean()
    dwkl = (log_marginals - log_prior).sum(1).mean()
    return mi, tc, dwkl


# %% kl_decomposition: torch.distributions
@answer(beta_vae.kl_decomposition)
def kl_decomposition(z, log_conditional, log_joint, log_marginals):
    log_prior = torch.distributions.Normal(0.0, 1.0, validate_args=False).log_prob(z)
    information = torch.mean(log_conditional - log_joint)
    correlation = torch.mean(log_joint - log_marginals.sum(-1))
    return information, correlation, torch.mean((log_marginals - log_prior).sum(-1))


# %% kl_decomposition: a mean of each density
@answer(beta_vae.kl_decomposition)
def kl_decomposition(z, log_conditional, log_joint, log_marginals):
    q_x, q_z, product = log_conditional.mean(), log_joint.mean(), log_marginals.mean(0).sum()
    p_z = -0.5 * (z.square().sum() / len(z) + z.shape[1] * math.log(2 * math.pi))
    return q_x - q_z, q_z - product, product - p_z


# %% kl_decomposition: the third as what is left of the KL
@answer(beta_vae.kl_decomposition)
def kl_decomposition(z, log_conditional, log_joint, log_marginals):
    log_prior = -0.5 * (z.square() + math.log(2 * math.pi))
    whole = (log_conditional - log_prior.sum(1)).mean()
    mi = (log_conditional - log_joint).mean()
    tc = (log_joint - log_marginals.sum(1)).mean()
    return mi, tc, whole - mi - tc


# %% kl_decomposition: all three at once, unbound
@answer(beta_vae.kl_decomposition)
def kl_decomposition(z, log_conditional, log_joint, log_marginals):
    log_prior = -0.5 * (z * z + beta_vae.LOG_2PI).sum(1)
    chain = torch.stack([log_conditional, log_joint, log_marginals.sum(1), log_prior])  # (4, M)
    return (chain[:-1] - chain[1:]).mean(1).unbind()


# %% log_marginals_streaming: checkpointed blocks and a running log-sum
@answer(beta_vae.log_marginals_streaming)
def log_marginals_streaming(z, mean, log_var, block):
    from torch.utils.checkpoint import checkpoint

    def f(z, mean, log_var):
        log_density = -0.5 * (
            (z[:, None] - mean).square() * (-log_var).exp() + log_var + math.log(2 * math.pi)
        )
        return log_density.logsumexp(1)

    total = torch.full_like(z, -torch.inf)
    for m, v in zip(mean.split(block), log_var.split(block), strict=True):
        part = checkpoint(f, z, m, v, use_reentrant=False, preserve_rng_state=False)
        total = torch.logaddexp(total, part)
    return total - math.log(len(mean))


# %% log_marginals_streaming: blocks stacked, summed at the end
def block_log_sum(z, mean, log_var):
    q = torch.distributions.Normal(mean, (log_var / 2).exp(), validate_args=False)
    return q.log_prob(z[:, None]).logsumexp(1)


@answer(beta_vae.log_marginals_streaming)
def log_marginals_streaming(z, mean, log_var, block):
    from torch.utils.checkpoint import checkpoint

    parts = []
    for start in range(0, len(mean), block):
        rows = slice(start, start + block)
        args = z, mean[rows], log_var[rows]
        parts.append(checkpoint(block_log_sum, *args, use_reentrant=False, preserve_rng_state=False))
    return torch.stack(parts).logsumexp(0) - math.log(mean.shape[0])


# %% log_marginals_streaming: an autograd.Function with its own backward pass
class LogMixture(torch.autograd.Function):
    @staticmethod
    def density(z, mean, log_var):
        difference = z[:, None] - mean
        return difference, -0.5 * (difference.square() * (-log_var).exp() + log_var + math.log(2 * math.pi))

    @staticmethod
    def forward(ctx, z, mean, log_var, block):
        total = torch.full_like(z, -math.inf)
        for m, v in zip(mean.split(block), log_var.split(block), strict=True):
            total = torch.logaddexp(total, LogMixture.density(z, m, v)[1].logsumexp(1))
        ctx.save_for_backward(z, mean, log_var, total)
        ctx.block = block
        return total - math.log(len(mean))

    @staticmethod
    def backward(ctx, gradient):
        z, mean, log_var, total = ctx.saved_tensors
        to_z, to_mean, to_log_var = torch.zeros_like(z), [], []
        for m, v in zip(mean.split(ctx.block), log_var.split(ctx.block), strict=True):
            difference, log_density = LogMixture.density(z, m, v)
            weight = (log_density - total[:, None]).exp() * gradient[:, None]
            pull = weight * difference * (-v).exp()
            to_z -= pull.sum(1)
            to_mean.append(pull.sum(0))
            to_log_var.append(0.5 * (pull * difference - weight).sum(0))
        return to_z, torch.cat(to_mean), torch.cat(to_log_var), None


@answer(beta_vae.log_marginals_streaming)
def log_marginals_streaming(z, mean, log_var, block):
    return LogMixture.apply(z, mean, log_var, block)


# %% log_marginals_streaming: blocks of samples instead of posteriors
@answer(beta_vae.log_marginals_streaming)
def log_marginals_streaming(z, mean, log_var, block):
    from torch.utils.checkpoint import checkpoint

    def f(rows, mean, log_var):
        square = (rows[:, None] - mean) ** 2 / log_var.exp()
        return torch.logsumexp(-0.5 * (square + log_var + beta_vae.LOG_2PI), dim=1)

    parts = [
        checkpoint(f, rows, mean, log_var, use_reentrant=False, preserve_rng_state=False)
        for rows in z.split(block)
    ]
    return torch.cat(parts) - math.log(len(mean))


# %% log_marginals_streaming: a running maximum and a running sum
@answer(beta_vae.log_marginals_streaming)
def log_marginals_streaming(z, mean, log_var, block):
    from torch.utils.checkpoint import checkpoint

    def update(z, top, total, mean, log_var):
        logs = -0.5 * ((z[:, None] - mean).square() / log_var.exp() + log_var + math.log(2 * math.pi))
        new_top = torch.maximum(top, logs.amax(1))
        total = total * (top - new_top).exp() + (logs - new_top[:, None]).exp().sum(1)
        return new_top, total

    top, total = torch.full_like(z, -1e30), torch.zeros_like(z)
    for m, v in zip(mean.split(block), log_var.split(block), strict=True):
        top, total = checkpoint(update, z, top, total, m, v, use_reentrant=False, preserve_rng_state=False)
    return top + total.log() - math.log(len(mean))


# %% beta_tcvae_loss: the hint, literally
@answer(beta_vae.beta_tcvae_loss)
def beta_tcvae_loss(x, logits, mean, log_var, z, dataset_size, beta):
    joint, marginals = beta_vae.log_aggregate_posterior(z, mean, log_var, dataset_size)
    TC = (joint - marginals.sum(1)).mean()
    return -elbo.elbo(x, logits, mean, log_var) + (beta - 1) * TC


# %% beta_tcvae_loss: likelihood and KL one by one
@answer(beta_vae.beta_tcvae_loss)
def beta_tcvae_loss(x, logits, mean, log_var, z, dataset_size, beta):
    log_joint, log_marginals = beta_vae.log_aggregate_posterior(z, mean, log_var, dataset_size)
    per_image = elbo.gaussian_kl(mean, log_var) - elbo.bernoulli_log_likelihood(x, logits)
    return (per_image + (beta - 1) * (log_joint - log_marginals.sum(dim=1))).mean()


# %% beta_tcvae_loss: on the beta-VAE's loss at β = 1
@answer(beta_vae.beta_tcvae_loss)
def beta_tcvae_loss(x, logits, mean, log_var, z, dataset_size, beta):
    joint, marginals = beta_vae.log_aggregate_posterior(z, mean, log_var, dataset_size)
    tc = joint.mean() - marginals.mean(0).sum()
    return beta_vae.beta_vae_loss(x, logits, mean, log_var, 1.0) + beta * tc - tc


# %% beta_tcvae_loss: the total correlation from kl_decomposition
@answer(beta_vae.beta_tcvae_loss)
def beta_tcvae_loss(x, logits, mean, log_var, z, dataset_size, beta):
    joint, marginals = beta_vae.log_aggregate_posterior(z, mean, log_var, dataset_size)
    q = torch.distributions.Normal(mean, (0.5 * log_var).exp(), validate_args=False)
    conditional = q.log_prob(z).sum(1)
    _, tc, _ = beta_vae.kl_decomposition(z, conditional, joint, marginals)
    return (beta - 1) * tc - elbo.elbo(x, logits, mean, log_var)


# %% beta_tcvae_loss: everything written out
@answer(beta_vae.beta_tcvae_loss)
def beta_tcvae_loss(x, logits, mean, log_var, z, dataset_size, beta):
    M, D = z.shape
    reconstruction = F.binary_cross_entropy_with_logits(logits, x, reduction="sum") / M
    kl = 0.5 * (mean.square() + log_var.exp() - log_var - 1).sum() / M
    log_q = -0.5 * ((z[:, None] - mean).square() / log_var.exp() + log_var + math.log(2 * math.pi))
    tc = (log_q.sum(2).logsumexp(1) - log_q.logsumexp(1).sum(1)).mean()
    tc = tc + (D - 1) * math.log(dataset_size * M)
    return reconstruction + kl + (beta - 1) * tc


# %% mutual_information_gap: topk
@answer(beta_vae.mutual_information_gap)
def mutual_information_gap(mutual_information, entropies):
    top = mutual_information.topk(2, dim=0).values
    return ((top[0] - top[1]) / entropies).mean()


# %% mutual_information_gap: sorted columns
@answer(beta_vae.mutual_information_gap)
def mutual_information_gap(mutual_information, entropies):
    ordered = torch.sort(mutual_information, dim=0, descending=True).values
    return torch.mean((ordered[0] - ordered[1]) / entropies)


# %% mutual_information_gap: the best one replaced, by its index
@answer(beta_vae.mutual_information_gap)
def mutual_information_gap(mutual_information, entropies):
    best, index = mutual_information.max(dim=0, keepdim=True)
    second = mutual_information.scatter(0, index, -torch.inf).max(dim=0).values
    return ((best[0] - second) / entropies).sum() / len(entropies)


# %% mutual_information_gap: transposed and normalised first
@answer(beta_vae.mutual_information_gap)
def mutual_information_gap(mutual_information, entropies):
    share = (mutual_information / entropies).T  # (K, D)
    first, second = share.topk(k=2).values.unbind(1)
    return (first - second).mean()


# %% mutual_information_gap: kthvalue
@answer(beta_vae.mutual_information_gap)
def mutual_information_gap(mutual_information, entropies):
    D = len(mutual_information)
    first = mutual_information.kthvalue(D, dim=0).values
    second = mutual_information.kthvalue(D - 1, dim=0).values
    return ((first - second) / entropies).mean()


# %% mutual_information_gap: msort and a difference
@answer(beta_vae.mutual_information_gap)
def mutual_information_gap(mutual_information, entropies):
    return (mutual_information.msort()[-2:].diff(dim=0).squeeze(0) / entropies).mean()


# %% kl_decomposition: differences first, means at the end
@answer(beta_vae.kl_decomposition)
def kl_decomposition(z, log_conditional, log_joint, log_marginals):
    log_prior = -z.square() / 2 - 0.5 * math.log(2 * math.pi)
    terms = (
        log_conditional - log_joint,
        log_joint - log_marginals.sum(dim=1),
        (log_marginals - log_prior).sum(dim=1),
    )
    return tuple(term.sum() / len(term) for term in terms)


# %% mutual_information_gap: without autograd, by a decorator
@answer(beta_vae.mutual_information_gap)
@torch.no_grad()
def mutual_information_gap(mutual_information, entropies):
    first, second = mutual_information.topk(2, dim=0).values
    return ((first - second) / entropies).mean()
