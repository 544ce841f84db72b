"""Wrong answers to lesson 06, cell by cell, beyond the mistakes that the solutions name."""

# %% the notebook's first cell
import torch
import torch.nn.functional as F

from course_lib import answer
from course_lib.lessons import elbo, ufdn


# %% attach_domain_code: along the last axis
# says: shape|raised|size
@answer(ufdn.attach_domain_code)
def attach_domain_code(x, code):
    if x.ndim == 4:
        code = code[:, :, None, None].expand(-1, -1, *x.shape[2:])
    return torch.cat([x, code], dim=-1)


# %% attach_domain_code: maps only
# says: raised|dimension|index
@answer(ufdn.attach_domain_code)
def attach_domain_code(x, code):
    code = code[:, :, None, None].expand(-1, -1, *x.shape[2:])
    return torch.cat([x, code], dim=1)


# %% attach_domain_code: vectors only
# says: raised|dimension|number
@answer(ufdn.attach_domain_code)
def attach_domain_code(x, code):
    return torch.cat([x, code], dim=1)


# %% attach_domain_code: height and width exchanged
# says: raised|size|shape
@answer(ufdn.attach_domain_code)
def attach_domain_code(x, code):
    if x.ndim == 4:
        code = code[:, :, None, None].expand(-1, -1, x.shape[3], x.shape[2])
    return torch.cat([x, code], dim=1)


# %% attach_domain_code: reshaped so that the codes run through the map
@answer(ufdn.attach_domain_code)
def attach_domain_code(x, code):
    if x.ndim == 4:
        B, _, H, W = x.shape
        code = code.repeat(1, H * W).view(B, code.shape[1], H, W)
    return torch.cat([x, code], dim=1)


# %% attach_domain_code: the code added to x
# says: shape
@answer(ufdn.attach_domain_code)
def attach_domain_code(x, code):
    return x + code.mean(1).view(-1, *[1] * (x.ndim - 1))


# %% attach_domain_code: the code detached
# says: gradient
@answer(ufdn.attach_domain_code)
def attach_domain_code(x, code):
    if x.ndim == 4:
        code = code[:, :, None, None].expand(-1, -1, *x.shape[2:])
    return torch.cat([x, code.detach()], dim=1)


# %% attach_domain_code: example by example
# says: loop|operations
@answer(ufdn.attach_domain_code)
def attach_domain_code(x, code):
    rows = []
    for features, v in zip(x, code, strict=True):
        v = v.view(-1, *[1] * (features.ndim - 1)).expand(-1, *features.shape[1:])
        rows.append(torch.cat([features, v]))
    return torch.stack(rows)


# %% attach_domain_code: the map made on the CPU
# says: CPU
@answer(ufdn.attach_domain_code)
def attach_domain_code(x, code):
    if x.ndim == 4:
        code = code[:, :, None, None] * torch.ones(1, 1, *x.shape[2:])
    return torch.cat([x, code], dim=1)


# %% ufdn_vae_loss: 1 − kl_weight
@answer(ufdn.ufdn_vae_loss)
def ufdn_vae_loss(x, x_hat, mean, log_var, kl_weight):
    error = (x - x_hat).square().flatten(1).sum(1)
    return ((1 - kl_weight) * error + kl_weight * elbo.gaussian_kl(mean, log_var)).mean()


# %% ufdn_vae_loss: kl_weight − 1
@answer(ufdn.ufdn_vae_loss)
def ufdn_vae_loss(x, x_hat, mean, log_var, kl_weight):
    error = (x - x_hat).square().flatten(1).sum(1)
    return (error + (kl_weight - 1) * elbo.gaussian_kl(mean, log_var)).mean()


# %% ufdn_vae_loss: binary cross-entropy
# not: overflow
@answer(ufdn.ufdn_vae_loss)
def ufdn_vae_loss(x, x_hat, mean, log_var, kl_weight):
    error = F.binary_cross_entropy(x_hat, x, reduction="none").flatten(1).sum(1)
    return (error + kl_weight * elbo.gaussian_kl(mean, log_var)).mean()


