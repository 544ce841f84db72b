"""Right answers to lesson 09, cell by cell."""

# %% the notebook's first cell
import math

import torch
import torch.nn.functional as F

from course_lib import answer
from course_lib.lessons import beta_vae, elbo, what_it_takes


# %% rotated_uniforms: the hint, literally
@answer(what_it_takes.rotated_uniforms)
def rotated_uniforms(u, rotation):
    return torch.special.ndtr(torch.special.ndtri(u) @ rotation.T)


# %% rotated_uniforms: by error functions
@answer(what_it_takes.rotated_uniforms)
def rotated_uniforms(u, rotation):
    g = math.sqrt(2) * torch.erfinv(2 * u - 1)
    return 0.5 * (1 + torch.erf((g @ rotation.T) / math.sqrt(2)))


# %% rotated_uniforms: an einsum
@answer(what_it_takes.rotated_uniforms)
def rotated_uniforms(u, rotation):
    gaussian = torch.special.ndtri(u)
    return torch.special.ndtr(torch.einsum("ij,nj->ni", rotation, gaussian))


# %% rotated_uniforms: a linear layer
@answer(what_it_takes.rotated_uniforms)
def rotated_uniforms(u, rotation):
    return torch.special.ndtr(F.linear(torch.special.ndtri(u), rotation))


# %% whiten: torch.cov
@answer(what_it_takes.whiten)
def whiten(x):
    L = torch.linalg.cholesky_ex(torch.cov(x.T, correction=0).reshape(x.shape[1], x.shape[1]))[0]
    return torch.linalg.solve_triangular(L, (x - x.mean(0)).T, upper=False).T


# %% whiten: the inverse of L
@answer(what_it_takes.whiten)
def whiten(x):
    centred = x - x.mean(dim=0, keepdim=True)
    covariance = centred.T @ centred / x.shape[0]
    L, _ = torch.linalg.cholesky_ex(covariance)
    inverse, _ = torch.linalg.inv_ex(L)
    return centred @ inverse.T


# %% whiten: solved from the right
@answer(what_it_takes.whiten)
def whiten(x):
    centred = x - x.mean(0)
    L = torch.linalg.cholesky_ex((centred[:, :, None] * centred[:, None, :]).mean(0)).L
    return torch.linalg.solve_triangular(L.T, centred, upper=True, left=False)


# %% fastica_step: term by term
@answer(what_it_takes.fastica_step)
def fastica_step(z, unmixing):
    N = z.shape[0]
    y = z @ unmixing.T
    g = torch.tanh(y)
    dg = 1 - g.square()
    update = g.T @ z / N - torch.diag(dg.mean(0)) @ unmixing
    return what_it_takes.orthogonalise(update)


# %% fastica_step: a mean over points of outer products
@answer(what_it_takes.fastica_step)
def fastica_step(z, unmixing):
    y = torch.einsum("nd,kd->nk", z, unmixing)
    first = torch.einsum("nk,nd->kd", y.tanh(), z) / len(z)
    second = (1 / y.cosh() ** 2).mean(0).unsqueeze(1) * unmixing
    return what_it_takes.orthogonalise(first - second)


# %% fastica_step: columns
@answer(what_it_takes.fastica_step)
def fastica_step(z, unmixing):
    g = torch.tanh(unmixing @ z.T)  # (D, N)
    W = (g @ z - (1 - g * g).sum(1, keepdim=True) * unmixing) / z.size(0)
    return what_it_takes.orthogonalise(W)


# %% mean_correlation: corrcoef by hand
@answer(what_it_takes.mean_correlation)
def mean_correlation(codes, factors, match):
    a, b = codes - codes.mean(0), factors - factors.mean(0)
    covariance = a.T @ b
    scale = a.norm(dim=0)[:, None] * b.norm(dim=0)[None]
    scores = torch.where(scale == 0, torch.zeros_like(scale), covariance.abs() / scale)
    rows, columns = match(scores)
    return scores[rows, columns].mean()


# %% mean_correlation: F.normalize
@answer(what_it_takes.mean_correlation)
def mean_correlation(codes, factors, match):
    a = F.normalize(codes - codes.mean(0), dim=0)
    b = F.normalize(factors - factors.mean(0), dim=0)
    scores = (a.T @ b).abs()
    return scores[match(scores)].mean()


