"""Right answers to lesson 06, cell by cell."""

# %% the notebook's first cell
import math

import torch
import torch.nn.functional as F
from torch import nn

from course_lib import answer
from course_lib.lessons import elbo, ufdn


# %% attach_domain_code: the hint, literally
@answer(ufdn.attach_domain_code)
def attach_domain_code(x, code):
    if x.ndim == 4:
        H, W = x.shape[2:]
        code = code[:, :, None, None].expand(-1, -1, H, W)
    return torch.cat([x, code], dim=1)


# %% attach_domain_code: any number of axes
@answer(ufdn.attach_domain_code)
def attach_domain_code(x, code):
    extra = x.shape[2:]
    code = code.reshape(*code.shape, *[1] * len(extra)).expand(*code.shape, *extra)
    return torch.cat((x, code), 1)


# %% attach_domain_code: repeated over the map
@answer(ufdn.attach_domain_code)
def attach_domain_code(x, code):
    if x.dim() == 2:
        return torch.hstack([x, code])
    return torch.cat([x, code[..., None, None].repeat(1, 1, x.shape[2], x.shape[3])], dim=1)


# %% attach_domain_code: multiplied by a map of ones
@answer(ufdn.attach_domain_code)
def attach_domain_code(x, code):
    if x.ndim > 2:
        ones = torch.ones_like(x[:, :1])
        code = code.unsqueeze(2).unsqueeze(3) * ones
    return torch.cat([x, code], dim=1)


# %% attach_domain_code: upsampled
@answer(ufdn.attach_domain_code)
def attach_domain_code(x, code):
    if x.ndim == 4:
        code = F.interpolate(code[:, :, None, None], size=x.shape[2:], mode="nearest")
    return torch.cat([x, code], dim=1)


# %% attach_domain_code: written into an empty tensor
@answer(ufdn.attach_domain_code)
def attach_domain_code(x, code):
    channels = x.shape[1]
    both = x.new_empty(len(x), channels + code.shape[1], *x.shape[2:])
    both[:, :channels] = x
    both[:, channels:] = code.view(*code.shape, *[1] * (x.ndim - 2))
    return both


# %% ufdn_vae_loss: the hint, literally
@answer(ufdn.ufdn_vae_loss)
def ufdn_vae_loss(x, x_hat, mean, log_var, kl_weight):
    error = (x - x_hat).square().flatten(1).sum(1)
    return (error + kl_weight * elbo.gaussian_kl(mean, log_var)).mean()


# %% ufdn_vae_loss: F.mse_loss, summed
@answer(ufdn.ufdn_vae_loss)
def ufdn_vae_loss(x, x_hat, mean, log_var, kl_weight):
    error = F.mse_loss(x_hat, x, reduction="sum") / len(x)
    return error + kl_weight * elbo.gaussian_kl(mean, log_var).mean()


# %% ufdn_vae_loss: everything written out
@answer(ufdn.ufdn_vae_loss)
def ufdn_vae_loss(x, x_hat, mean, log_var, kl_weight):
    B = x.shape[0]
    kl = 0.5 * (mean**2 + log_var.exp() - 1 - log_var).sum()
    return (((x - x_hat) ** 2).sum() + kl_weight * kl) / B


# %% ufdn_vae_loss: squared norms
@answer(ufdn.ufdn_vae_loss)
def ufdn_vae_loss(x, x_hat, mean, log_var, kl_weight):
    difference = (x - x_hat).reshape(len(x), -1)
    error = torch.einsum("bi,bi->b", difference, difference)
    return torch.mean(error + elbo.gaussian_kl(mean, log_var) * kl_weight)


# %% ufdn_vae_loss: torch.distributions
@answer(ufdn.ufdn_vae_loss)
def ufdn_vae_loss(x, x_hat, mean, log_var, kl_weight):
    q = torch.distributions.Normal(mean, (0.5 * log_var).exp(), validate_args=False)
    p = torch.distributions.Normal(torch.zeros_like(mean), torch.ones_like(mean), validate_args=False)
    kl = torch.distributions.kl_divergence(q, p).sum(1)
    return (x - x_hat).pow(2).sum(tuple(range(1, x.ndim))).mean() + kl_weight * kl.mean()


