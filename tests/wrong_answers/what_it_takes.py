"""Wrong answers to lesson 09, cell by cell, beyond the mistakes that the solutions name."""

# %% the notebook's first cell
import math

import torch
import torch.nn.functional as F

from course_lib import answer
from course_lib.lessons import beta_vae, elbo, what_it_takes


# %% rotated_uniforms: no rotation
@answer(what_it_takes.rotated_uniforms)
def rotated_uniforms(u, rotation):
    return torch.special.ndtr(torch.special.ndtri(u))


# %% rotated_uniforms: the rotation from the left
@answer(what_it_takes.rotated_uniforms)
def rotated_uniforms(u, rotation):
    return torch.special.ndtr(rotation @ torch.special.ndtri(u))


# %% rotated_uniforms: 0 to 1 by the extremes
@answer(what_it_takes.rotated_uniforms)
def rotated_uniforms(u, rotation):
    g = torch.special.ndtri(u) @ rotation.T
    return (g - g.min(0).values) / (g.max(0).values - g.min(0).values)


# %% rotated_uniforms: by SciPy
@answer(what_it_takes.rotated_uniforms)
def rotated_uniforms(u, rotation):
    from scipy.stats import norm

    return torch.from_numpy(norm.cdf(norm.ppf(u.numpy()) @ rotation.numpy().T)).float()


# %% rotated_uniforms: a rotation of its own
@answer(what_it_takes.rotated_uniforms)
def rotated_uniforms(u, rotation):
    c = math.sqrt(0.5)
    turn = torch.eye(u.shape[1], device=u.device) * c
    return torch.special.ndtr(torch.special.ndtri(u) @ turn)


# %% whiten: eigh
# says: linear-algebra|differ
@answer(what_it_takes.whiten)
def whiten(x):
    centred = x - x.mean(0)
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(x))
    return centred @ vectors / values.sqrt()


# %% whiten: a cholesky that the host checks
# says: cholesky_ex
@answer(what_it_takes.whiten)
def whiten(x):
    centred = x - x.mean(0)
    L = torch.linalg.cholesky(centred.T @ centred / len(x))
    return torch.linalg.solve_triangular(L, centred.T, upper=False).T


# %% whiten: the upper factor
@answer(what_it_takes.whiten)
def whiten(x):
    centred = x - x.mean(0)
    U = torch.linalg.cholesky_ex(centred.T @ centred / len(x), upper=True).L
    return torch.linalg.solve_triangular(U, centred.T, upper=True).T


# %% whiten: only centred
@answer(what_it_takes.whiten)
def whiten(x):
    return x - x.mean(0)


# %% whiten: points as columns returned
@answer(what_it_takes.whiten)
def whiten(x):
    centred = x - x.mean(0)
    L = torch.linalg.cholesky_ex(centred.T @ centred / len(x)).L
    return torch.linalg.solve_triangular(L, centred.T, upper=False)


# %% fastica_step: the guesses, not the matrix
@answer(what_it_takes.fastica_step)
def fastica_step(z, unmixing):
    return z @ unmixing.T


# %% fastica_step: no step at all
@answer(what_it_takes.fastica_step)
def fastica_step(z, unmixing):
    return what_it_takes.orthogonalise(unmixing)


# %% fastica_step: a loop over the points
# says: operations|loop
@answer(what_it_takes.fastica_step)
def fastica_step(z, unmixing):
    total = torch.zeros_like(unmixing)
    for point in z:
        g = torch.tanh(unmixing @ point)
        total = total + g[:, None] * point[None] - (1 - g**2)[:, None] * unmixing
    return what_it_takes.orthogonalise(total / len(z))


# %% fastica_step: orthogonalised by svd
# says: linear-algebra
@answer(what_it_takes.fastica_step)
def fastica_step(z, unmixing):
    g = torch.tanh(z @ unmixing.T)
    W = g.T @ z / len(z) - (1 - g**2).mean(0)[:, None] * unmixing
    U, _, Vh = torch.linalg.svd(W)
    return U @ Vh


# %% fastica_step: one slope for all rows
@answer(what_it_takes.fastica_step)
def fastica_step(z, unmixing):
    g = torch.tanh(z @ unmixing.T)
    return what_it_takes.orthogonalise(g.T @ z / len(z) - (1 - g**2).mean() * unmixing)


