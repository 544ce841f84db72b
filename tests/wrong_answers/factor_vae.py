"""Wrong answers to lesson 04, cell by cell, beyond the mistakes that the solutions name."""

# %% the notebook's first cell
import torch
import torch.nn.functional as F

from course_lib import answer
from course_lib.lessons import elbo, factor_vae


# %% permute_dims: a loop over the latents
# says: loop
@answer(factor_vae.permute_dims)
def permute_dims(z, generator):
    columns = []
    for column in z.unbind(1):
        order = torch.randperm(len(z), generator=generator, device=generator.device).to(z.device)
        columns.append(column[order])
    return torch.stack(columns, dim=1)


# %% permute_dims: the global generator
# says: generator
@answer(factor_vae.permute_dims)
def permute_dims(z, generator):
    return z.gather(0, torch.rand(z.shape, device=z.device).argsort(0))


# %% permute_dims: NumPy's global generator
# says: generator|NumPy|CPU
@answer(factor_vae.permute_dims)
def permute_dims(z, generator):
    import numpy as np

    keys = torch.as_tensor(np.random.rand(*z.shape), device=z.device)
    return z.gather(0, keys.argsort(0))


# %% permute_dims: every latent rolled by another distance
# not: seeded
@answer(factor_vae.permute_dims)
def permute_dims(z, generator):
    return torch.stack([column.roll(j + 1) for j, column in enumerate(z.unbind(1))], dim=1)


# %% permute_dims: every latent rolled by a random distance
# not: seeded
@answer(factor_vae.permute_dims)
def permute_dims(z, generator):
    B, D = z.shape
    shift = torch.randint(B, (D,), generator=generator, device=generator.device).to(z.device)
    rows = (torch.arange(B, device=z.device)[:, None] + shift) % B
    return z.gather(0, rows)


# %% permute_dims: with replacement
@answer(factor_vae.permute_dims)
def permute_dims(z, generator):
    rows = torch.randint(len(z), z.shape, generator=generator, device=generator.device).to(z.device)
    return z.gather(0, rows)


# %% permute_dims: the columns exchanged, not the rows
@answer(factor_vae.permute_dims)
def permute_dims(z, generator):
    order = torch.randperm(z.shape[1], generator=generator, device=generator.device).to(z.device)
    return z[:, order]


# %% permute_dims: sorted
# not: seeded
@answer(factor_vae.permute_dims)
def permute_dims(z, generator):
    return z.sort(0).values


# %% permute_dims: the generator is put back to its seed
# says: seed|generator
@answer(factor_vae.permute_dims)
def permute_dims(z, generator):
    generator.manual_seed(0)
    order = torch.rand(z.shape, generator=generator, device=generator.device).to(z.device).argsort(0)
    return z.gather(0, order)


# %% permute_dims: the first half as it was
@answer(factor_vae.permute_dims)
def permute_dims(z, generator):
    half = len(z) // 2
    keys = torch.rand(z[half:].shape, generator=generator, device=generator.device).to(z.device)
    return torch.cat([z[:half], z[half:].gather(0, keys.argsort(0))])


# %% permute_dims: writes into z
# says: changes its input in place
@answer(factor_vae.permute_dims)
def permute_dims(z, generator):
    order = torch.rand(z.shape, generator=generator, device=generator.device).to(z.device).argsort(0)
    z.copy_(z.gather(0, order))
    return z


# %% permute_dims: keys from the global generator, rows from the given one
# says: generator
@answer(factor_vae.permute_dims)
def permute_dims(z, generator):
    first = torch.randperm(len(z), generator=generator, device=generator.device).to(z.device)
    return z[first].gather(0, torch.rand_like(z).argsort(0))


# %% total_correlation_from_logits: log D − 1 + D
@answer(factor_vae.total_correlation_from_logits)
def total_correlation_from_logits(logits):
    d = logits.sigmoid()
    return (F.logsigmoid(logits) - (1 - d)).mean()


# %% total_correlation_from_logits: logit of a clamped probability
@answer(factor_vae.total_correlation_from_logits)
def total_correlation_from_logits(logits):
    return torch.logit(logits.sigmoid(), eps=1e-6).mean()


# %% total_correlation_from_logits: not below 0
@answer(factor_vae.total_correlation_from_logits)
def total_correlation_from_logits(logits):
    return logits.mean().clamp(min=0)


