"""Wrong answers to lesson 00, cell by cell, beyond the mistakes that the solutions name."""

# %% the notebook's first cell
import torch
import torch.nn.functional as F

from course_lib import answer
from course_lib.lessons import why_disentangle


# %% intervene: writes into its argument
# says: changes its input in place
@answer(why_disentangle.intervene)
def intervene(z, latent, value):
    z[:, latent] = value
    return z


# %% intervene: a second name is no copy
# says: changes its input in place
@answer(why_disentangle.intervene)
def intervene(z, latent, value):
    changed = z
    changed[:, latent] = value
    return changed


# %% intervene: the first example only
@answer(why_disentangle.intervene)
def intervene(z, latent, value):
    changed = z.clone()
    changed[0, latent] = value
    return changed


# %% intervene: this latent and all that follow
@answer(why_disentangle.intervene)
def intervene(z, latent, value):
    changed = z.clone()
    changed[:, latent:] = value
    return changed


# %% intervene: multiplied
@answer(why_disentangle.intervene)
def intervene(z, latent, value):
    changed = z.clone()
    changed[:, latent] *= value
    return changed


# %% intervene: a whole number
@answer(why_disentangle.intervene)
def intervene(z, latent, value):
    changed = z.clone()
    changed[:, latent] = int(value)
    return changed


# %% intervene: cut off from z
# says: No gradient reaches `z`
@answer(why_disentangle.intervene)
def intervene(z, latent, value):
    changed = z.detach().clone()
    changed[:, latent] = value
    return changed


# %% intervene: an index on the CPU
# says: CPU
@answer(why_disentangle.intervene)
def intervene(z, latent, value):
    return z.index_fill(1, torch.tensor([latent]), value)


# %% intervene: row by row
# says: loop over the batch
@answer(why_disentangle.intervene)
def intervene(z, latent, value):
    rows = []
    for row in z:
        row = row.clone()
        row[latent] = value
        rows.append(row)
    return torch.stack(rows)


# %% intervene: nothing returned
# says: `return`
@answer(why_disentangle.intervene)
def intervene(z, latent, value):
    changed = z.clone()
    changed[:, latent] = value


# %% traversal_grid: a loop over the rows
# says: loop
@answer(why_disentangle.traversal_grid)
def traversal_grid(z, latents, values):
    places = torch.arange(len(z), device=z.device)
    rows = [torch.where(places == latent, values[:, None], z) for latent in latents]
    return torch.stack(rows)


# %% traversal_grid: a loop over rows and columns
# says: loop|host
@answer(why_disentangle.traversal_grid)
def traversal_grid(z, latents, values):
    codes = z.expand(len(latents), len(values), len(z)).clone()
    for k, latent in enumerate(latents):
        for v, value in enumerate(values):
            codes[k, v, latent] = value
    return codes


# %% traversal_grid: every chosen latent in every row
@answer(why_disentangle.traversal_grid)
def traversal_grid(z, latents, values):
    codes = z.expand(len(latents), len(values), len(z)).clone()
    codes[:, :, latents] = values[None, :, None]
    return codes


# %% traversal_grid: entry k in row k
@answer(why_disentangle.traversal_grid)
def traversal_grid(z, latents, values):
    K, D = len(latents), len(z)
    mask = torch.eye(max(K, D), device=z.device)[:K, :D].bool()
    return torch.where(mask[:, None], values[None, :, None], z)


# %% traversal_grid: writes into the expanded z
# says: changes its input in place
@answer(why_disentangle.traversal_grid)
def traversal_grid(z, latents, values):
    K, V, D = len(latents), len(values), len(z)
    codes = z.expand(K, V, D)
    rows = torch.arange(K, device=z.device)[:, None]
    columns = torch.arange(V, device=z.device)[None, :]
    codes[rows, columns, latents[:, None]] = values
    return codes