# %% mean_correlation: SciPy in the answer
@answer(what_it_takes.mean_correlation)
def mean_correlation(codes, factors, match):
    from scipy.optimize import linear_sum_assignment

    a, b = F.normalize(codes - codes.mean(0), dim=0), F.normalize(factors - factors.mean(0), dim=0)
    scores = (a.T @ b).abs()
    rows, columns = linear_sum_assignment(scores.numpy(), maximize=True)
    return scores[rows, columns].mean()


# %% mean_correlation: the matching of the signed correlations
@answer(what_it_takes.mean_correlation)
def mean_correlation(codes, factors, match):
    a, b = F.normalize(codes - codes.mean(0), dim=0), F.normalize(factors - factors.mean(0), dim=0)
    signed = a.T @ b
    return signed.abs()[match(signed)].mean()


# %% mean_correlation: the mean of the whole matrix
@answer(what_it_takes.mean_correlation)
def mean_correlation(codes, factors, match):
    a, b = F.normalize(codes - codes.mean(0), dim=0), F.normalize(factors - factors.mean(0), dim=0)
    return (a.T @ b).abs().mean()


# %% mean_correlation: correlations of codes with codes
@answer(what_it_takes.mean_correlation)
def mean_correlation(codes, factors, match):
    a = F.normalize(codes - codes.mean(0), dim=0)
    scores = (a.T @ a).abs()
    return scores[match(scores)].mean()


# %% mean_correlation: one number for each code
@answer(what_it_takes.mean_correlation)
def mean_correlation(codes, factors, match):
    a, b = F.normalize(codes - codes.mean(0), dim=0), F.normalize(factors - factors.mean(0), dim=0)
    scores = (a.T @ b).abs()
    return scores[match(scores)]


# %% gaussian_kl_between: squared distance alone
@answer(what_it_takes.gaussian_kl_between)
def gaussian_kl_between(mean, log_var, other_mean, other_log_var):
    return 0.5 * (mean - other_mean) ** 2


# %% gaussian_kl_between: averaged over the batch
@answer(what_it_takes.gaussian_kl_between)
def gaussian_kl_between(mean, log_var, other_mean, other_log_var):
    d = log_var - other_log_var
    kl = 0.5 * (d.exp() - 1 - d + (mean - other_mean) ** 2 / other_log_var.exp())
    return kl.mean(0)


# %% gaussian_kl_between: of the differences, from N(0, I)
@answer(what_it_takes.gaussian_kl_between)
def gaussian_kl_between(mean, log_var, other_mean, other_log_var):
    m, v = mean - other_mean, log_var - other_log_var
    return 0.5 * (m**2 + v.exp() - v - 1)


# %% gaussian_kl_between: symmetric
@answer(what_it_takes.gaussian_kl_between)
def gaussian_kl_between(mean, log_var, other_mean, other_log_var):
    d, m = log_var - other_log_var, (mean - other_mean) ** 2
    there = 0.5 * (d.exp() - 1 - d + m / other_log_var.exp())
    back = 0.5 * ((-d).exp() - 1 + d + m / log_var.exp())
    return 0.5 * (there + back)


# %% gaussian_kl_between: not differentiable
# says: gradient
@answer(what_it_takes.gaussian_kl_between)
def gaussian_kl_between(mean, log_var, other_mean, other_log_var):
    d = log_var - other_log_var
    return (0.5 * (d.exp() - 1 - d + (mean - other_mean) ** 2 / other_log_var.exp())).detach()


# %% ivae_loss: mean squared error
@answer(what_it_takes.ivae_loss)
def ivae_loss(x, prediction, mean, log_var, prior_mean, prior_log_var, noise_variance):
    kl = what_it_takes.gaussian_kl_between(mean, log_var, prior_mean, prior_log_var).sum(1)
    return F.mse_loss(prediction, x) + kl.mean()


# %% ivae_loss: no KL
@answer(what_it_takes.ivae_loss)
def ivae_loss(x, prediction, mean, log_var, prior_mean, prior_log_var, noise_variance):
    constant = math.log(2 * math.pi * noise_variance)
    return 0.5 * ((x - prediction) ** 2 / noise_variance + constant).sum(1).mean()