# %% total_correlation_from_logits: D / (1 − D) without the logarithm
@answer(factor_vae.total_correlation_from_logits)
def total_correlation_from_logits(logits):
    return logits.exp().mean()


# %% total_correlation_from_logits: the logarithm of the mean ratio
@answer(factor_vae.total_correlation_from_logits)
def total_correlation_from_logits(logits):
    return logits.logsumexp(0) - torch.log(torch.ones_like(logits).sum())


# %% total_correlation_from_logits: one for each code
# says: scalar
@answer(factor_vae.total_correlation_from_logits)
def total_correlation_from_logits(logits):
    return logits


# %% total_correlation_from_logits: detached
# says: gradient
@answer(factor_vae.total_correlation_from_logits)
def total_correlation_from_logits(logits):
    return logits.detach().mean()


# %% total_correlation_from_logits: the median
@answer(factor_vae.total_correlation_from_logits)
def total_correlation_from_logits(logits):
    return logits.median()


# %% discriminator_loss: probabilities clamped
@answer(factor_vae.discriminator_loss)
def discriminator_loss(joint_logits, permuted_logits):
    joint = joint_logits.sigmoid().clamp(1e-6, 1 - 1e-6)
    permuted = permuted_logits.sigmoid().clamp(1e-6, 1 - 1e-6)
    return -0.5 * (joint.log().mean() + (1 - permuted).log().mean())


# %% discriminator_loss: a squared error (least squares GAN)
@answer(factor_vae.discriminator_loss)
def discriminator_loss(joint_logits, permuted_logits):
    return 0.5 * ((joint_logits - 1).square().mean() + permuted_logits.square().mean())


# %% discriminator_loss: hinge
@answer(factor_vae.discriminator_loss)
def discriminator_loss(joint_logits, permuted_logits):
    return 0.5 * ((1 - joint_logits).relu().mean() + (1 + permuted_logits).relu().mean())


# %% discriminator_loss: summed over the batch
@answer(factor_vae.discriminator_loss)
def discriminator_loss(joint_logits, permuted_logits):
    return 0.5 * (F.softplus(-joint_logits).sum() + F.softplus(permuted_logits).sum())


# %% discriminator_loss: added pair by pair
# says: raised|size
@answer(factor_vae.discriminator_loss)
def discriminator_loss(joint_logits, permuted_logits):
    return 0.5 * (F.softplus(-joint_logits) + F.softplus(permuted_logits)).mean()


# %% discriminator_loss: the permuted half detached
# says: gradient
@answer(factor_vae.discriminator_loss)
def discriminator_loss(joint_logits, permuted_logits):
    return 0.5 * (F.softplus(-joint_logits).mean() + F.softplus(permuted_logits.detach()).mean())


# %% discriminator_loss: a small number inside the logarithm
@answer(factor_vae.discriminator_loss)
def discriminator_loss(joint_logits, permuted_logits):
    joint, permuted = joint_logits.sigmoid(), permuted_logits.sigmoid()
    return -0.5 * ((joint + 1e-8).log().mean() + (1 - permuted + 1e-8).log().mean())


# %% factor_vae_loss: γ − 1
# says: γ|gamma
@answer(factor_vae.factor_vae_loss)
def factor_vae_loss(x, logits, mean, log_var, z_logits, gamma):
    return -elbo.elbo(x, logits, mean, log_var) + (gamma - 1) * z_logits.mean()


# %% factor_vae_loss: γ on everything
@answer(factor_vae.factor_vae_loss)
def factor_vae_loss(x, logits, mean, log_var, z_logits, gamma):
    return gamma * (z_logits.mean() - elbo.elbo(x, logits, mean, log_var))


# %% factor_vae_loss: γ on the likelihood
@answer(factor_vae.factor_vae_loss)
def factor_vae_loss(x, logits, mean, log_var, z_logits, gamma):
    kl = elbo.gaussian_kl(mean, log_var).mean()
    return kl - gamma * elbo.bernoulli_log_likelihood(x, logits).mean() + z_logits.mean()


# %% factor_vae_loss: the total correlation summed over the batch
@answer(factor_vae.factor_vae_loss)
def factor_vae_loss(x, logits, mean, log_var, z_logits, gamma):
    return -elbo.elbo(x, logits, mean, log_var) + gamma * z_logits.sum()