# %% ufdn_vae_loss: the norm, not its square
@answer(ufdn.ufdn_vae_loss)
def ufdn_vae_loss(x, x_hat, mean, log_var, kl_weight):
    error = (x - x_hat).flatten(1).norm(dim=1)
    return (error + kl_weight * elbo.gaussian_kl(mean, log_var)).mean()


# %% ufdn_vae_loss: without the batch's mean
# says: scalar
@answer(ufdn.ufdn_vae_loss)
def ufdn_vae_loss(x, x_hat, mean, log_var, kl_weight):
    error = (x - x_hat).square().flatten(1).sum(1)
    return error + kl_weight * elbo.gaussian_kl(mean, log_var)


# %% ufdn_vae_loss: the KL summed over the batch
@answer(ufdn.ufdn_vae_loss)
def ufdn_vae_loss(x, x_hat, mean, log_var, kl_weight):
    error = (x - x_hat).square().flatten(1).sum(1)
    return error.mean() + kl_weight * elbo.gaussian_kl(mean, log_var).sum()


# %% ufdn_vae_loss: the reconstruction detached
# says: gradient
@answer(ufdn.ufdn_vae_loss)
def ufdn_vae_loss(x, x_hat, mean, log_var, kl_weight):
    error = (x - x_hat.detach()).square().flatten(1).sum(1)
    return (error + kl_weight * elbo.gaussian_kl(mean, log_var)).mean()


# %% ufdn_vae_loss: no weight on the KL
@answer(ufdn.ufdn_vae_loss)
def ufdn_vae_loss(x, x_hat, mean, log_var, kl_weight):
    error = (x - x_hat).square().flatten(1).sum(1)
    return (error + elbo.gaussian_kl(mean, log_var)).mean()


# %% confusion_loss: cross-entropy with the critic's own answer
@answer(ufdn.confusion_loss)
def confusion_loss(logits):
    return F.cross_entropy(logits, logits.argmax(1))


# %% confusion_loss: softmax over the batch
@answer(ufdn.confusion_loss)
def confusion_loss(logits):
    return -F.log_softmax(logits, dim=0).mean()


# %% confusion_loss: the divergence, without log K
@answer(ufdn.confusion_loss)
def confusion_loss(logits):
    uniform = torch.full_like(logits, 1 / logits.shape[1])
    return F.kl_div(logits.log_softmax(1), uniform, reduction="batchmean")


# %% confusion_loss: a small number inside the logarithm
@answer(ufdn.confusion_loss)
def confusion_loss(logits):
    return -(logits.softmax(1) + 1e-8).log().mean()


# %% confusion_loss: squared distance from uniform
@answer(ufdn.confusion_loss)
def confusion_loss(logits):
    return (logits.softmax(1) - 1 / logits.shape[1]).square().sum(1).mean()


# %% confusion_loss: three domains taken for granted
@answer(ufdn.confusion_loss)
def confusion_loss(logits):
    return -F.log_softmax(logits, dim=1).sum(1).mean() / 3


# %% confusion_loss: one for each example
# says: scalar
@answer(ufdn.confusion_loss)
def confusion_loss(logits):
    return -F.log_softmax(logits, dim=1).mean(1)


# %% confusion_loss: softmax twice
@answer(ufdn.confusion_loss)
def confusion_loss(logits):
    return -F.log_softmax(logits.softmax(1), dim=1).mean()


# %% confusion_loss: the variance of the logits
@answer(ufdn.confusion_loss)
def confusion_loss(logits):
    return logits.var(1).mean()


# %% ufdn_step: z not detached
# says: detach
@answer(ufdn.ufdn_step)
def ufdn_step(players, x, code, noise, task_loss, kl_weight, confusion_weight):
    model, critic, model_optimiser, critic_optimiser = players
    mean, log_var = model.encode(x)
    z = elbo.reparameterise(mean, log_var, noise)
    critic_loss = F.cross_entropy(critic(z), code)
    critic_optimiser.zero_grad()
    model_optimiser.zero_grad()
    critic_loss.backward(retain_graph=True)
    critic_optimiser.step()
    vae_loss = ufdn.ufdn_vae_loss(x, model.decode(z, code), mean, log_var, kl_weight)
    confusion, task = ufdn.confusion_loss(critic(z)), task_loss(z)
    (vae_loss + confusion_weight * confusion + task).backward()
    model_optimiser.step()
    report = {"critic loss": critic_loss, "VAE loss": vae_loss, "confusion": confusion, "task loss": task}
    return {name: value.detach() for name, value in report.items()}