# %% mean_correlation: a clamp keeps zeros away
@answer(what_it_takes.mean_correlation)
def mean_correlation(codes, factors, match):
    n = codes.shape[0]
    a = (codes - codes.mean(0)) / codes.std(0, correction=0).clamp(min=1e-12)
    b = (factors - factors.mean(0)) / factors.std(0, correction=0).clamp(min=1e-12)
    scores = torch.abs(torch.einsum("ni,nj->ij", a, b) / n)
    r, c = match(scores)
    return sum(scores[r, c]) / len(r)


# %% gaussian_kl_between: the formula
@answer(what_it_takes.gaussian_kl_between)
def gaussian_kl_between(mean, log_var, other_mean, other_log_var):
    term = torch.exp(log_var - other_log_var) + (mean - other_mean) ** 2 / torch.exp(other_log_var)
    return 0.5 * (term - 1 - log_var + other_log_var)


# %% gaussian_kl_between: expm1
@answer(what_it_takes.gaussian_kl_between)
def gaussian_kl_between(mean, log_var, other_mean, other_log_var):
    d = log_var - other_log_var
    return 0.5 * (torch.expm1(d) - d + (mean - other_mean).square() * (-other_log_var).exp())


# %% gaussian_kl_between: torch.distributions
@answer(what_it_takes.gaussian_kl_between)
def gaussian_kl_between(mean, log_var, other_mean, other_log_var):
    q = torch.distributions.Normal(mean, (log_var / 2).exp(), validate_args=False)
    p = torch.distributions.Normal(other_mean, (other_log_var / 2).exp(), validate_args=False)
    return torch.distributions.kl_divergence(q, p)


# %% ivae_loss: mean of parts
@answer(what_it_takes.ivae_loss)
def ivae_loss(x, prediction, mean, log_var, prior_mean, prior_log_var, noise_variance):
    P = x.shape[1]
    squares = ((x - prediction) ** 2).sum(dim=1)
    nll = squares / (2 * noise_variance) + 0.5 * P * math.log(2 * math.pi * noise_variance)
    kl = what_it_takes.gaussian_kl_between(mean, log_var, prior_mean, prior_log_var).sum(dim=1)
    return nll.mean() + kl.mean()


# %% ivae_loss: torch.distributions
@answer(what_it_takes.ivae_loss)
def ivae_loss(x, prediction, mean, log_var, prior_mean, prior_log_var, noise_variance):
    normal = torch.distributions.Normal(prediction, noise_variance**0.5, validate_args=False)
    kl = what_it_takes.gaussian_kl_between(mean, log_var, prior_mean, prior_log_var)
    return -(normal.log_prob(x).sum(-1) - kl.sum(-1)).mean()


# %% ivae_loss: F.mse_loss
@answer(what_it_takes.ivae_loss)
def ivae_loss(x, prediction, mean, log_var, prior_mean, prior_log_var, noise_variance):
    distortion = F.mse_loss(prediction, x, reduction="sum") / noise_variance / 2
    constant = x.numel() / 2 * math.log(2 * math.pi * noise_variance)
    kl = what_it_takes.gaussian_kl_between(mean, log_var, prior_mean, prior_log_var)
    return (distortion + constant + kl.sum()) / len(x)


# %% average_shared: where by where
@answer(what_it_takes.average_shared)
def average_shared(mean, log_var, other_mean, other_log_var):
    delta = what_it_takes.gaussian_kl_between(mean, log_var, other_mean, other_log_var)
    tau = 0.5 * (delta.max(dim=1, keepdim=True).values + delta.min(dim=1, keepdim=True).values)
    shared = delta < tau
    m = (mean + other_mean) / 2
    v = ((log_var.exp() + other_log_var.exp()) / 2).log()
    return (
        torch.where(shared, m, mean),
        torch.where(shared, v, log_var),
        torch.where(shared, m, other_mean),
        torch.where(shared, v, other_log_var),
    )


# %% average_shared: logsumexp
@answer(what_it_takes.average_shared)
def average_shared(mean, log_var, other_mean, other_log_var):
    delta = what_it_takes.gaussian_kl_between(mean, log_var, other_mean, other_log_var)
    shared = delta < (delta.amax(1) + delta.amin(1)).unsqueeze(1) / 2
    m = torch.stack([mean, other_mean]).mean(0)
    v = torch.logsumexp(torch.stack([log_var, other_log_var]), 0) - math.log(2)
    mean, other_mean = mean.where(~shared, m), other_mean.where(~shared, m)
    log_var, other_log_var = log_var.where(~shared, v), other_log_var.where(~shared, v)
    return mean, log_var, other_mean, other_log_var