# %% factor_vae_loss: without the batch's mean
# says: scalar
@answer(factor_vae.factor_vae_loss)
def factor_vae_loss(x, logits, mean, log_var, z_logits, gamma):
    return -elbo.elbo(x, logits, mean, log_var) + gamma * z_logits


# %% factor_vae_loss: the pixels averaged
@answer(factor_vae.factor_vae_loss)
def factor_vae_loss(x, logits, mean, log_var, z_logits, gamma):
    reconstruction = F.binary_cross_entropy_with_logits(logits, x)
    return reconstruction + elbo.gaussian_kl(mean, log_var).mean() + gamma * z_logits.mean()


# %% factor_vae_loss: probability in place of the logit
@answer(factor_vae.factor_vae_loss)
def factor_vae_loss(x, logits, mean, log_var, z_logits, gamma):
    return -elbo.elbo(x, logits, mean, log_var) + gamma * F.logsigmoid(z_logits).mean()


# %% factor_vae_step: the reports are not detached
# says: detach
@answer(factor_vae.factor_vae_step)
def factor_vae_step(players, x, noise, gamma, permute):
    vae, discriminator, vae_optimiser, discriminator_optimiser = players
    mean, log_var = vae.encode(x)
    z = elbo.reparameterise(mean, log_var, noise)
    z_logits = discriminator(z)
    loss = factor_vae.factor_vae_loss(x, vae.decode(z), mean, log_var, z_logits, gamma)
    vae_optimiser.zero_grad()
    loss.backward(inputs=list(vae.parameters()))
    vae_optimiser.step()
    vae_optimiser.zero_grad()
    joint, other = z.detach().chunk(2)
    d_loss = factor_vae.discriminator_loss(discriminator(joint), discriminator(permute(other)))
    discriminator_optimiser.zero_grad()
    d_loss.backward()
    discriminator_optimiser.step()
    tc = factor_vae.total_correlation_from_logits(z_logits)
    return {"loss": loss, "total correlation": tc, "discriminator loss": d_loss}


# %% factor_vae_step: z not detached
# says: detach
@answer(factor_vae.factor_vae_step)
def factor_vae_step(players, x, noise, gamma, permute):
    vae, discriminator, vae_optimiser, discriminator_optimiser = players
    mean, log_var = vae.encode(x)
    z = elbo.reparameterise(mean, log_var, noise)
    z_logits = discriminator(z)
    loss = factor_vae.factor_vae_loss(x, vae.decode(z), mean, log_var, z_logits, gamma)
    vae_optimiser.zero_grad()
    loss.backward(retain_graph=True)
    vae_optimiser.step()
    vae_optimiser.zero_grad()
    joint, other = z.chunk(2)
    discriminator_optimiser.zero_grad()
    d_loss = factor_vae.discriminator_loss(discriminator(joint), discriminator(permute(other)))
    d_loss.backward()
    discriminator_optimiser.step()
    tc = z_logits.mean().detach()
    return {"loss": loss.detach(), "total correlation": tc, "discriminator loss": d_loss.detach()}


# %% factor_vae_step: z not detached, the graph not kept
# says: detach
@answer(factor_vae.factor_vae_step)
def factor_vae_step(players, x, noise, gamma, permute):
    vae, discriminator, vae_optimiser, discriminator_optimiser = players
    mean, log_var = vae.encode(x)
    z = elbo.reparameterise(mean, log_var, noise)
    z_logits = discriminator(z)
    loss = factor_vae.factor_vae_loss(x, vae.decode(z), mean, log_var, z_logits, gamma)
    vae_optimiser.zero_grad()
    loss.backward()
    vae_optimiser.step()
    vae_optimiser.zero_grad()
    joint, other = z.chunk(2)
    discriminator_optimiser.zero_grad()
    d_loss = factor_vae.discriminator_loss(discriminator(joint), discriminator(permute(other)))
    d_loss.backward()
    discriminator_optimiser.step()
    tc = z_logits.mean().detach()
    return {"loss": loss.detach(), "total correlation": tc, "discriminator loss": d_loss.detach()}


