"""Right answers to lesson 04, cell by cell."""

# %% the notebook's first cell
import torch
import torch.nn.functional as F

from course_lib import answer
from course_lib.lessons import elbo, factor_vae


# %% permute_dims: the hint, literally
@answer(factor_vae.permute_dims)
def permute_dims(z, generator):
    order = torch.rand(z.shape, generator=generator, device=generator.device).to(z.device).argsort(0)
    return z.gather(0, order)


# %% permute_dims: normal numbers, sorted
@answer(factor_vae.permute_dims)
def permute_dims(z, generator):
    keys = torch.randn(*z.shape, generator=generator, device=generator.device)
    _, order = keys.sort(dim=0)
    return torch.take_along_dim(z, order.to(z.device), dim=0)


# %% permute_dims: by index, rows and columns
@answer(factor_vae.permute_dims)
def permute_dims(z, generator):
    B, D = z.shape
    order = torch.rand(B, D, generator=generator, device=generator.device).argsort(dim=0).to(z.device)
    return z[order, torch.arange(D, device=z.device)]


# %% permute_dims: transposed
@answer(factor_vae.permute_dims)
def permute_dims(z, generator):
    keys = torch.rand(z.shape[1], z.shape[0], generator=generator, device=generator.device).to(z.device)
    return torch.gather(z.T, 1, keys.argsort(1)).T


# %% permute_dims: one sort of all keys, column by column
@answer(factor_vae.permute_dims)
def permute_dims(z, generator):
    B, D = z.shape
    noise = torch.rand(D, B, generator=generator, device=generator.device, dtype=torch.float64)
    keys = noise.to(z.device) + torch.arange(D, device=z.device)[:, None]
    return z.T.flatten()[keys.flatten().argsort()].view(D, B).T


# %% permute_dims: values put to random places
@answer(factor_vae.permute_dims)
def permute_dims(z, generator):
    keys = torch.rand(z.shape, generator=generator, device=generator.device).to(z.device)
    return torch.empty_like(z).scatter(0, keys.argsort(dim=0), z)


# %% permute_dims: random numbers drawn into a tensor
@answer(factor_vae.permute_dims)
def permute_dims(z, generator):
    keys = torch.empty(z.shape, device=generator.device).uniform_(generator=generator)
    return z.gather(0, keys.to(z.device).argsort(0))


# %% total_correlation_from_logits: the mean
@answer(factor_vae.total_correlation_from_logits)
def total_correlation_from_logits(logits):
    return logits.mean()


# %% total_correlation_from_logits: two log sigmoids
@answer(factor_vae.total_correlation_from_logits)
def total_correlation_from_logits(logits):
    return (F.logsigmoid(logits) - F.logsigmoid(-logits)).mean()


# %% total_correlation_from_logits: the sum over the batch size
@answer(factor_vae.total_correlation_from_logits)
def total_correlation_from_logits(logits):
    return logits.sum() / len(logits)


# %% total_correlation_from_logits: two softplus
@answer(factor_vae.total_correlation_from_logits)
def total_correlation_from_logits(logits):
    return torch.mean(F.softplus(logits) - F.softplus(-logits))


# %% total_correlation_from_logits: a difference of two losses
@answer(factor_vae.total_correlation_from_logits)
def total_correlation_from_logits(logits):
    cost = F.binary_cross_entropy_with_logits
    return cost(logits, torch.zeros_like(logits)) - cost(logits, torch.ones_like(logits))


# %% discriminator_loss: softplus
@answer(factor_vae.discriminator_loss)
def discriminator_loss(joint_logits, permuted_logits):
    return 0.5 * (F.softplus(-joint_logits).mean() + F.softplus(permuted_logits).mean())


# %% discriminator_loss: binary cross-entropy with logits
@answer(factor_vae.discriminator_loss)
def discriminator_loss(joint_logits, permuted_logits):
    loss = F.binary_cross_entropy_with_logits
    joint = loss(joint_logits, torch.ones_like(joint_logits))
    return (joint + loss(permuted_logits, torch.zeros_like(permuted_logits))) / 2


