"""Lesson 00: solutions, cases, named mistakes and hints."""

import torch

from course_lib.exercise.solution import Case, randn, solution
from course_lib.lessons import why_disentangle as lesson

# ------------------------------------------------------------------ intervene


@solution(
    lesson.intervene,
    hints=[
        "The caller still needs z. Which method of a tensor gives a copy that may be written into?",
        "A column is z[:, latent]. Copy with z.clone(), set the column of the copy, return the copy.",
    ],
)
def intervene(z, latent, value):
    changed = z.clone()
    changed[:, latent] = value
    return changed


@intervene.cases
def _(g):
    yield Case(z=torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]), latent=1, value=-1.0)
    yield Case(z=randn(g, 5, 4), latent=3, value=2.5)
    yield Case(z=randn(g, 4, 4), latent=0, value=0.0)
    yield Case(z=500 * randn(g, 1, 3), latent=0, value=-500.0)
    yield Case(z=torch.ones(4, 3), latent=1, value=1.0)


intervene.mistake(
    "You ADDED the value. An intervention replaces what was there, whatever it was.",
    added=("= value", "+= value"),
)
intervene.mistake(
    "You set a row, one whole example. The latents are the columns: z[:, latent].",
    row=("[:, latent]", "[latent]"),
)
intervene.mistake(
    "You set every latent. Only one of them changes; all others stay as they are.",
    all_latents=("[:, latent]", "[:]"),
)
intervene.mistake(
    "All the other latents are lost: start from a copy of z, not from zeros.",
    others_zero=("z.clone()", "torch.zeros_like(z)"),
)
intervene.mistake(
    "You returned the one column that changes. Return all of z, with that column set.",
    column_alone=("return changed", "return changed[:, latent]"),
)


# ------------------------------------------------------------------ traversal_grid


@solution(
    lesson.traversal_grid,
    hints=[
        "First the copies: z.expand(K, V, D).clone() is a table of K × V codes that you may write into.",
        "In row k the entry latents[k] changes. Indexing with three index tensors of shapes (K, 1), (1, V), (K, 1), all on "
        "the device of z, writes to all of them at once; scatter along the last axis does it, too.",
        "index = latents[:, None, None].expand(K, V, 1); source = values[None, :, None].expand(K, V, 1); "
        "codes.scatter(2, index, source).",
    ],
)
def traversal_grid(z, latents, values):
    shape = (len(latents), len(values), 1)
    codes = z.expand(*shape[:2], len(z))  # (K, V, D)
    return codes.scatter(2, latents[:, None, None].expand(shape), values[None, :, None].expand(shape))


@traversal_grid.cases
def _(g):
    yield Case(
        z=torch.tensor([1.0, 2.0, 3.0]), latents=torch.tensor([0, 2]), values=torch.tensor([-1.0, 0.0])
    )
    yield Case(z=randn(g, 6), latents=torch.tensor([5, 1, 1]), values=torch.linspace(-2, 2, 4))
    yield Case(z=randn(g, 4), latents=torch.tensor([2]), values=torch.tensor([0.5]))
    yield Case(
        z=torch.tensor([0.0, 500.0]), latents=torch.tensor([1, 0, 1]), values=torch.tensor([0.0, -500.0])
    )


traversal_grid.mistake(
    "You ADDED the values. A traversal sets the latent, so that columns can be compared.",
    added=("scatter(", "scatter_add("),
)
traversal_grid.mistake(
    "Rows and columns are exchanged: one row for each latent, one column for each value.",
    transposed=(".expand(shape))", ".expand(shape)).transpose(0, 1)"),
)


@traversal_grid.mistake(
    "The changes of earlier rows are still there: each row must start from z itself, not from the row before."
)
def changes_pile_up(z, latents, values):
    codes, rows = z.expand(len(values), len(z)), []
    for k in range(len(latents)):
        index = latents[k].expand(len(values), 1)
        codes = codes.scatter(1, index, values[:, None])
        rows.append(codes)
    return torch.stack(rows)


traversal_grid.mistake(
    "All the other latents are lost: start from copies of z, not from zeros.",
    others_zero=("= z.expand(", "= torch.zeros_like(z).expand("),
)


# ------------------------------------------------------------------ demographic_parity_gap


@solution(
    lesson.demographic_parity_gap,
    hints=[
        "You need two means, one over each group. With a as weights 0 and 1, Σ a ŷ / Σ a is one of them.",
        "The other one has the weights 1 − a. Then the absolute difference of the two.",
    ],
)
def demographic_parity_gap(decision, group):
    one = group.to(decision.dtype)
    zero = 1 - one
    return ((decision * one).sum() / one.sum() - (decision * zero).sum() / zero.sum()).abs()