# %% factor_vae_step: codes encoded anew by the updated VAE
# says: same|anew|again|before the update|updated
@answer(factor_vae.factor_vae_step)
def factor_vae_step(players, x, noise, gamma, permute):
    vae, discriminator, vae_optimiser, discriminator_optimiser = players
    mean, log_var = vae.encode(x)
    z = elbo.reparameterise(mean, log_var, noise)
    z_logits = discriminator(z)
    loss = factor_vae.factor_vae_loss(x, vae.decode(z), mean, log_var, z_logits, gamma)
    vae_optimiser.zero_grad()
    loss.backward(inputs=list(vae.parameters()))
    vae_optimiser.step()
    vae_optimiser.zero_grad()
    with torch.no_grad():
        codes = elbo.reparameterise(*vae.encode(x), noise)
    joint, other = codes.chunk(2)
    d_loss = factor_vae.discriminator_loss(discriminator(joint), discriminator(permute(other)))
    discriminator_optimiser.zero_grad()
    d_loss.backward()
    discriminator_optimiser.step()
    tc = z_logits.mean().detach()
    return {"loss": loss.detach(), "total correlation": tc, "discriminator loss": d_loss.detach()}


# %% factor_vae_step: the discriminator first
# says: first|order
@answer(factor_vae.factor_vae_step)
def factor_vae_step(players, x, noise, gamma, permute):
    vae, discriminator, vae_optimiser, discriminator_optimiser = players
    mean, log_var = vae.encode(x)
    z = elbo.reparameterise(mean, log_var, noise)
    joint, other = z.detach().chunk(2)
    d_loss = factor_vae.discriminator_loss(discriminator(joint), discriminator(permute(other)))
    discriminator_optimiser.zero_grad()
    d_loss.backward()
    discriminator_optimiser.step()
    z_logits = discriminator(z)
    loss = factor_vae.factor_vae_loss(x, vae.decode(z), mean, log_var, z_logits, gamma)
    vae_optimiser.zero_grad()
    loss.backward(inputs=list(vae.parameters()))
    vae_optimiser.step()
    vae_optimiser.zero_grad()
    tc = z_logits.mean().detach()
    return {"loss": loss.detach(), "total correlation": tc, "discriminator loss": d_loss.detach()}


# %% factor_vae_step: the discriminator is never updated
# says: discriminator
@answer(factor_vae.factor_vae_step)
def factor_vae_step(players, x, noise, gamma, permute):
    vae, discriminator, vae_optimiser, discriminator_optimiser = players
    mean, log_var = vae.encode(x)
    z = elbo.reparameterise(mean, log_var, noise)
    z_logits = discriminator(z)
    loss = factor_vae.factor_vae_loss(x, vae.decode(z), mean, log_var, z_logits, gamma)
    vae_optimiser.zero_grad()
    loss.backward(inputs=list(vae.parameters()))
    vae_optimiser.step()
    vae_optimiser.zero_grad()
    joint, other = z.detach().chunk(2)
    d_loss = factor_vae.discriminator_loss(discriminator(joint), discriminator(permute(other)))
    tc = z_logits.mean().detach()
    return {"loss": loss.detach(), "total correlation": tc, "discriminator loss": d_loss.detach()}


# %% factor_vae_step: a report is missing
# says: total correlation
@answer(factor_vae.factor_vae_step)
def factor_vae_step(players, x, noise, gamma, permute):
    vae, discriminator, vae_optimiser, discriminator_optimiser = players
    mean, log_var = vae.encode(x)
    z = elbo.reparameterise(mean, log_var, noise)
    z_logits = discriminator(z)
    loss = factor_vae.factor_vae_loss(x, vae.decode(z), mean, log_var, z_logits, gamma)
    vae_optimiser.zero_grad()
    loss.backward(inputs=list(vae.parameters()))
    vae_optimiser.step()
    vae_optimiser.zero_grad()
    joint, other = z.detach().chunk(2)
    d_loss = factor_vae.discriminator_loss(discriminator(joint), discriminator(permute(other)))
    discriminator_optimiser.zero_grad()
    d_loss.backward()
    discriminator_optimiser.step()
    return {"loss": loss.detach(), "discriminator loss": d_loss.detach()}