# %% discriminator_loss: log sigmoid
@answer(factor_vae.discriminator_loss)
def discriminator_loss(joint_logits, permuted_logits):
    log_d, log_not_d = F.logsigmoid(joint_logits), F.logsigmoid(-permuted_logits)
    return -log_d.mean() / 2 - log_not_d.mean() / 2


# %% discriminator_loss: −log(1 − D) is the logit plus −log D
@answer(factor_vae.discriminator_loss)
def discriminator_loss(joint_logits, permuted_logits):
    joint = -F.logsigmoid(joint_logits)
    permuted = permuted_logits - F.logsigmoid(permuted_logits)
    return torch.stack([joint.mean(), permuted.mean()]).mean()


# %% discriminator_loss: weighted by one over the size of each half
@answer(factor_vae.discriminator_loss)
def discriminator_loss(joint_logits, permuted_logits):
    logits = torch.cat([joint_logits, permuted_logits])
    labels = torch.cat([torch.ones_like(joint_logits), torch.zeros_like(permuted_logits)])
    weight = torch.cat(
        [
            torch.full_like(joint_logits, 0.5 / len(joint_logits)),
            torch.full_like(permuted_logits, 0.5 / len(permuted_logits)),
        ]
    )
    return F.binary_cross_entropy_with_logits(logits, labels, weight=weight, reduction="sum")


# %% discriminator_loss: the critic's loss of lesson 01
from course_lib.lessons import mutual_information


@answer(factor_vae.discriminator_loss)
def discriminator_loss(joint_logits, permuted_logits):
    return mutual_information.critic_loss(joint_logits, permuted_logits)


# %% factor_vae_loss: the hint, literally
@answer(factor_vae.factor_vae_loss)
def factor_vae_loss(x, logits, mean, log_var, z_logits, gamma):
    tc = factor_vae.total_correlation_from_logits(z_logits)
    return -elbo.elbo(x, logits, mean, log_var) + gamma * tc


# %% factor_vae_loss: likelihood and KL one by one
@answer(factor_vae.factor_vae_loss)
def factor_vae_loss(x, logits, mean, log_var, z_logits, gamma):
    reconstruction = -elbo.bernoulli_log_likelihood(x, logits).mean()
    kl = elbo.gaussian_kl(mean, log_var).mean()
    return reconstruction + kl + gamma * factor_vae.total_correlation_from_logits(z_logits)


# %% factor_vae_loss: everything written out
@answer(factor_vae.factor_vae_loss)
def factor_vae_loss(x, logits, mean, log_var, z_logits, gamma):
    B = x.shape[0]
    loss = F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
    loss = loss + 0.5 * (mean**2 + log_var.exp() - log_var - 1).sum()
    return loss / B + gamma * z_logits.mean()


# %% factor_vae_loss: per image, one mean
@answer(factor_vae.factor_vae_loss)
def factor_vae_loss(x, logits, mean, log_var, z_logits, gamma):
    per_image = elbo.gaussian_kl(mean, log_var) - elbo.bernoulli_log_likelihood(x, logits)
    return (per_image + gamma * z_logits).mean()


# %% factor_vae_loss: the beta-VAE's loss at β = 1
from course_lib.lessons import beta_vae


@answer(factor_vae.factor_vae_loss)
def factor_vae_loss(x, logits, mean, log_var, z_logits, gamma):
    return torch.add(beta_vae.beta_vae_loss(x, logits, mean, log_var, 1.0), z_logits.mean(), alpha=gamma)


# %% factor_vae_step: the hint, literally
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
    return {
        "loss": loss.detach(),
        "total correlation": z_logits.mean().detach(),
        "discriminator loss": d_loss.detach(),
    }