# %% ufdn_step: z not detached, the graph not kept
# says: detach
@answer(ufdn.ufdn_step)
def ufdn_step(players, x, code, noise, task_loss, kl_weight, confusion_weight):
    model, critic, model_optimiser, critic_optimiser = players
    mean, log_var = model.encode(x)
    z = elbo.reparameterise(mean, log_var, noise)
    critic_loss = F.cross_entropy(critic(z), code)
    critic_optimiser.zero_grad()
    model_optimiser.zero_grad()
    critic_loss.backward()
    critic_optimiser.step()
    vae_loss = ufdn.ufdn_vae_loss(x, model.decode(z, code), mean, log_var, kl_weight)
    confusion, task = ufdn.confusion_loss(critic(z)), task_loss(z)
    (vae_loss + confusion_weight * confusion + task).backward()
    model_optimiser.step()
    report = {"critic loss": critic_loss, "VAE loss": vae_loss, "confusion": confusion, "task loss": task}
    return {name: value.detach() for name, value in report.items()}


# %% ufdn_step: z not detached, but the model cleared afterwards
@answer(ufdn.ufdn_step)
def ufdn_step(players, x, code, noise, task_loss, kl_weight, confusion_weight):
    model, critic, model_optimiser, critic_optimiser = players
    mean, log_var = model.encode(x)
    z = elbo.reparameterise(mean, log_var, noise)
    critic_loss = F.cross_entropy(critic(z), code)
    critic_optimiser.zero_grad()
    critic_loss.backward(retain_graph=True)
    critic_optimiser.step()
    vae_loss = ufdn.ufdn_vae_loss(x, model.decode(z, code), mean, log_var, kl_weight)
    confusion, task = ufdn.confusion_loss(critic(z)), task_loss(z)
    model_optimiser.zero_grad()
    (vae_loss + confusion_weight * confusion + task).backward()
    model_optimiser.step()
    report = {"critic loss": critic_loss, "VAE loss": vae_loss, "confusion": confusion, "task loss": task}
    return {name: value.detach() for name, value in report.items()}


# %% ufdn_step: the reports are not detached
# says: detach
@answer(ufdn.ufdn_step)
def ufdn_step(players, x, code, noise, task_loss, kl_weight, confusion_weight):
    model, critic, model_optimiser, critic_optimiser = players
    mean, log_var = model.encode(x)
    z = elbo.reparameterise(mean, log_var, noise)
    critic_loss = F.cross_entropy(critic(z.detach()), code)
    critic_optimiser.zero_grad()
    model_optimiser.zero_grad()
    critic_loss.backward()
    critic_optimiser.step()
    vae_loss = ufdn.ufdn_vae_loss(x, model.decode(z, code), mean, log_var, kl_weight)
    confusion, task = ufdn.confusion_loss(critic(z)), task_loss(z)
    (vae_loss + confusion_weight * confusion + task).backward()
    model_optimiser.step()
    return {"critic loss": critic_loss, "VAE loss": vae_loss, "confusion": confusion, "task loss": task}


# %% ufdn_step: the confusion reported with its weight
# says: confusion
@answer(ufdn.ufdn_step)
def ufdn_step(players, x, code, noise, task_loss, kl_weight, confusion_weight):
    model, critic, model_optimiser, critic_optimiser = players
    mean, log_var = model.encode(x)
    z = elbo.reparameterise(mean, log_var, noise)
    critic_loss = F.cross_entropy(critic(z.detach()), code)
    critic_optimiser.zero_grad()
    model_optimiser.zero_grad()
    critic_loss.backward()
    critic_optimiser.step()
    vae_loss = ufdn.ufdn_vae_loss(x, model.decode(z, code), mean, log_var, kl_weight)
    confusion, task = confusion_weight * ufdn.confusion_loss(critic(z)), task_loss(z)
    (vae_loss + confusion + task).backward()
    model_optimiser.step()
    report = {"critic loss": critic_loss, "VAE loss": vae_loss, "confusion": confusion, "task loss": task}
    return {name: value.detach() for name, value in report.items()}