# %% factor_vae_step: Python numbers reported
# says: host|float|\.item
@answer(factor_vae.factor_vae_step)
def factor_vae_step(players, x, noise, gamma, permute):
    vae, discriminator, vae_optimiser, discriminator_optimiser = players
    mean, log_var = vae.encode(x)
    z = elbo.reparameterise(mean, log_var, noise)
    z_logits = discriminator(z)
    loss = factor_vae.factor_vae_loss(x, vae.decode(z), mean, log_var, z_logits, gamma)
    vae_optimiser.zero_grad()
    loss.backward(inputs=list(vae.parameters()))
    vae_optimiser.step()
    vae_optimiser.zero_grad()
    joint, other = z.detach().chunk(2)
    d_loss = factor_vae.discriminator_loss(discriminator(joint), discriminator(permute(other)))
    discriminator_optimiser.zero_grad()
    d_loss.backward()
    discriminator_optimiser.step()
    tc = z_logits.mean()
    return {"loss": loss.item(), "total correlation": tc.item(), "discriminator loss": d_loss.item()}


# %% factor_vae_step: nothing returned
# says: return
@answer(factor_vae.factor_vae_step)
def factor_vae_step(players, x, noise, gamma, permute):
    vae, discriminator, vae_optimiser, discriminator_optimiser = players
    mean, log_var = vae.encode(x)
    z = elbo.reparameterise(mean, log_var, noise)
    loss = factor_vae.factor_vae_loss(x, vae.decode(z), mean, log_var, discriminator(z), gamma)
    vae_optimiser.zero_grad()
    loss.backward(inputs=list(vae.parameters()))
    vae_optimiser.step()
    vae_optimiser.zero_grad()
    joint, other = z.detach().chunk(2)
    d_loss = factor_vae.discriminator_loss(discriminator(joint), discriminator(permute(other)))
    discriminator_optimiser.zero_grad()
    d_loss.backward()
    discriminator_optimiser.step()


# %% factor_vae_step: one sum of both losses, one backward pass
# says: value|weights|discriminator
@answer(factor_vae.factor_vae_step)
def factor_vae_step(players, x, noise, gamma, permute):
    vae, discriminator, vae_optimiser, discriminator_optimiser = players
    mean, log_var = vae.encode(x)
    z = elbo.reparameterise(mean, log_var, noise)
    z_logits = discriminator(z)
    loss = factor_vae.factor_vae_loss(x, vae.decode(z), mean, log_var, z_logits, gamma)
    joint, other = z.detach().chunk(2)
    d_loss = factor_vae.discriminator_loss(discriminator(joint), discriminator(permute(other)))
    vae_optimiser.zero_grad()
    discriminator_optimiser.zero_grad()
    (loss + d_loss).backward()
    vae_optimiser.step()
    vae_optimiser.zero_grad()
    discriminator_optimiser.step()
    tc = z_logits.mean().detach()
    return {"loss": loss.detach(), "total correlation": tc, "discriminator loss": d_loss.detach()}


# %% factor_vae_step: halves exchanged
@answer(factor_vae.factor_vae_step)
def factor_vae_step(players, x, noise, gamma, permute):
    vae, discriminator, vae_optimiser, discriminator_optimiser = players
    mean, log_var = vae.encode(x)
    z = elbo.reparameterise(mean, log_var, noise)
    z_logits = discriminator(z)
    loss = factor_vae.factor_vae_loss(x, vae.decode(z), mean, log_var, z_logits, gamma)
    vae_optimiser.zero_grad()
    loss.backward(inputs=list(vae.parameters()))
    vae_optimiser.step()
    vae_optimiser.zero_grad()
    joint, other = z.detach().chunk(2)
    d_loss = factor_vae.discriminator_loss(discriminator(permute(joint)), discriminator(other))
    discriminator_optimiser.zero_grad()
    d_loss.backward()
    discriminator_optimiser.step()
    tc = z_logits.mean().detach()
    return {"loss": loss.detach(), "total correlation": tc, "discriminator loss": d_loss.detach()}


# %% factor_vae_step: the report of the total correlation after the update
# says: before|update|total correlation
@answer(factor_vae.factor_vae_step)
def factor_vae_step(players, x, noise, gamma, permute):
    vae, discriminator, vae_optimiser, discriminator_optimiser = players
    mean, log_var = vae.encode(x)
    z = elbo.reparameterise(mean, log_var, noise)
    loss = factor_vae.factor_vae_loss(x, vae.decode(z), mean, log_var, discriminator(z), gamma)
    vae_optimiser.zero_grad()
    loss.backward(inputs=list(vae.parameters()))
    vae_optimiser.step()
    vae_optimiser.zero_grad()
    joint, other = z.detach().chunk(2)
    d_loss = factor_vae.discriminator_loss(discriminator(joint), discriminator(permute(other)))
    discriminator_optimiser.zero_grad()
    d_loss.backward()
    discriminator_optimiser.step()
    tc = discriminator(z.detach()).mean().detach()
    return {"loss": loss.detach(), "total correlation": tc, "discriminator loss": d_loss.detach()}