# %% confusion_loss: the hint, literally
@answer(ufdn.confusion_loss)
def confusion_loss(logits):
    return (-F.log_softmax(logits, dim=1)).mean()


# %% confusion_loss: cross-entropy with a uniform target
@answer(ufdn.confusion_loss)
def confusion_loss(logits):
    uniform = torch.full_like(logits, 1 / logits.shape[1])
    return F.cross_entropy(logits, uniform)


# %% confusion_loss: the normaliser minus the mean logit
@answer(ufdn.confusion_loss)
def confusion_loss(logits):
    return (logits.logsumexp(1) - logits.mean(1)).mean()


# %% confusion_loss: log K plus a divergence
@answer(ufdn.confusion_loss)
def confusion_loss(logits):
    K = logits.shape[1]
    uniform = torch.full_like(logits, 1 / K)
    return F.kl_div(logits.log_softmax(1), uniform, reduction="batchmean") + math.log(K)


# %% confusion_loss: labels smoothed until nothing is left of them
@answer(ufdn.confusion_loss)
def confusion_loss(logits):
    labels = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
    return nn.CrossEntropyLoss(label_smoothing=1.0)(logits, labels)


# %% confusion_loss: the mean over the domains of the cross-entropies with each
@answer(ufdn.confusion_loss)
def confusion_loss(logits):
    B, K = logits.shape
    total = 0
    for k in range(K):
        total = total + F.cross_entropy(logits, torch.full((B,), k, device=logits.device))
    return total / K


# %% ufdn_step: the hint, literally
@answer(ufdn.ufdn_step)
def ufdn_step(players, x, code, noise, task_loss, kl_weight, confusion_weight):
    model, critic, model_optimiser, critic_optimiser = players
    mean, log_var = model.encode(x)
    z = elbo.reparameterise(mean, log_var, noise)

    critic_loss = F.cross_entropy(critic(z.detach()), code)
    model_optimiser.zero_grad()
    critic_optimiser.zero_grad()
    critic_loss.backward()
    critic_optimiser.step()

    vae_loss = ufdn.ufdn_vae_loss(x, model.decode(z, code), mean, log_var, kl_weight)
    confusion = ufdn.confusion_loss(critic(z))
    task = task_loss(z)
    (vae_loss + confusion_weight * confusion + task).backward()
    model_optimiser.step()
    return {
        "critic loss": critic_loss.detach(),
        "VAE loss": vae_loss.detach(),
        "confusion": confusion.detach(),
        "task loss": task.detach(),
    }


# %% ufdn_step: each zero_grad right before its own backward, model's cleared at the end
@answer(ufdn.ufdn_step)
def ufdn_step(players, x, code, noise, task_loss, kl_weight, confusion_weight):
    model, critic = players.model, players.critic
    mean, log_var = model.encode(x)
    z = mean + (0.5 * log_var).exp() * noise

    critic_loss = F.cross_entropy(critic(z.detach()), code.argmax(1))
    players.critic_optimiser.zero_grad()
    critic_loss.backward()
    players.critic_optimiser.step()

    vae_loss = ufdn.ufdn_vae_loss(x, model.decode(z, code), mean, log_var, kl_weight)
    confusion, task = ufdn.confusion_loss(critic(z)), task_loss(z)
    loss = vae_loss + confusion_weight * confusion + task
    players.model_optimiser.zero_grad()
    loss.backward()
    players.model_optimiser.step()
    players.model_optimiser.zero_grad()
    report = {"critic loss": critic_loss, "VAE loss": vae_loss, "confusion": confusion, "task loss": task}
    return {name: value.detach() for name, value in report.items()}