# %% ufdn_step: the task forgotten
# says: task
@answer(ufdn.ufdn_step)
def ufdn_step(players, x, code, noise, task_loss, kl_weight, confusion_weight):
    model, critic, model_optimiser, critic_optimiser = players
    mean, log_var = model.encode(x)
    z = elbo.reparameterise(mean, log_var, noise)
    critic_loss = F.cross_entropy(critic(z.detach()), code)
    critic_optimiser.zero_grad()
    model_optimiser.zero_grad()
    critic_loss.backward()
    critic_optimiser.step()
    vae_loss = ufdn.ufdn_vae_loss(x, model.decode(z, code), mean, log_var, kl_weight)
    confusion, task = ufdn.confusion_loss(critic(z)), task_loss(z)
    (vae_loss + confusion_weight * confusion).backward()
    model_optimiser.step()
    report = {"critic loss": critic_loss, "VAE loss": vae_loss, "confusion": confusion, "task loss": task}
    return {name: value.detach() for name, value in report.items()}


# %% ufdn_step: the model plays against the critic before its update
# says: updated|order|before
@answer(ufdn.ufdn_step)
def ufdn_step(players, x, code, noise, task_loss, kl_weight, confusion_weight):
    model, critic, model_optimiser, critic_optimiser = players
    mean, log_var = model.encode(x)
    z = elbo.reparameterise(mean, log_var, noise)
    vae_loss = ufdn.ufdn_vae_loss(x, model.decode(z, code), mean, log_var, kl_weight)
    confusion, task = ufdn.confusion_loss(critic(z)), task_loss(z)
    model_optimiser.zero_grad()
    (vae_loss + confusion_weight * confusion + task).backward()
    model_optimiser.step()
    model_optimiser.zero_grad()
    critic_optimiser.zero_grad()
    critic_loss = F.cross_entropy(critic(z.detach()), code)
    critic_loss.backward()
    critic_optimiser.step()
    report = {"critic loss": critic_loss, "VAE loss": vae_loss, "confusion": confusion, "task loss": task}
    return {name: value.detach() for name, value in report.items()}


# %% ufdn_step: the confusion of detached codes
@answer(ufdn.ufdn_step)
def ufdn_step(players, x, code, noise, task_loss, kl_weight, confusion_weight):
    model, critic, model_optimiser, critic_optimiser = players
    mean, log_var = model.encode(x)
    z = elbo.reparameterise(mean, log_var, noise)
    critic_loss = F.cross_entropy(critic(z.detach()), code)
    critic_optimiser.zero_grad()
    model_optimiser.zero_grad()
    critic_loss.backward()
    critic_optimiser.step()
    vae_loss = ufdn.ufdn_vae_loss(x, model.decode(z, code), mean, log_var, kl_weight)
    confusion, task = ufdn.confusion_loss(critic(z.detach())), task_loss(z)
    (vae_loss + confusion_weight * confusion + task).backward()
    model_optimiser.step()
    report = {"critic loss": critic_loss, "VAE loss": vae_loss, "confusion": confusion, "task loss": task}
    return {name: value.detach() for name, value in report.items()}


# %% ufdn_step: the critic never learns
# says: critic
@answer(ufdn.ufdn_step)
def ufdn_step(players, x, code, noise, task_loss, kl_weight, confusion_weight):
    model, critic, model_optimiser, critic_optimiser = players
    mean, log_var = model.encode(x)
    z = elbo.reparameterise(mean, log_var, noise)
    critic_loss = F.cross_entropy(critic(z.detach()), code)
    model_optimiser.zero_grad()
    vae_loss = ufdn.ufdn_vae_loss(x, model.decode(z, code), mean, log_var, kl_weight)
    confusion, task = ufdn.confusion_loss(critic(z)), task_loss(z)
    (vae_loss + confusion_weight * confusion + task).backward()
    model_optimiser.step()
    report = {"critic loss": critic_loss, "VAE loss": vae_loss, "confusion": confusion, "task loss": task}
    return {name: value.detach() for name, value in report.items()}


