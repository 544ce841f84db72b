"""Right answers to lesson 00, cell by cell."""

# %% the notebook's first cell
import torch
import torch.nn.functional as F

from course_lib import answer
from course_lib.lessons import why_disentangle


# %% intervene: the hint, literally
@answer(why_disentangle.intervene)
def intervene(z, latent, value):
    changed = z.clone()
    changed[:, latent] = value
    return changed


# %% intervene: torch.where on a mask of columns
@answer(why_disentangle.intervene)
def intervene(z, latent, value):
    column = torch.arange(z.shape[1], device=z.device) == latent
    return torch.where(column, value, z)


# %% intervene: glued together from three pieces
@answer(why_disentangle.intervene)
def intervene(z, latent, value):
    new = torch.full_like(z[:, :1], value)
    return torch.cat([z[:, :latent], new, z[:, latent + 1 :]], dim=1)


# %% intervene: masked_fill with a one-hot mask
@answer(why_disentangle.intervene)
def intervene(z, latent, value):
    mask = torch.zeros(z.shape[1], dtype=torch.bool, device=z.device)
    mask[latent] = True
    return z.masked_fill(mask, value)


# %% intervene: weights 0 and 1
@answer(why_disentangle.intervene)
def intervene(z, latent, value):
    keep = torch.ones_like(z)
    keep[:, latent] = 0
    return keep * z + (1 - keep) * value


# %% intervene: select_scatter
@answer(why_disentangle.intervene)
def intervene(z, latent, value):
    return torch.select_scatter(z, z.new_full((len(z),), value), dim=1, index=latent)


# %% intervene: scatter of a number
@answer(why_disentangle.intervene)
def intervene(z, latent, value):
    index = torch.full((len(z), 1), latent, device=z.device)
    return z.scatter(1, index, value)


# %% intervene: index_fill
@answer(why_disentangle.intervene)
def intervene(z, latent, value):
    return torch.index_fill(z, 1, torch.full((1,), latent, device=z.device), value)


# %% intervene: columns taken apart and stacked again
@answer(why_disentangle.intervene)
def intervene(z, latent, value):
    columns = list(z.unbind(1))
    columns[latent] = torch.full_like(columns[latent], value)
    return torch.stack(columns, dim=1)


# %% traversal_grid: the hint's three index tensors
@answer(why_disentangle.traversal_grid)
def traversal_grid(z, latents, values):
    K, V, D = len(latents), len(values), len(z)
    codes = z.expand(K, V, D).clone()
    rows = torch.arange(K, device=z.device)[:, None]
    columns = torch.arange(V, device=z.device)[None, :]
    codes[rows, columns, latents[:, None]] = values
    return codes


# %% traversal_grid: the last hint, literally
@answer(why_disentangle.traversal_grid)
def traversal_grid(z, latents, values):
    K, V, D = len(latents), len(values), len(z)
    codes = z.expand(K, V, D)
    index = latents[:, None, None].expand(K, V, 1)
    source = values[None, :, None].expand(K, V, 1)
    return codes.scatter(2, index, source)


# %% traversal_grid: torch.where on a one-hot mask
@answer(why_disentangle.traversal_grid)
def traversal_grid(z, latents, values):
    chosen = F.one_hot(latents, len(z)).bool()[:, None]  # (K, 1, D)
    return torch.where(chosen, values[None, :, None], z)


# %% traversal_grid: a mask by comparison, and arithmetic
@answer(why_disentangle.traversal_grid)
def traversal_grid(z, latents, values):
    mask = (latents[:, None] == torch.arange(len(z), device=z.device)).to(z.dtype)[:, None, :]
    return z * (1 - mask) + values[:, None] * mask


# %% traversal_grid: z plus what is missing to the value
@answer(why_disentangle.traversal_grid)
def traversal_grid(z, latents, values):
    difference = values[None, :] - z[latents][:, None]  # (K, V)
    one_hot = torch.eye(len(z), device=z.device)[latents]  # (K, D)
    return z + torch.einsum("kv,kd->kvd", difference, one_hot)


# %% traversal_grid: vmap over values inside vmap over latents
@answer(why_disentangle.traversal_grid)
def traversal_grid(z, latents, values):
    places = torch.arange(len(z), device=z.device)

    def code(latent, value):
        return torch.where(places == latent, value, z)

    over_values = torch.vmap(code, in_dims=(None, 0))
    return torch.vmap(over_values, in_dims=(0, None))(latents, values)


# %% traversal_grid: all pairs in one long list
@answer(why_disentangle.traversal_grid)
def traversal_grid(z, latents, values):
    K, V = len(latents), len(values)
    codes = z.repeat(K * V, 1)
    index = latents.repeat_interleave(V)[:, None]
    return codes.scatter(1, index, values.repeat(K)[:, None]).view(K, V, len(z))