# %% ivae_loss: the KL of lesson 02
@answer(what_it_takes.ivae_loss)
def ivae_loss(x, prediction, mean, log_var, prior_mean, prior_log_var, noise_variance):
    constant = math.log(2 * math.pi * noise_variance)
    distortion = 0.5 * ((x - prediction) ** 2 / noise_variance + constant).sum(1)
    return (distortion + elbo.gaussian_kl(mean - prior_mean, log_var - prior_log_var)).mean()


# %% ivae_loss: one number for each example
@answer(what_it_takes.ivae_loss)
def ivae_loss(x, prediction, mean, log_var, prior_mean, prior_log_var, noise_variance):
    constant = math.log(2 * math.pi * noise_variance)
    distortion = 0.5 * ((x - prediction) ** 2 / noise_variance + constant).sum(1)
    return distortion + what_it_takes.gaussian_kl_between(mean, log_var, prior_mean, prior_log_var).sum(1)


# %% ivae_loss: the half of the distortion is missing
@answer(what_it_takes.ivae_loss)
def ivae_loss(x, prediction, mean, log_var, prior_mean, prior_log_var, noise_variance):
    constant = math.log(2 * math.pi * noise_variance)
    distortion = ((x - prediction) ** 2 / noise_variance + constant).sum(1)
    kl = what_it_takes.gaussian_kl_between(mean, log_var, prior_mean, prior_log_var).sum(1)
    return (distortion + kl).mean()


# %% average_shared: by a mask as an index
# says: mask|index
@answer(what_it_takes.average_shared)
def average_shared(mean, log_var, other_mean, other_log_var):
    kl = what_it_takes.gaussian_kl_between(mean, log_var, other_mean, other_log_var)
    shared = kl < 0.5 * (kl.amax(1, keepdim=True) + kl.amin(1, keepdim=True))
    m, v = (mean + other_mean) / 2, torch.logaddexp(log_var, other_log_var) - math.log(2)
    result = [t.clone() for t in (mean, log_var, other_mean, other_log_var)]
    for t, both in zip(result, (m, v, m, v), strict=True):
        t[shared] = both[shared]
    return tuple(result)


# %% average_shared: a loop over the pairs
# says: operations|loop|host
@answer(what_it_takes.average_shared)
def average_shared(mean, log_var, other_mean, other_log_var):
    rows = []
    for m, v, n, w in zip(mean, log_var, other_mean, other_log_var, strict=True):
        kl = what_it_takes.gaussian_kl_between(m[None], v[None], n[None], w[None])[0]
        shared = kl < (kl.max() + kl.min()) / 2
        a, b = (m + n) / 2, torch.logaddexp(v, w) - math.log(2)
        rows.append(
            torch.stack([m.where(~shared, a), v.where(~shared, b), n.where(~shared, a), w.where(~shared, b)])
        )
    return tuple(torch.stack(rows, dim=1))


# %% average_shared: the latent that differs most alone is kept
@answer(what_it_takes.average_shared)
def average_shared(mean, log_var, other_mean, other_log_var):
    kl = what_it_takes.gaussian_kl_between(mean, log_var, other_mean, other_log_var)
    shared = kl < kl.amax(1, keepdim=True)
    m, v = (mean + other_mean) / 2, torch.logaddexp(log_var, other_log_var) - math.log(2)
    own = (mean, log_var, other_mean, other_log_var)
    return tuple(t.where(~shared, both) for t, both in zip(own, (m, v, m, v), strict=True))


# %% average_shared: the order of the results
@answer(what_it_takes.average_shared)
def average_shared(mean, log_var, other_mean, other_log_var):
    kl = what_it_takes.gaussian_kl_between(mean, log_var, other_mean, other_log_var)
    shared = kl < 0.5 * (kl.amax(1, keepdim=True) + kl.amin(1, keepdim=True))
    m, v = (mean + other_mean) / 2, torch.logaddexp(log_var, other_log_var) - math.log(2)
    means = [t.where(~shared, m) for t in (mean, other_mean)]
    return (*means, *[t.where(~shared, v) for t in (log_var, other_log_var)])


# %% average_shared: a product of Gaussians
@answer(what_it_takes.average_shared)
def average_shared(mean, log_var, other_mean, other_log_var):
    kl = what_it_takes.gaussian_kl_between(mean, log_var, other_mean, other_log_var)
    shared = kl < 0.5 * (kl.amax(1, keepdim=True) + kl.amin(1, keepdim=True))
    a, b = (-log_var).exp(), (-other_log_var).exp()
    m, v = (a * mean + b * other_mean) / (a + b), -(a + b).log()
    own = (mean, log_var, other_mean, other_log_var)
    return tuple(t.where(~shared, both) for t, both in zip(own, (m, v, m, v), strict=True))