# %% ufdn_step: noise of its own
@answer(ufdn.ufdn_step)
def ufdn_step(players, x, code, noise, task_loss, kl_weight, confusion_weight):
    model, critic, model_optimiser, critic_optimiser = players
    mean, log_var = model.encode(x)
    z = elbo.reparameterise(mean, log_var, torch.randn_like(mean))
    critic_loss = F.cross_entropy(critic(z.detach()), code)
    critic_optimiser.zero_grad()
    model_optimiser.zero_grad()
    critic_loss.backward()
    critic_optimiser.step()
    vae_loss = ufdn.ufdn_vae_loss(x, model.decode(z, code), mean, log_var, kl_weight)
    confusion, task = ufdn.confusion_loss(critic(z)), task_loss(z)
    (vae_loss + confusion_weight * confusion + task).backward()
    model_optimiser.step()
    report = {"critic loss": critic_loss, "VAE loss": vae_loss, "confusion": confusion, "task loss": task}
    return {name: value.detach() for name, value in report.items()}


# %% translate: domain by domain
# says: batch|called once|one call
@answer(ufdn.translate)
def translate(encode, decode, x, domains):
    mean, _ = encode(x)
    images = []
    for k in range(domains):
        code = torch.zeros(len(x), domains, device=x.device)
        code[:, k] = 1
        images.append(decode(mean, code))
    return torch.stack(images, dim=1)


# %% translate: a sample in place of the mean
@answer(ufdn.translate)
def translate(encode, decode, x, domains):
    mean, log_var = encode(x)
    mean = mean + (0.5 * log_var).exp() * torch.randn_like(mean)
    codes = torch.eye(domains, device=x.device).repeat(len(x), 1)
    return decode(mean.repeat_interleave(domains, 0), codes).unflatten(0, (len(x), domains))


# %% translate: codes repeated the wrong way
@answer(ufdn.translate)
def translate(encode, decode, x, domains):
    mean, _ = encode(x)
    codes = torch.eye(domains, device=x.device).repeat_interleave(len(x), 0)
    return decode(mean.repeat_interleave(domains, 0), codes).unflatten(0, (len(x), domains))


# %% translate: one long list of images
# says: shape
@answer(ufdn.translate)
def translate(encode, decode, x, domains):
    mean, _ = encode(x)
    codes = torch.eye(domains, device=x.device).repeat(len(x), 1)
    return decode(mean.repeat_interleave(domains, 0), codes)


# %% translate: codes on the CPU
# says: CPU
@answer(ufdn.translate)
def translate(encode, decode, x, domains):
    mean, _ = encode(x)
    codes = torch.eye(domains).repeat(len(x), 1)
    return decode(mean.repeat_interleave(domains, 0), codes).unflatten(0, (len(x), domains))


# %% translate: codes of ones
@answer(ufdn.translate)
def translate(encode, decode, x, domains):
    mean, _ = encode(x)
    codes = torch.ones(len(x) * domains, domains, device=x.device)
    return decode(mean.repeat_interleave(domains, 0), codes).unflatten(0, (len(x), domains))


# %% translate: the mean without a gradient
# says: gradient
@answer(ufdn.translate)
def translate(encode, decode, x, domains):
    with torch.no_grad():
        mean, _ = encode(x)
    codes = torch.eye(domains, device=x.device).repeat(len(x), 1)
    return decode(mean.repeat_interleave(domains, 0), codes).unflatten(0, (len(x), domains))


# %% translate: encoded once for every pair
# says: batch|one call|called|shape|value
@answer(ufdn.translate)
def translate(encode, decode, x, domains):
    means = torch.stack([encode(x)[0] for _ in range(domains)], dim=1)
    codes = torch.eye(domains, device=x.device).repeat(len(x), 1)
    return decode(means.flatten(0, 1), codes).unflatten(0, (len(x), domains))