# %% traversal_grid: one long list of codes
# says: shape
@answer(why_disentangle.traversal_grid)
def traversal_grid(z, latents, values):
    K, V = len(latents), len(values)
    codes = z.repeat(K * V, 1)
    return codes.scatter(1, latents.repeat_interleave(V)[:, None], values.repeat(K)[:, None])


# %% traversal_grid: values go round in the wrong order
@answer(why_disentangle.traversal_grid)
def traversal_grid(z, latents, values):
    K, V = len(latents), len(values)
    codes = z.repeat(K * V, 1)
    index, source = latents.repeat_interleave(V), values.repeat_interleave(K)
    return codes.scatter(1, index[:, None], source[:, None]).view(K, V, len(z))


# %% traversal_grid: row numbers on the CPU
# says: CPU
@answer(why_disentangle.traversal_grid)
def traversal_grid(z, latents, values):
    K, V, D = len(latents), len(values), len(z)
    codes = z.expand(K, V, D).clone()
    codes[torch.arange(K)[:, None], torch.arange(V), latents[:, None]] = values
    return codes


# %% worst_group_accuracy: groups without a right answer left out
@answer(why_disentangle.worst_group_accuracy)
def worst_group_accuracy(correct, group, groups):
    right = torch.zeros(groups, device=correct.device).index_add(0, group, correct)
    count = torch.zeros(groups, device=correct.device).index_add(0, group, torch.ones_like(correct))
    return torch.where(right > 0, right / count, torch.inf).min()


# %% worst_group_accuracy: the smallest group
@answer(why_disentangle.worst_group_accuracy)
def worst_group_accuracy(correct, group, groups):
    right = torch.zeros(groups, device=correct.device).index_add(0, group, correct)
    count = torch.zeros(groups, device=correct.device).index_add(0, group, torch.ones_like(correct))
    smallest = torch.where(count > 0, count, torch.inf).argmin()
    return (right / count)[smallest]


# %% worst_group_accuracy: the zero to start from counts as an example
@answer(why_disentangle.worst_group_accuracy)
def worst_group_accuracy(correct, group, groups):
    means = torch.zeros(groups, device=correct.device).scatter_reduce(0, group, correct, "mean")
    return means.min()


# %% worst_group_accuracy: an empty group is perfect, a small one is not counted
@answer(why_disentangle.worst_group_accuracy)
def worst_group_accuracy(correct, group, groups):
    right = torch.zeros(groups, device=correct.device).index_add(0, group, correct)
    count = torch.zeros(groups, device=correct.device).index_add(0, group, torch.ones_like(correct))
    return torch.where(count > 1, right / count, 1.0).min()


# %% worst_group_accuracy: bincount
# says: bincount
@answer(why_disentangle.worst_group_accuracy)
def worst_group_accuracy(correct, group, groups):
    right = torch.bincount(group, weights=correct, minlength=groups).float()
    count = torch.bincount(group, minlength=groups)
    return torch.where(count > 0, right / count, torch.inf).min()


# %% worst_group_accuracy: a mask for each group
# says: boolean mask
@answer(why_disentangle.worst_group_accuracy)
def worst_group_accuracy(correct, group, groups):
    means = [correct[group == g].mean() for g in range(groups)]
    return torch.stack(means).nan_to_num(1.0).min()


# %% worst_group_accuracy: as many groups as there are labels
# says: host|size depends on values
@answer(why_disentangle.worst_group_accuracy)
def worst_group_accuracy(correct, group, groups):
    groups = group.max() + 1
    member = F.one_hot(group, groups).float()
    return (correct @ member / member.sum(0)).nan_to_num(1.0).min()


# %% worst_group_accuracy: a Python minimum
# says: host
@answer(why_disentangle.worst_group_accuracy)
def worst_group_accuracy(correct, group, groups):
    member = F.one_hot(group, groups).float()
    return min((correct @ member / member.sum(0)).nan_to_num(1.0))