# %% average_shared: arithmetic with the mask
@answer(what_it_takes.average_shared)
def average_shared(mean, log_var, other_mean, other_log_var):
    kl = what_it_takes.gaussian_kl_between(mean, log_var, other_mean, other_log_var)
    low, high = torch.aminmax(kl, dim=1, keepdim=True)
    keep = (kl >= (low + high) / 2).float()
    share = 1 - keep
    m = 0.5 * mean + 0.5 * other_mean
    v = torch.log(0.5 * log_var.exp() + 0.5 * other_log_var.exp())
    mix = [(mean, m), (log_var, v), (other_mean, m), (other_log_var, v)]
    return tuple(keep * own + share * both for own, both in mix)


# %% pair_loss: as the contract says
@answer(what_it_takes.pair_loss)
def pair_loss(vae, x, y, noise, beta):
    mean_x, log_var_x = vae.encode(x)
    mean_y, log_var_y = vae.encode(y)
    mean_x, log_var_x, mean_y, log_var_y = what_it_takes.average_shared(mean_x, log_var_x, mean_y, log_var_y)
    z_x = elbo.reparameterise(mean_x, log_var_x, noise[0])
    z_y = elbo.reparameterise(mean_y, log_var_y, noise[1])
    loss = beta_vae.beta_vae_loss(x, vae.decode(z_x), mean_x, log_var_x, beta)
    return loss + beta_vae.beta_vae_loss(y, vae.decode(z_y), mean_y, log_var_y, beta)


# %% pair_loss: both images in one batch
@answer(what_it_takes.pair_loss)
def pair_loss(vae, x, y, noise, beta):
    mean, log_var = vae.encode(torch.cat([x, y]))
    (m, n), (v, w) = mean.chunk(2), log_var.chunk(2)
    m, v, n, w = what_it_takes.average_shared(m, v, n, w)
    mean, log_var = torch.cat([m, n]), torch.cat([v, w])
    logits = vae.decode(elbo.reparameterise(mean, log_var, noise.flatten(0, 1)))
    return 2 * beta_vae.beta_vae_loss(torch.cat([x, y]), logits, mean, log_var, beta)


# %% pair_loss: a loop over the two
@answer(what_it_takes.pair_loss)
def pair_loss(vae, x, y, noise, beta):
    q = what_it_takes.average_shared(*vae.encode(x), *vae.encode(y))
    loss = 0
    for i, image in enumerate((x, y)):
        mean, log_var = q[2 * i], q[2 * i + 1]
        z = mean + torch.exp(0.5 * log_var) * noise[i]
        loss = loss + beta_vae.beta_vae_loss(image, vae.decode(z), mean, log_var, beta)
    return loss


# %% erase: by the inverse
@answer(what_it_takes.erase)
def erase(x, attributes):
    xc, ac = x - x.mean(0), attributes - attributes.mean(0)
    S, C = xc.T @ xc / len(x), xc.T @ ac / len(x)
    SC = torch.linalg.inv_ex(S)[0] @ C
    return x - xc @ SC @ torch.linalg.inv_ex(C.T @ SC)[0] @ C.T


# %% erase: whitened, projected, coloured again
@answer(what_it_takes.erase)
def erase(x, attributes):
    n = x.shape[0]
    xc, ac = x - x.mean(dim=0), attributes - attributes.mean(dim=0)
    L = torch.linalg.cholesky_ex(xc.T @ xc / n).L
    white = torch.linalg.solve_triangular(L, xc.T, upper=False).T
    direction = white.T @ ac / n  # (D, K)
    gram = direction.T @ direction
    projected = white @ direction @ torch.linalg.solve_ex(gram, direction.T)[0]
    return x - projected @ L.T


# %% erase: points as columns
@answer(what_it_takes.erase)
def erase(x, attributes):
    X, A = (x - x.mean(0)).T, (attributes - attributes.mean(0)).T
    S, C = X @ X.T, X @ A.T  # N times the covariances: it cancels
    reader = torch.linalg.solve_ex(S, C).result.T  # (K, D)
    said = torch.linalg.solve_ex(reader @ C, reader @ X).result
    return x - (C @ said).T