# %% factor_vae_step: plain backward, then both cleared
@answer(factor_vae.factor_vae_step)
def factor_vae_step(players, x, noise, gamma, permute):
    mean, log_var = players.vae.encode(x)
    z = mean + torch.exp(0.5 * log_var) * noise
    z_logits = players.discriminator(z)
    tc = factor_vae.total_correlation_from_logits(z_logits)
    loss = factor_vae.factor_vae_loss(x, players.vae.decode(z), mean, log_var, z_logits, gamma)
    players.vae_optimiser.zero_grad()
    loss.backward()
    players.vae_optimiser.step()
    players.vae_optimiser.zero_grad()
    players.discriminator_optimiser.zero_grad()

    half = len(z) // 2
    first, second = z[:half].detach(), z[half:].detach()
    joint_logits = players.discriminator(first)
    permuted_logits = players.discriminator(permute(second))
    d_loss = factor_vae.discriminator_loss(joint_logits, permuted_logits)
    d_loss.backward()
    players.discriminator_optimiser.step()
    return {"loss": loss.detach(), "total correlation": tc.detach(), "discriminator loss": d_loss.detach()}


# %% factor_vae_step: the discriminator frozen in the VAE's turn
@answer(factor_vae.factor_vae_step)
def factor_vae_step(players, x, noise, gamma, permute):
    vae, discriminator, vae_optimiser, discriminator_optimiser = players
    discriminator.requires_grad_(False)
    mean, log_var = vae.encode(x)
    z = elbo.reparameterise(mean, log_var, noise)
    z_logits = discriminator(z)
    loss = factor_vae.factor_vae_loss(x, vae.decode(z), mean, log_var, z_logits, gamma)
    vae_optimiser.zero_grad(set_to_none=True)
    loss.backward()
    vae_optimiser.step()
    vae_optimiser.zero_grad(set_to_none=True)

    discriminator.requires_grad_(True)
    first, second = z.detach().chunk(2)
    d_loss = factor_vae.discriminator_loss(discriminator(first), discriminator(permute(second)))
    discriminator_optimiser.zero_grad()
    d_loss.backward()
    discriminator_optimiser.step()
    report = {"loss": loss, "total correlation": z_logits.mean(), "discriminator loss": d_loss}
    return {name: value.detach() for name, value in report.items()}