# %% interpolate_domains: the weights only of the end
@answer(ufdn.interpolate_domains)
def interpolate_domains(decode, z, start, end, alphas):
    codes = alphas[:, None] * end
    images = decode(z.repeat_interleave(len(alphas), 0), codes.repeat(len(z), 1))
    return images.unflatten(0, (len(z), len(alphas)))


# %% interpolate_domains: equal steps in place of the alphas
@answer(ufdn.interpolate_domains)
def interpolate_domains(decode, z, start, end, alphas):
    steps = torch.linspace(0, 1, len(alphas), device=alphas.device)[:, None]
    codes = (1 - steps) * start + steps * end
    images = decode(z.repeat_interleave(len(alphas), 0), codes.repeat(len(z), 1))
    return images.unflatten(0, (len(z), len(alphas)))


# %% interpolate_domains: the latent moves, too
@answer(ufdn.interpolate_domains)
def interpolate_domains(decode, z, start, end, alphas):
    codes = (1 - alphas[:, None]) * start + alphas[:, None] * end
    moved = z[:, None] * (1 - alphas[:, None])
    images = decode(moved.flatten(0, 1), codes.repeat(len(z), 1))
    return images.unflatten(0, (len(z), len(alphas)))


# %% interpolate_domains: on the sphere
@answer(ufdn.interpolate_domains)
def interpolate_domains(decode, z, start, end, alphas):
    codes = (1 - alphas[:, None]) * start + alphas[:, None] * end
    codes = codes / codes.norm(dim=1, keepdim=True)
    images = decode(z.repeat_interleave(len(alphas), 0), codes.repeat(len(z), 1))
    return images.unflatten(0, (len(z), len(alphas)))


# %% interpolate_domains: image by image
# says: batch|call
@answer(ufdn.interpolate_domains)
def interpolate_domains(decode, z, start, end, alphas):
    codes = (1 - alphas[:, None]) * start + alphas[:, None] * end
    return torch.stack([decode(row.expand(len(alphas), -1), codes) for row in z])


# %% interpolate_domains: one long list of images
# says: shape
@answer(ufdn.interpolate_domains)
def interpolate_domains(decode, z, start, end, alphas):
    codes = (1 - alphas[:, None]) * start + alphas[:, None] * end
    return decode(z.repeat_interleave(len(alphas), 0), codes.repeat(len(z), 1))


# %% interpolate_domains: rounded to the nearer end
@answer(ufdn.interpolate_domains)
def interpolate_domains(decode, z, start, end, alphas):
    codes = torch.where(alphas[:, None] < 0.5, start, end)
    images = decode(z.repeat_interleave(len(alphas), 0), codes.repeat(len(z), 1))
    return images.unflatten(0, (len(z), len(alphas)))


# %% gradient_penalty: one weight for the whole batch
@answer(ufdn.gradient_penalty)
def gradient_penalty(critic, real, fake, mix):
    m = mix[0]
    between = (m * real + (1 - m) * fake).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    return (gradient.flatten(1).norm(dim=1) - 1).square().mean()


# %% gradient_penalty: weights of its own
@answer(ufdn.gradient_penalty)
def gradient_penalty(critic, real, fake, mix):
    m = torch.rand(len(real), *[1] * (real.ndim - 1), device=real.device)
    between = (m * real + (1 - m) * fake).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    return (gradient.flatten(1).norm(dim=1) - 1).square().mean()


# %% gradient_penalty: backward that fills the critic's gradients, too
# says: \.grad|critic
@answer(ufdn.gradient_penalty)
def gradient_penalty(critic, real, fake, mix):
    m = mix.view(-1, *[1] * (real.ndim - 1))
    between = (m * real + (1 - m) * fake).detach().requires_grad_()
    critic(between).sum().backward(create_graph=True)
    return (between.grad.flatten(1).norm(dim=1) - 1).square().mean()