# %% factor_vae_score: the threshold hard-coded
# says: threshold
@answer(factor_vae.factor_vae_score)
def factor_vae_score(codes, factors, global_variance, n_factors, threshold=0.05):
    alive = global_variance >= 0.05
    best = torch.where(alive, codes.var(1) / global_variance, torch.inf).argmin(1)
    table = torch.zeros(len(alive) * n_factors, device=codes.device)
    table = table.index_add(0, best * n_factors + factors, torch.ones_like(best, dtype=table.dtype))
    return table.view(-1, n_factors).amax(1).sum() / len(codes) * alive.any()


# %% factor_vae_score: above the threshold, not at it
# says: threshold
@answer(factor_vae.factor_vae_score)
def factor_vae_score(codes, factors, global_variance, n_factors, threshold=0.05):
    alive = global_variance > threshold
    best = torch.where(alive, codes.var(1) / global_variance, torch.inf).argmin(1)
    table = torch.zeros(len(alive) * n_factors, device=codes.device)
    table = table.index_add(0, best * n_factors + factors, torch.ones_like(best, dtype=table.dtype))
    return table.view(-1, n_factors).amax(1).sum() / len(codes) * alive.any()


# %% factor_vae_score: the threshold for a standard deviation
# says: threshold|variance
@answer(factor_vae.factor_vae_score)
def factor_vae_score(codes, factors, global_variance, n_factors, threshold=0.05):
    alive = global_variance.sqrt() >= threshold
    best = torch.where(alive, codes.var(1) / global_variance, torch.inf).argmin(1)
    table = torch.zeros(len(alive) * n_factors, device=codes.device)
    table = table.index_add(0, best * n_factors + factors, torch.ones_like(best, dtype=table.dtype))
    return table.view(-1, n_factors).amax(1).sum() / len(codes) * alive.any()


# %% factor_vae_score: dead columns dropped by a mask
# says: boolean mask|size|host
@answer(factor_vae.factor_vae_score)
def factor_vae_score(codes, factors, global_variance, n_factors, threshold=0.05):
    alive = global_variance >= threshold
    if not alive.any():
        return torch.zeros((), device=codes.device)
    best = (codes[:, :, alive].var(1) / global_variance[alive]).argmin(1)
    table = torch.zeros(len(alive) * n_factors, device=codes.device)
    table = table.index_add(0, best * n_factors + factors, torch.ones_like(best, dtype=table.dtype))
    return table.view(-1, n_factors).amax(1).sum() / len(codes)


# %% factor_vae_score: one latent for each factor at most
@answer(factor_vae.factor_vae_score)
def factor_vae_score(codes, factors, global_variance, n_factors, threshold=0.05):
    alive = global_variance >= threshold
    best = torch.where(alive, codes.var(1) / global_variance, torch.inf).argmin(1)
    table = torch.zeros(len(alive) * n_factors, device=codes.device)
    table = table.index_add(0, best * n_factors + factors, torch.ones_like(best, dtype=table.dtype))
    table = table.view(-1, n_factors)
    favourite = F.one_hot(table.argmax(1), n_factors) * table
    return favourite.amax(0).sum() / len(codes) * alive.any()


# %% factor_vae_score: the latent's number taken for the factor
@answer(factor_vae.factor_vae_score)
def factor_vae_score(codes, factors, global_variance, n_factors, threshold=0.05):
    alive = global_variance >= threshold
    best = torch.where(alive, codes.var(1) / global_variance, torch.inf).argmin(1)
    return (best == factors).float().mean() * alive.any()


# %% factor_vae_score: an accuracy for each latent, averaged
@answer(factor_vae.factor_vae_score)
def factor_vae_score(codes, factors, global_variance, n_factors, threshold=0.05):
    alive = global_variance >= threshold
    best = torch.where(alive, codes.var(1) / global_variance, torch.inf).argmin(1)
    table = torch.zeros(len(alive) * n_factors, device=codes.device)
    table = table.index_add(0, best * n_factors + factors, torch.ones_like(best, dtype=table.dtype))
    table = table.view(-1, n_factors)
    return (table.amax(1) / table.sum(1).clamp(min=1)).sum() / alive.sum().clamp(min=1)