# %% ufdn_step: each zero_grad right before its own backward
@answer(ufdn.ufdn_step)
def ufdn_step(players, x, code, noise, task_loss, kl_weight, confusion_weight):
    model, critic, model_optimiser, critic_optimiser = players
    mean, log_var = model.encode(x)
    z = elbo.reparameterise(mean, log_var, noise)

    critic_loss = F.cross_entropy(critic(z.detach()), code)
    critic_optimiser.zero_grad()
    critic_loss.backward()
    critic_optimiser.step()

    vae_loss = ufdn.ufdn_vae_loss(x, model.decode(z, code), mean, log_var, kl_weight)
    confusion, task = ufdn.confusion_loss(critic(z)), task_loss(z)
    model_optimiser.zero_grad()
    (vae_loss + confusion_weight * confusion + task).backward()
    model_optimiser.step()
    report = {"critic loss": critic_loss, "VAE loss": vae_loss, "confusion": confusion, "task loss": task}
    return {name: value.detach() for name, value in report.items()}


# %% ufdn_step: the critic frozen in the model's turn
@answer(ufdn.ufdn_step)
def ufdn_step(players, x, code, noise, task_loss, kl_weight, confusion_weight):
    model, critic, model_optimiser, critic_optimiser = players
    model_optimiser.zero_grad()
    mean, log_var = model.encode(x)
    z = elbo.reparameterise(mean, log_var, noise)

    log_p = F.log_softmax(critic(z.detach()), dim=1)
    critic_loss = -(code * log_p).sum(1).mean()
    critic_optimiser.zero_grad()
    critic_loss.backward()
    critic_optimiser.step()

    critic.requires_grad_(False)
    vae_loss = ufdn.ufdn_vae_loss(x, model.decode(z, code), mean, log_var, kl_weight)
    confusion = ufdn.confusion_loss(critic(z))
    task = task_loss(z)
    total = vae_loss + confusion_weight * confusion + task
    total.backward()
    model_optimiser.step()
    critic.requires_grad_(True)
    return {
        "critic loss": critic_loss.detach(),
        "VAE loss": vae_loss.detach(),
        "confusion": confusion.detach(),
        "task loss": task.detach(),
    }


# %% ufdn_step: backward for the model's parameters only, all cleared at the end
@answer(ufdn.ufdn_step)
def ufdn_step(players, x, code, noise, task_loss, kl_weight, confusion_weight):
    mean, log_var = players.model.encode(x)
    z = torch.addcmul(mean, torch.exp(log_var / 2), noise)
    with torch.no_grad():
        seen = z.clone()
    critic_loss = F.cross_entropy(players.critic(seen), code)
    critic_loss.backward()
    players.critic_optimiser.step()
    players.critic_optimiser.zero_grad()

    x_hat = players.model.decode(z, code)
    losses = {
        "VAE loss": ufdn.ufdn_vae_loss(x, x_hat, mean, log_var, kl_weight),
        "confusion": ufdn.confusion_loss(players.critic(z)),
        "task loss": task_loss(z),
    }
    total = losses["VAE loss"] + confusion_weight * losses["confusion"] + losses["task loss"]
    total.backward(inputs=list(players.model.parameters()))
    players.model_optimiser.step()
    players.model_optimiser.zero_grad()
    return {"critic loss": critic_loss.detach()} | {k: v.detach() for k, v in losses.items()}


# %% translate: the hint, literally
@answer(ufdn.translate)
def translate(encode, decode, x, domains):
    z, _ = encode(x)
    B, K = len(x), domains
    codes = torch.eye(K, device=x.device)
    z = z[:, None].expand(-1, K, -1).flatten(0, 1)
    codes = codes[None].expand(B, -1, -1).flatten(0, 1)
    return decode(z, codes).unflatten(0, (B, K))


# %% translate: repeat_interleave and repeat
@answer(ufdn.translate)
def translate(encode, decode, x, domains):
    mean = encode(x)[0]
    B = mean.shape[0]
    codes = torch.eye(domains, device=mean.device).repeat(B, 1)
    images = decode(mean.repeat_interleave(domains, dim=0), codes)
    return images.view(B, domains, *images.shape[1:])


# %% translate: domains first, then transposed
@answer(ufdn.translate)
def translate(encode, decode, x, domains):
    mean, log_var = encode(x)
    codes = torch.eye(domains, device=x.device).repeat_interleave(len(x), dim=0)
    images = decode(mean.repeat(domains, 1), codes)
    return images.unflatten(0, (domains, len(x))).transpose(0, 1)