# %% gradient_penalty: a gradient reaches real and fake
# says: gradient reaches
@answer(ufdn.gradient_penalty)
def gradient_penalty(critic, real, fake, mix):
    m = mix.view(-1, *[1] * (real.ndim - 1))
    between = m * real + (1 - m) * fake
    if not between.requires_grad:
        between.requires_grad_()
    (gradient,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    return (gradient.flatten(1).norm(dim=1) - 1).square().mean()


# %% gradient_penalty: only slopes above 1 (one-sided)
@answer(ufdn.gradient_penalty)
def gradient_penalty(critic, real, fake, mix):
    m = mix.view(-1, *[1] * (real.ndim - 1))
    between = (m * real + (1 - m) * fake).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    return (gradient.flatten(1).norm(dim=1) - 1).relu().square().mean()


# %% gradient_penalty: the mean slope compared with 1
@answer(ufdn.gradient_penalty)
def gradient_penalty(critic, real, fake, mix):
    m = mix.view(-1, *[1] * (real.ndim - 1))
    between = (m * real + (1 - m) * fake).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    return (gradient.flatten(1).norm(dim=1).mean() - 1).square()


# %% gradient_penalty: the mean, not the sum, of the scores
@answer(ufdn.gradient_penalty)
def gradient_penalty(critic, real, fake, mix):
    m = mix.view(-1, *[1] * (real.ndim - 1))
    between = (m * real + (1 - m) * fake).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(critic(between).mean(), between, create_graph=True)
    return (gradient.flatten(1).norm(dim=1) - 1).square().mean()


# %% gradient_penalty: the 1-norm
@answer(ufdn.gradient_penalty)
def gradient_penalty(critic, real, fake, mix):
    m = mix.view(-1, *[1] * (real.ndim - 1))
    between = (m * real + (1 - m) * fake).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    return (gradient.flatten(1).abs().sum(1) - 1).square().mean()


# %% gradient_penalty: images of three axes only
# says: raised|size|shape|dimension
@answer(ufdn.gradient_penalty)
def gradient_penalty(critic, real, fake, mix):
    m = mix[:, None, None, None]
    between = (m * real + (1 - m) * fake).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    return (gradient.norm(dim=(1, 2, 3)) - 1).square().mean()


# %% gradient_penalty: example by example
# says: loop|operations
@answer(ufdn.gradient_penalty)
def gradient_penalty(critic, real, fake, mix):
    penalties = []
    for a, b, m in zip(real, fake, mix, strict=True):
        between = (m * a + (1 - m) * b).detach()[None].requires_grad_()
        (gradient,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
        penalties.append((gradient.norm() - 1).square())
    return torch.stack(penalties).mean()


# %% translate: codes made on the CPU, then moved
# says: CPU
@answer(ufdn.translate)
def translate(encode, decode, x, domains):
    mean, _ = encode(x)
    codes = torch.eye(domains).to(x.device).repeat(len(x), 1)
    return decode(mean.repeat_interleave(domains, 0), codes).unflatten(0, (len(x), domains))


# %% interpolate_domains: fractions of the distance, which may miss the end
@answer(ufdn.interpolate_domains)
def interpolate_domains(decode, z, start, end, alphas):
    codes = start + alphas[:, None] * (start - end)
    images = decode(z.repeat_interleave(len(alphas), 0), codes.repeat(len(z), 1))
    return images.unflatten(0, (len(z), len(alphas)))


# %% ufdn_step: the KL's weight forgotten
@answer(ufdn.ufdn_step)
def ufdn_step(players, x, code, noise, task_loss, kl_weight, confusion_weight):
    model, critic, model_optimiser, critic_optimiser = players
    mean, log_var = model.encode(x)
    z = elbo.reparameterise(mean, log_var, noise)
    critic_loss = F.cross_entropy(critic(z.detach()), code)
    critic_optimiser.zero_grad()
    model_optimiser.zero_grad()
    critic_loss.backward()
    critic_optimiser.step()
    vae_loss = ufdn.ufdn_vae_loss(x, model.decode(z, code), mean, log_var, 1.0)
    confusion, task = ufdn.confusion_loss(critic(z)), task_loss(z)
    (vae_loss + confusion_weight * confusion + task).backward()
    model_optimiser.step()
    report = {"critic loss": critic_loss, "VAE loss": vae_loss, "confusion": confusion, "task loss": task}
    return {name: value.detach() for name, value in report.items()}