# %% factor_vae_score: the variance over the votes
@answer(factor_vae.factor_vae_score)
def factor_vae_score(codes, factors, global_variance, n_factors, threshold=0.05):
    alive = global_variance >= threshold
    best = torch.where(alive, codes.var(0) / global_variance, torch.inf).argmin(1)
    best = best.repeat(len(codes))[: len(codes)]
    table = torch.zeros(len(alive) * n_factors, device=codes.device)
    table = table.index_add(0, best * n_factors + factors, torch.ones_like(best, dtype=table.dtype))
    return table.view(-1, n_factors).amax(1).sum() / len(codes) * alive.any()


# %% factor_vae_score: a loop over the votes
# says: loop
@answer(factor_vae.factor_vae_score)
def factor_vae_score(codes, factors, global_variance, n_factors, threshold=0.05):
    alive = global_variance >= threshold
    table = torch.zeros(len(alive), n_factors, device=codes.device)
    for group, factor in zip(codes, factors, strict=True):
        best = torch.where(alive, group.var(0) / global_variance, torch.inf).argmin()
        table = table.index_put((best, factor), torch.ones((), device=codes.device), accumulate=True)
    return table.amax(1).sum() / len(codes) * alive.any()


# %% factor_vae_score: bincount
# says: bincount
@answer(factor_vae.factor_vae_score)
def factor_vae_score(codes, factors, global_variance, n_factors, threshold=0.05):
    alive = global_variance >= threshold
    best = torch.where(alive, codes.var(1) / global_variance, torch.inf).argmin(1)
    table = torch.bincount(best * n_factors + factors, minlength=len(alive) * n_factors)
    return table.view(-1, n_factors).amax(1).sum() / len(codes) * alive.any()


# %% permute_dims: a shuffle of each half with itself
@answer(factor_vae.permute_dims)
def permute_dims(z, generator):
    parts = []
    for part in z.chunk(2):
        keys = torch.rand(part.shape, generator=generator, device=generator.device).to(z.device)
        parts.append(part.gather(0, keys.argsort(0)))
    return torch.cat(parts)


# %% factor_vae_step: a report that is larger by the batch
# says: loss
@answer(factor_vae.factor_vae_step)
def factor_vae_step(players, x, noise, gamma, permute):
    vae, discriminator, vae_optimiser, discriminator_optimiser = players
    mean, log_var = vae.encode(x)
    z = elbo.reparameterise(mean, log_var, noise)
    z_logits = discriminator(z)
    loss = factor_vae.factor_vae_loss(x, vae.decode(z), mean, log_var, z_logits, gamma)
    vae_optimiser.zero_grad()
    loss.backward(inputs=list(vae.parameters()))
    vae_optimiser.step()
    vae_optimiser.zero_grad()
    joint, other = z.detach().chunk(2)
    d_loss = factor_vae.discriminator_loss(discriminator(joint), discriminator(permute(other)))
    discriminator_optimiser.zero_grad()
    d_loss.backward()
    discriminator_optimiser.step()
    tc = z_logits.mean().detach()
    report = {"loss": len(x) * loss.detach(), "total correlation": tc}
    return report | {"discriminator loss": d_loss.detach()}


# %% factor_vae_step: two updates of the discriminator
# says: discriminator
@answer(factor_vae.factor_vae_step)
def factor_vae_step(players, x, noise, gamma, permute):
    vae, discriminator, vae_optimiser, discriminator_optimiser = players
    mean, log_var = vae.encode(x)
    z = elbo.reparameterise(mean, log_var, noise)
    z_logits = discriminator(z)
    loss = factor_vae.factor_vae_loss(x, vae.decode(z), mean, log_var, z_logits, gamma)
    vae_optimiser.zero_grad()
    loss.backward(inputs=list(vae.parameters()))
    vae_optimiser.step()
    vae_optimiser.zero_grad()
    for _ in range(2):
        joint, other = z.detach().chunk(2)
        d_loss = factor_vae.discriminator_loss(discriminator(joint), discriminator(permute(other)))
        discriminator_optimiser.zero_grad()
        d_loss.backward()
        discriminator_optimiser.step()
    tc = z_logits.mean().detach()
    return {"loss": loss.detach(), "total correlation": tc, "discriminator loss": d_loss.detach()}