# %% translate: one-hot codes by number
@answer(ufdn.translate)
def translate(encode, decode, x, domains):
    mean, _ = encode(x)
    pair = torch.arange(len(x) * domains, device=x.device)
    codes = F.one_hot(pair % domains, domains).to(mean.dtype)
    return decode(mean[pair // domains], codes).unflatten(0, (len(x), domains))


# %% translate: tiled along a new axis
@answer(ufdn.translate)
def translate(encode, decode, x, domains):
    mean, _ = encode(x)
    B, D = mean.shape
    z = torch.stack([mean] * domains, dim=1).reshape(B * domains, D)
    codes = torch.stack([torch.eye(domains, device=x.device)] * B).reshape(B * domains, domains)
    images = decode(z, codes)
    return images.reshape(B, domains, *images.shape[1:])


# %% interpolate_domains: the hint, literally
@answer(ufdn.interpolate_domains)
def interpolate_domains(decode, z, start, end, alphas):
    B, T = len(z), len(alphas)
    codes = (1 - alphas[:, None]) * start + alphas[:, None] * end
    pairs = z[:, None].expand(-1, T, -1).flatten(0, 1), codes.expand(B, -1, -1).flatten(0, 1)
    return decode(*pairs).unflatten(0, (B, T))


# %% interpolate_domains: torch.lerp
@answer(ufdn.interpolate_domains)
def interpolate_domains(decode, z, start, end, alphas):
    codes = torch.lerp(start, end, alphas[:, None])
    images = decode(z.repeat_interleave(len(alphas), dim=0), codes.repeat(len(z), 1))
    return images.view(len(z), len(alphas), *images.shape[1:])


# %% interpolate_domains: two outer products
@answer(ufdn.interpolate_domains)
def interpolate_domains(decode, z, start, end, alphas):
    codes = torch.outer(1 - alphas, start) + torch.outer(alphas, end)
    B, T = z.shape[0], alphas.shape[0]
    z = z.unsqueeze(1).repeat(1, T, 1).reshape(B * T, -1)
    codes = codes.unsqueeze(0).repeat(B, 1, 1).reshape(B * T, -1)
    images = decode(z, codes)
    return images.reshape(B, T, *images.shape[1:])


# %% interpolate_domains: a product with the two ends
@answer(ufdn.interpolate_domains)
def interpolate_domains(decode, z, start, end, alphas):
    codes = torch.stack([1 - alphas, alphas], dim=1) @ torch.stack([start, end])
    rows = torch.arange(len(z) * len(alphas), device=z.device)
    images = decode(z[rows // len(alphas)], codes[rows % len(alphas)])
    return images.unflatten(0, (len(z), len(alphas)))


# %% interpolate_domains: steps first, then transposed
@answer(ufdn.interpolate_domains)
def interpolate_domains(decode, z, start, end, alphas):
    codes = torch.vmap(lambda a: (1 - a) * start + a * end)(alphas)
    images = decode(z.repeat(len(alphas), 1), codes.repeat_interleave(len(z), dim=0))
    return images.unflatten(0, (len(alphas), len(z))).transpose(0, 1)


# %% gradient_penalty: the hint, literally
@answer(ufdn.gradient_penalty)
def gradient_penalty(critic, real, fake, mix):
    m = mix.view(-1, *[1] * (real.ndim - 1))
    between = (m * real + (1 - m) * fake).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    slope = gradient.flatten(1).norm(dim=1)
    return ((slope - 1) ** 2).mean()


# %% gradient_penalty: grad_outputs of ones
@answer(ufdn.gradient_penalty)
def gradient_penalty(critic, real, fake, mix):
    shape = (len(real),) + (1,) * (real.dim() - 1)
    weight = mix.reshape(shape)
    points = fake.detach() + weight.detach() * (real.detach() - fake.detach())
    points.requires_grad_(True)
    scores = critic(points)
    gradient = torch.autograd.grad(
        outputs=scores,
        inputs=points,
        grad_outputs=torch.ones_like(scores),
        create_graph=True,
        retain_graph=True,
    )[0]
    return (gradient.reshape(len(real), -1).square().sum(1).sqrt() - 1).square().mean()


# %% gradient_penalty: torch.func, one example at a time under vmap
@answer(ufdn.gradient_penalty)
def gradient_penalty(critic, real, fake, mix):
    m = mix.view(-1, *[1] * (real.ndim - 1))
    between = torch.lerp(fake, real, m.expand_as(real)).detach()

    def score(point):
        return critic(point[None])[0]

    gradient = torch.func.vmap(torch.func.grad(score))(between)
    return (torch.linalg.vector_norm(gradient.flatten(1), dim=1) - 1).square().mean()


# %% gradient_penalty: points made without a graph
@answer(ufdn.gradient_penalty)
def gradient_penalty(critic, real, fake, mix):
    with torch.no_grad():
        between = torch.einsum("b,b...->b...", mix, real) + torch.einsum("b,b...->b...", 1 - mix, fake)
    between.requires_grad = True
    gradient = torch.autograd.grad(critic(between).sum(), [between], create_graph=True)[0]
    norm = gradient.pow(2).sum(dim=tuple(range(1, real.ndim))).sqrt()
    return F.mse_loss(norm, torch.ones_like(norm))


# %% gradient_penalty: backward into the points alone
@answer(ufdn.gradient_penalty)
def gradient_penalty(critic, real, fake, mix):
    m = mix[(...,) + (None,) * (real.ndim - 1)]
    between = (m * real + (1 - m) * fake).detach().requires_grad_(True)
    critic(between).sum().backward(inputs=[between], create_graph=True)
    slope = between.grad.flatten(1).norm(dim=1)
    return torch.mean(slope**2 - 2 * slope + 1)


# %% ufdn_step: gradients by torch.autograd.grad
@answer(ufdn.ufdn_step)
def ufdn_step(players, x, code, noise, task_loss, kl_weight, confusion_weight):
    def descend(loss, module, optimiser):
        parameters = list(module.parameters())
        for p, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            p.grad = gradient
        optimiser.step()
        optimiser.zero_grad()

    model, critic, model_optimiser, critic_optimiser = players
    mean, log_var = model.encode(x)
    z = elbo.reparameterise(mean, log_var, noise)
    critic_loss = F.cross_entropy(critic(z.detach()), code)
    descend(critic_loss, critic, critic_optimiser)
    vae_loss = ufdn.ufdn_vae_loss(x, model.decode(z, code), mean, log_var, kl_weight)
    confusion, task = ufdn.confusion_loss(critic(z)), task_loss(z)
    descend(vae_loss + confusion_weight * confusion + task, model, model_optimiser)
    report = {"critic loss": critic_loss, "VAE loss": vae_loss, "confusion": confusion, "task loss": task}
    return {name: value.detach() for name, value in report.items()}


# %% ufdn_step: encoded twice, once for each player
@answer(ufdn.ufdn_step)
def ufdn_step(players, x, code, noise, task_loss, kl_weight, confusion_weight):
    model, critic, model_optimiser, critic_optimiser = players
    with torch.no_grad():
        seen = elbo.reparameterise(*model.encode(x), noise)
    critic_loss = F.cross_entropy(critic(seen), code)
    critic_optimiser.zero_grad()
    critic_loss.backward()
    critic_optimiser.step()

    model_optimiser.zero_grad()
    mean, log_var = model.encode(x)
    z = elbo.reparameterise(mean, log_var, noise)
    vae_loss = ufdn.ufdn_vae_loss(x, model.decode(z, code), mean, log_var, kl_weight)
    confusion, task = ufdn.confusion_loss(critic(z)), task_loss(z)
    (vae_loss + confusion_weight * confusion + task).backward()
    model_optimiser.step()
    model_optimiser.zero_grad()
    report = {"critic loss": critic_loss, "VAE loss": vae_loss, "confusion": confusion, "task loss": task}
    return {name: value.detach() for name, value in report.items()}