# %% factor_vae_step: both losses first, then both updates
@answer(factor_vae.factor_vae_step)
def factor_vae_step(players, x, noise, gamma, permute):
    vae, discriminator, vae_optimiser, discriminator_optimiser = players
    mean, log_var = vae.encode(x)
    z = elbo.reparameterise(mean, log_var, noise)
    z_logits = discriminator(z)
    loss = factor_vae.factor_vae_loss(x, vae.decode(z), mean, log_var, z_logits, gamma)
    codes = z.detach()
    joint, other = codes[: len(codes) // 2], codes[len(codes) // 2 :]
    d_loss = factor_vae.discriminator_loss(discriminator(joint), discriminator(permute(other)))

    vae_optimiser.zero_grad()
    loss.backward()
    vae_optimiser.step()
    vae.zero_grad()

    discriminator.zero_grad()
    d_loss.backward()
    discriminator_optimiser.step()
    tc = z_logits.mean()
    return {"loss": loss.detach(), "total correlation": tc.detach(), "discriminator loss": d_loss.detach()}


# %% factor_vae_step: gradients by torch.autograd.grad
@answer(factor_vae.factor_vae_step)
def factor_vae_step(players, x, noise, gamma, permute):
    def descend(loss, module, optimiser):
        weights = list(module.parameters())
        for weight, gradient in zip(weights, torch.autograd.grad(loss, weights), strict=True):
            weight.grad = gradient
        optimiser.step()
        optimiser.zero_grad()

    vae, discriminator, vae_optimiser, discriminator_optimiser = players
    mean, log_var = vae.encode(x)
    z = elbo.reparameterise(mean, log_var, noise)
    z_logits = discriminator(z)
    loss = factor_vae.factor_vae_loss(x, vae.decode(z), mean, log_var, z_logits, gamma)
    descend(loss, vae, vae_optimiser)
    joint, other = z.detach().chunk(2)
    d_loss = factor_vae.discriminator_loss(discriminator(joint), discriminator(permute(other)))
    descend(d_loss, discriminator, discriminator_optimiser)
    with torch.no_grad():
        tc = factor_vae.total_correlation_from_logits(z_logits)
    return {"loss": loss.detach(), "total correlation": tc, "discriminator loss": d_loss.detach()}


# %% factor_vae_step: the discriminator sees both halves in one batch
@answer(factor_vae.factor_vae_step)
def factor_vae_step(players, x, noise, gamma, permute):
    vae, discriminator = players.vae, players.discriminator
    mean, log_var = vae.encode(x)
    z = elbo.reparameterise(mean, log_var, noise)
    z_logits = discriminator(z)
    loss = factor_vae.factor_vae_loss(x, vae.decode(z), mean, log_var, z_logits, gamma)
    players.vae_optimiser.zero_grad()
    loss.backward()
    players.vae_optimiser.step()
    for p in vae.parameters():
        p.grad = None

    with torch.no_grad():
        half = len(z) // 2
        codes = torch.cat([z[:half], permute(z[half:])])
    joint_logits, permuted_logits = discriminator(codes).split(half)
    d_loss = factor_vae.discriminator_loss(joint_logits, permuted_logits)
    players.discriminator_optimiser.zero_grad()
    d_loss.backward()
    players.discriminator_optimiser.step()
    tc = z_logits.detach().mean()
    return {"loss": loss.detach(), "total correlation": tc, "discriminator loss": d_loss.detach()}


# %% factor_vae_step: each zero_grad right before its own backward
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

    joint, other = z.detach().chunk(2)
    d_loss = factor_vae.discriminator_loss(discriminator(joint), discriminator(permute(other)))
    discriminator_optimiser.zero_grad()
    d_loss.backward()
    discriminator_optimiser.step()
    tc = z_logits.mean()
    return {"loss": loss.detach(), "total correlation": tc.detach(), "discriminator loss": d_loss.detach()}


# %% factor_vae_score: the hint, literally
@answer(factor_vae.factor_vae_score)
def factor_vae_score(codes, factors, global_variance, n_factors, threshold=0.05):
    alive = global_variance >= threshold
    ratio = torch.where(alive, codes.var(1) / global_variance, torch.inf)
    best = ratio.argmin(1)
    D = len(global_variance)
    table = torch.zeros(D * n_factors, device=codes.device)
    table.index_add_(0, best * n_factors + factors, torch.ones(len(codes), device=codes.device))
    return table.view(D, n_factors).amax(1).sum() / len(codes) * alive.any()


# %% factor_vae_score: votes as a product of one-hot matrices
@answer(factor_vae.factor_vae_score)
def factor_vae_score(codes, factors, global_variance, n_factors, threshold=0.05):
    V, L, D = codes.shape
    variance = codes.var(dim=1) / global_variance
    dead = global_variance < threshold
    winner = variance.masked_fill(dead, float("inf")).min(dim=1).indices
    votes = F.one_hot(winner, D).float().T @ F.one_hot(factors, n_factors).float()
    score = votes.max(dim=1).values.sum() / V
    return torch.where(dead.all(), 0.0, score)


# %% factor_vae_score: index_put that accumulates
@answer(factor_vae.factor_vae_score)
def factor_vae_score(codes, factors, global_variance, n_factors, threshold=0.05):
    centred = codes - codes.mean(1, keepdim=True)
    variance = centred.square().sum(1) / (codes.shape[1] - 1)
    alive = global_variance >= threshold
    best = torch.where(alive, variance / global_variance, torch.finfo(codes.dtype).max).argmin(1)
    ones = torch.ones_like(factors, dtype=codes.dtype)
    table = codes.new_zeros(codes.shape[2], n_factors).index_put((best, factors), ones, accumulate=True)
    return table.amax(1).sum() / len(codes) * alive.any().float()


# %% factor_vae_score: how many votes agree with each vote's latent's favourite
@answer(factor_vae.factor_vae_score)
def factor_vae_score(codes, factors, global_variance, n_factors, threshold=0.05):
    alive = global_variance >= threshold
    safe = torch.where(alive, global_variance, 1.0)
    ratio = codes.std(1).square() / safe + torch.where(alive, 0.0, torch.inf)
    best = ratio.argmin(1)
    cells = best * n_factors + factors
    counts = torch.zeros(len(alive) * n_factors, dtype=torch.long, device=codes.device)
    counts = counts.scatter_add(0, cells, torch.ones_like(cells)).view(-1, n_factors)
    favourite = counts.argmax(1)
    return (favourite[best] == factors).float().mean() * alive.any()


# %% factor_vae_score: a dead latent's ratio is infinite by division
@answer(factor_vae.factor_vae_score)
def factor_vae_score(codes, factors, global_variance, n_factors, threshold=0.05):
    takes_part = (global_variance >= threshold).to(codes.dtype)
    precision = takes_part / global_variance.clamp(min=1e-12)
    ratio = (1 + codes.var(1) * precision) / takes_part
    winner = ratio.argmin(dim=1)
    votes = torch.zeros(codes.shape[2], n_factors, device=codes.device)
    votes = votes.index_add(0, winner, F.one_hot(factors, n_factors).to(votes.dtype))
    return votes.amax(dim=1).sum() / factors.numel() * takes_part.amax()


# %% total_correlation_from_logits: the ratio of two probabilities, in logarithms
@answer(factor_vae.total_correlation_from_logits)
def total_correlation_from_logits(logits):
    says = torch.distributions.Bernoulli(logits=logits, validate_args=False)
    log_d, log_not_d = says.log_prob(torch.ones_like(logits)), says.log_prob(torch.zeros_like(logits))
    return (log_d - log_not_d).mean()


# %% factor_vae_step: the codes for the discriminator made without a graph, before the update
@answer(factor_vae.factor_vae_step)
def factor_vae_step(players, x, noise, gamma, permute):
    vae, discriminator, vae_optimiser, discriminator_optimiser = players
    with torch.no_grad():
        codes = elbo.reparameterise(*vae.encode(x), noise)
    mean, log_var = vae.encode(x)
    z = elbo.reparameterise(mean, log_var, noise)
    z_logits = discriminator(z)
    loss = factor_vae.factor_vae_loss(x, vae.decode(z), mean, log_var, z_logits, gamma)
    vae_optimiser.zero_grad()
    loss.backward()
    vae_optimiser.step()
    vae_optimiser.zero_grad()
    discriminator_optimiser.zero_grad()

    half = len(codes) // 2
    joint_logits, permuted_logits = discriminator(codes[:half]), discriminator(permute(codes[half:]))
    d_loss = factor_vae.discriminator_loss(joint_logits, permuted_logits)
    d_loss.backward()
    discriminator_optimiser.step()
    tc = factor_vae.total_correlation_from_logits(z_logits.detach())
    return {"loss": loss.detach(), "total correlation": tc, "discriminator loss": d_loss.detach()}


# %% factor_vae_score: without autograd, by a decorator
@answer(factor_vae.factor_vae_score)
@torch.no_grad()
def factor_vae_score(codes, factors, global_variance, n_factors, threshold=0.05):
    alive = global_variance >= threshold
    ratio = (codes.var(1) / global_variance).where(alive, torch.inf)
    winner = F.one_hot(ratio.argmin(1), len(alive))  # (V, D)
    counts = torch.einsum("vd,vk->dk", winner.float(), F.one_hot(factors, n_factors).float())
    return counts.amax(1).sum() / len(factors) * alive.any()