# %% worst_group_accuracy: the hint, literally
@answer(why_disentangle.worst_group_accuracy)
def worst_group_accuracy(correct, group, groups):
    right = torch.zeros(groups, device=correct.device)
    count = torch.zeros(groups, device=correct.device)
    right.index_add_(0, group, correct)
    count.index_add_(0, group, torch.ones_like(correct))
    return torch.where(count > 0, right / count, torch.inf).min()


# %% worst_group_accuracy: scatter_reduce with means
@answer(why_disentangle.worst_group_accuracy)
def worst_group_accuracy(correct, group, groups):
    means = torch.full((groups,), torch.inf, device=correct.device)
    return means.scatter_reduce(0, group, correct, "mean", include_self=False).min()


# %% worst_group_accuracy: a product with a one-hot matrix
@answer(why_disentangle.worst_group_accuracy)
def worst_group_accuracy(correct, group, groups):
    member = F.one_hot(group, groups).to(correct.dtype)  # (N, G)
    accuracy = correct @ member / member.sum(0)
    return accuracy.nan_to_num(nan=torch.inf).min()


# %% worst_group_accuracy: nanmean over a table
@answer(why_disentangle.worst_group_accuracy)
def worst_group_accuracy(correct, group, groups):
    mine = group == torch.arange(groups, device=group.device)[:, None]  # (G, N)
    means = torch.where(mine, correct, torch.nan).nanmean(1)
    return means.where(~means.isnan(), 1.0).amin()


# %% worst_group_accuracy: errors, and the group that has most of them
@answer(why_disentangle.worst_group_accuracy)
def worst_group_accuracy(correct, group, groups):
    wrong = torch.zeros(groups, device=correct.device).scatter_add(0, group, 1 - correct)
    count = torch.zeros(groups, device=correct.device).scatter_add(0, group, torch.ones_like(correct))
    return 1 - (wrong / count.clamp(min=1)).max()


# %% worst_group_accuracy: index_reduce
@answer(why_disentangle.worst_group_accuracy)
def worst_group_accuracy(correct, group, groups):
    start = correct.new_full((groups,), float("inf"))
    return torch.index_reduce(start, 0, group, correct, "mean", include_self=False).min()


# %% demographic_parity_gap: the hint, literally
@answer(why_disentangle.demographic_parity_gap)
def demographic_parity_gap(decision, group):
    a = group.float()
    first = (a * decision).sum() / a.sum()
    second = ((1 - a) * decision).sum() / (1 - a).sum()
    return (first - second).abs()


# %% demographic_parity_gap: torch.where and counts
@answer(why_disentangle.demographic_parity_gap)
def demographic_parity_gap(decision, group):
    ones = group == 1
    p1 = torch.where(ones, decision, 0).sum() / ones.sum()
    p0 = torch.where(ones, 0, decision).sum() / (~ones).sum()
    return torch.abs(p1 - p0)


# %% demographic_parity_gap: sums by index_add
@answer(why_disentangle.demographic_parity_gap)
def demographic_parity_gap(decision, group):
    yes = torch.zeros(2, device=decision.device).index_add(0, group, decision)
    count = torch.zeros(2, device=decision.device).index_add(0, group, torch.ones_like(decision))
    rate = yes / count
    return (rate[1] - rate[0]).abs()


# %% demographic_parity_gap: the slope of a regression of ŷ on a
@answer(why_disentangle.demographic_parity_gap)
def demographic_parity_gap(decision, group):
    a = group.to(decision.dtype) - group.to(decision.dtype).mean()
    return ((a * decision).sum() / (a * a).sum()).abs()


# %% demographic_parity_gap: one-hot product
@answer(why_disentangle.demographic_parity_gap)
def demographic_parity_gap(decision, group):
    member = F.one_hot(group, 2).to(decision)  # (N, 2)
    return (decision @ (member / member.sum(0))).diff().abs().squeeze()


# %% demographic_parity_gap: nanmean
@answer(why_disentangle.demographic_parity_gap)
def demographic_parity_gap(decision, group):
    p1 = decision.masked_fill(group == 0, torch.nan).nanmean()
    p0 = decision.masked_fill(group == 1, torch.nan).nanmean()
    return (p1 - p0).abs()


# %% demographic_parity_gap: scatter_reduce with means
@answer(why_disentangle.demographic_parity_gap)
def demographic_parity_gap(decision, group):
    rates = decision.new_zeros(2).scatter_reduce(0, group, decision, "mean", include_self=False)
    return rates.amax() - rates.amin()


# %% worst_group_accuracy: without autograd, by a decorator
@answer(why_disentangle.worst_group_accuracy)
@torch.no_grad()
def worst_group_accuracy(correct, group, groups):
    right = correct.new_zeros(groups).scatter_add_(0, group, correct)
    count = correct.new_zeros(groups).scatter_add_(0, group, torch.ones_like(correct))
    return torch.where(count == 0, torch.inf, right / count).amin()