@demographic_parity_gap.cases
def _(g):
    yield Case(decision=torch.tensor([1.0, 1.0, 0.0, 0.0, 0.0]), group=torch.tensor([1, 1, 1, 0, 0]))
    yield Case(decision=torch.rand(60, generator=g), group=(torch.rand(60, generator=g) < 0.3).long())
    yield Case(decision=(torch.rand(40, generator=g) < 0.5).float(), group=(torch.arange(40) < 25).long())
    yield Case(decision=torch.tensor([0.2, 0.4, 0.9]), group=torch.tensor([1, 1, 0]))
    yield Case(decision=torch.tensor([0.0, 1.0]), group=torch.tensor([0, 1]))


demographic_parity_gap.mistake(
    "The sign is still there: which group is favoured does not matter for the gap. Take the absolute value.",
    signed=(".abs()", ""),
)
demographic_parity_gap.mistake(
    "You divided both sums by the number of all people. Each is a probability WITHIN its group: divide by the size of "
    "the group.",
    divided_by_all=[("/ one.sum()", "/ len(one)"), ("/ zero.sum()", "/ len(zero)")],
)
demographic_parity_gap.mistake(
    "This compares one group with everybody. The gap is between the two groups.",
    against_everybody=("(decision * zero).sum() / zero.sum()", "decision.mean()"),
)
demographic_parity_gap.mistake(
    "You took the ratio of the two probabilities. The gap is their difference.",
    ratio=(" - (decision * zero).sum() / zero.sum()).abs()", " / ((decision * zero).sum() / zero.sum()))"),
)


# ------------------------------------------------------------------ worst_group_accuracy


@solution(
    lesson.worst_group_accuracy,
    hints=[
        "Two sums for each group: of `correct`, and of ones. Starting from correct.new_zeros(groups), index_add_ adds every "
        "example to its group's place.",
        "A group without examples is 0/0. Put infinity there (torch.where), so that it is never the smallest.",
        "index_add by group, of correct and of ones: their ratio, then torch.where(count > 0, …, inf).min().",
    ],
)
def worst_group_accuracy(correct, group, groups):
    zeros = torch.zeros(groups, device=correct.device)
    right = zeros.index_add(0, group, correct)
    count = zeros.index_add(0, group, torch.ones_like(correct))
    return torch.where(count > 0, right / count, float("inf")).min()


@worst_group_accuracy.cases
def _(g):
    yield Case(correct=torch.tensor([1.0, 1.0, 0.0, 1.0, 0.0]), group=torch.tensor([0, 0, 0, 1, 1]), groups=2)
    yield Case(
        correct=(torch.rand(200, generator=g) < 0.8).float(),
        group=torch.randint(5, (200,), generator=g),
        groups=5,
    )
    yield Case(  # group 1 has no examples
        correct=torch.tensor([1.0, 0.0, 1.0, 1.0]), group=torch.tensor([0, 0, 2, 2]), groups=3
    )
    yield Case(  # the worst group has one example; the first and the last have none
        correct=torch.tensor([1.0, 0.0, 1.0, 1.0]), group=torch.tensor([1, 2, 1, 1]), groups=4
    )
    yield Case(correct=torch.ones(1), group=torch.zeros(1, dtype=torch.int64), groups=1)


worst_group_accuracy.mistake(
    "This is the average over all examples, which hides small groups. Take the minimum over groups.",
    average=('torch.where(count > 0, right / count, float("inf")).min()', "correct.mean()"),
)
worst_group_accuracy.mistake(
    "This is the mean of the groups' accuracies. The worst group is their minimum.",
    mean_of_groups=('float("inf")).min()', 'float("nan")).nanmean()'),
)
worst_group_accuracy.mistake(
    "This is the best group. The worst has the smallest accuracy.", best=('float("inf")).min()', "0).max()")
)
worst_group_accuracy.mistake(
    "A group without examples counts as 0 in yours. It has no accuracy at all, and must not be the worst.",
    empty_group_is_zero=('float("inf")', "0"),
)
worst_group_accuracy.mistake(
    "A group without examples is 0/0 = NaN, and the minimum is then NaN. Leave it out.",
    empty_group_is_nan=('torch.where(count > 0, right / count, float("inf"))', "(right / count)"),
)