# %% pair_loss: fresh noise
@answer(what_it_takes.pair_loss)
def pair_loss(vae, x, y, noise, beta):
    m, v, n, w = what_it_takes.average_shared(*vae.encode(x), *vae.encode(y))
    loss = beta_vae.beta_vae_loss(x, vae.decode(m + (v / 2).exp() * torch.randn_like(m)), m, v, beta)
    return loss + beta_vae.beta_vae_loss(y, vae.decode(n + (w / 2).exp() * torch.randn_like(n)), n, w, beta)


# %% pair_loss: one loss for all pixels of both, averaged
@answer(what_it_takes.pair_loss)
def pair_loss(vae, x, y, noise, beta):
    m, v, n, w = what_it_takes.average_shared(*vae.encode(x), *vae.encode(y))
    z = elbo.reparameterise(torch.cat([m, n]), torch.cat([v, w]), noise.flatten(0, 1))
    return beta_vae.beta_vae_loss(
        torch.cat([x, y]), vae.decode(z), torch.cat([m, n]), torch.cat([v, w]), beta
    )


# %% pair_loss: the posteriors' means as logits
@answer(what_it_takes.pair_loss)
def pair_loss(vae, x, y, noise, beta):
    m, v, n, w = what_it_takes.average_shared(*vae.encode(x), *vae.encode(y))
    loss = beta_vae.beta_vae_loss(x, vae.decode(m), m, v, beta)
    return loss + beta_vae.beta_vae_loss(y, vae.decode(elbo.reparameterise(n, w, noise[1])), n, w, beta)


# %% pair_loss: noise exchanged
@answer(what_it_takes.pair_loss)
def pair_loss(vae, x, y, noise, beta):
    m, v, n, w = what_it_takes.average_shared(*vae.encode(x), *vae.encode(y))
    x_loss = beta_vae.beta_vae_loss(x, vae.decode(elbo.reparameterise(m, v, noise[1])), m, v, beta)
    return x_loss + beta_vae.beta_vae_loss(y, vae.decode(elbo.reparameterise(n, w, noise[0])), n, w, beta)


# %% pair_loss: a list of two
@answer(what_it_takes.pair_loss)
def pair_loss(vae, x, y, noise, beta):
    m, v, n, w = what_it_takes.average_shared(*vae.encode(x), *vae.encode(y))
    x_loss = beta_vae.beta_vae_loss(x, vae.decode(elbo.reparameterise(m, v, noise[0])), m, v, beta)
    return [x_loss, beta_vae.beta_vae_loss(y, vae.decode(elbo.reparameterise(n, w, noise[1])), n, w, beta)]


# %% erase: a solve that the host checks
# says: solve_ex
@answer(what_it_takes.erase)
def erase(x, attributes):
    xc, ac = x - x.mean(0), attributes - attributes.mean(0)
    S, C = xc.T @ xc / len(x), xc.T @ ac / len(x)
    R = torch.linalg.solve(S, C)
    return x - xc @ R @ torch.linalg.solve(C.T @ R, C.T)


# %% erase: the points as they are
@answer(what_it_takes.erase)
def erase(x, attributes):
    return x


# %% erase: one attribute after the other
@answer(what_it_takes.erase)
def erase(x, attributes):
    mean = x.mean(0)
    for k in range(attributes.shape[1]):
        xc, a = x - mean, attributes[:, k : k + 1] - attributes[:, k].mean()
        C = xc.T @ a / len(x)
        x = x - xc @ C @ C.T / (C.T @ C)
    return x


# %% erase: all features that correlate are set to their mean
@answer(what_it_takes.erase)
def erase(x, attributes):
    return x.mean(0).expand_as(x).clone()


# %% erase: half of it
@answer(what_it_takes.erase)
def erase(x, attributes):
    xc, ac = x - x.mean(0), attributes - attributes.mean(0)
    S, C = xc.T @ xc / len(x), xc.T @ ac / len(x)
    R = torch.linalg.solve_ex(S, C)[0]
    return x - 0.5 * xc @ R @ torch.linalg.solve_ex(C.T @ R, C.T)[0]