# %% worst_group_accuracy: whole numbers
@answer(why_disentangle.worst_group_accuracy)
def worst_group_accuracy(correct, group, groups):
    member = F.one_hot(group, groups).float()
    return (correct @ member // member.sum(0)).nan_to_num(1.0).min()


# %% worst_group_accuracy: everything on the CPU
# says: CPU
@answer(why_disentangle.worst_group_accuracy)
def worst_group_accuracy(correct, group, groups):
    right, count = torch.zeros(groups), torch.zeros(groups)
    right.index_add_(0, group, correct)
    count.index_add_(0, group, torch.ones(len(group)))
    return torch.where(count > 0, right / count, torch.inf).min()


# %% demographic_parity_gap: boolean masks
# says: boolean mask
@answer(why_disentangle.demographic_parity_gap)
def demographic_parity_gap(decision, group):
    return (decision[group == 1].mean() - decision[group == 0].mean()).abs()


# %% demographic_parity_gap: the square of the gap
@answer(why_disentangle.demographic_parity_gap)
def demographic_parity_gap(decision, group):
    a = group.float()
    return ((a * decision).sum() / a.sum() - ((1 - a) * decision).sum() / (1 - a).sum()) ** 2


# %% demographic_parity_gap: decisions made hard
# says: No gradient reaches `decision`|largest error
@answer(why_disentangle.demographic_parity_gap)
def demographic_parity_gap(decision, group):
    a, yes = group.float(), (decision > 0.5).float()
    return ((a * yes).sum() / a.sum() - ((1 - a) * yes).sum() / (1 - a).sum()).abs()


# %% demographic_parity_gap: given the decision
@answer(why_disentangle.demographic_parity_gap)
def demographic_parity_gap(decision, group):
    a = group.float()
    given_yes = (a * decision).sum() / decision.sum()
    given_no = (a * (1 - decision)).sum() / (1 - decision).sum()
    return (given_yes - given_no).abs()


# %% demographic_parity_gap: the group as an index
@answer(why_disentangle.demographic_parity_gap)
def demographic_parity_gap(decision, group):
    return (decision[group].mean() - decision[1 - group].mean()).abs()


# %% demographic_parity_gap: a ratio
@answer(why_disentangle.demographic_parity_gap)
def demographic_parity_gap(decision, group):
    a = group.float()
    p1, p0 = (a * decision).sum() / a.sum(), ((1 - a) * decision).sum() / (1 - a).sum()
    return 1 - torch.minimum(p0, p1) / torch.maximum(p0, p1)


# %% demographic_parity_gap: a correlation
@answer(why_disentangle.demographic_parity_gap)
def demographic_parity_gap(decision, group):
    a, y = group.float() - group.float().mean(), decision - decision.mean()
    return ((a * y).mean() / (a.std() * y.std())).abs()


# %% demographic_parity_gap: groups of equal size taken for granted
@answer(why_disentangle.demographic_parity_gap)
def demographic_parity_gap(decision, group):
    return (2 * (decision * (2 * group - 1)).mean()).abs()


# %% demographic_parity_gap: a Python number
# says: host|float
@answer(why_disentangle.demographic_parity_gap)
def demographic_parity_gap(decision, group):
    a = group.float()
    return abs(float((a * decision).sum() / a.sum() - ((1 - a) * decision).sum() / (1 - a).sum()))


# %% intervene: an index copied from the host to the device
# says: CPU|host|copied
@answer(why_disentangle.intervene)
def intervene(z, latent, value):
    return z.index_fill(1, torch.tensor([latent], device=z.device), value)


# %% worst_group_accuracy: the members of the last group only
@answer(why_disentangle.worst_group_accuracy)
def worst_group_accuracy(correct, group, groups):
    member = F.one_hot(group, groups).float()
    accuracy = correct @ member / member.sum(0)
    return accuracy[-1]


# %% demographic_parity_gap: parameters with names of one's own
# says: argument
@answer(why_disentangle.demographic_parity_gap)
def demographic_parity_gap(y_hat, a):
    one = a.float()
    return ((one * y_hat).sum() / one.sum() - ((1 - one) * y_hat).sum() / (1 - one).sum()).abs()
