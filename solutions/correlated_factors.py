"""Lesson 07: solutions, cases, named mistakes and hints."""

import torch

from course_lib.exercise.solution import Case, rand, randn, solution
from course_lib.lessons import correlated_factors as lesson
from course_lib.lessons import mutual_information

# ------------------------------------------------------------------ correlated_joint


@solution(
    lesson.correlated_joint,
    hints=[
        "Make one vector u for each of the two factors and let broadcasting build the table: give u_i the shape "
        "(1, …, size_i, …, 1) with its values along axis i.",
        "torch.arange(size, device=sigma.device) / (size − 1), then .view(shape). The difference of the two already has "
        "both axes; .expand(*sizes) adds the others.",
        "weights = (−(u_i − u_j).square() / (2 * sigma**2)).exp().expand(*sizes); return weights / weights.sum()",
    ],
)
def correlated_joint(sizes, pair, sigma):
    u = []
    for k in pair:
        shape = [1] * len(sizes)
        shape[k] = sizes[k]
        u.append((torch.arange(sizes[k], device=sigma.device) / (sizes[k] - 1)).view(shape))
    weights = (-(u[0] - u[1]).square() / (2 * sigma**2)).exp().expand(*sizes)
    return weights / weights.sum()


@correlated_joint.cases
def _(g):
    yield Case(sizes=[3, 3], pair=[0, 1], sigma=0.3 + 0.2 * rand(g, 1)[0])
    yield Case(sizes=[2, 4, 3], pair=[1, 2], sigma=0.15 + 0.1 * rand(g, 1)[0])
    yield Case(sizes=[5, 2, 8], pair=[2, 0], sigma=0.2 + 0.2 * rand(g, 1)[0])
    yield Case(
        sizes=[2, 2], pair=[1, 0], sigma=torch.tensor(0.04)
    )  # weights of e^−312, which is 0 in float32
    yield Case(sizes=[4, 3, 1, 2], pair=[0, 1], sigma=torch.tensor(5.0))


correlated_joint.mistake(
    "The factors are compared by their numbers 0, 1, 2, … Scale both to [0, 1] first, or sigma means something else for "
    "every grid.",
    not_scaled=(" / (sizes[k] - 1)", ".float()"),
)
correlated_joint.mistake(
    "The last value of a factor is at (size − 1) / size, not at 1: divide by size − 1.",
    divided_by_size=("(sizes[k] - 1)", "sizes[k]"),
)
correlated_joint.mistake(
    "These are the weights. Divide by their sum: a table of probabilities sums to 1.",
    not_normalised=(" / weights.sum()", ".clone()"),
)
correlated_joint.mistake(
    "Each row is normalised on its own, which makes the first factor of the pair uniform. p(c) is the weight divided by "
    "the sum of ALL weights.",
    rows_normalised=(
        "return weights / weights.sum()",
        "rows = weights / weights.sum(pair[1], keepdim=True)\n    return rows / rows.sum()",
    ),
)
correlated_joint.mistake(
    "The exponent is the squared difference over 2σ²: the 2 is missing in yours.",
    no_two=("(2 * sigma**2)", "sigma**2"),
)
correlated_joint.mistake(
    "The difference is not squared: the exponent is −(u_i − u_j)² / 2σ².", not_squared=(".square()", ".abs()")
)


# ------------------------------------------------------------------ sample_correlated


@solution(
    lesson.sample_correlated,
    hints=[
        "Flatten the table: the cells have numbers 0 … cells − 1, and you want n of these numbers. Cumulated "
        "probabilities cut [0, 1) into one interval for each cell.",
        "Flatten, double, cumsum: the borders. torch.searchsorted(borders, u, right=True) finds the interval of each u. "
        "(torch.multinomial(…, replacement=True) does it, too.)",
        "Back to factors, the last one first: cell % size is the factor, cell // size what is left. Stack the columns "
        "in the right order.",
    ],
)
def sample_correlated(joint, n, generator):
    shares = joint.flatten().double().cumsum(0)
    u = torch.rand(n, generator=generator, device=joint.device, dtype=torch.float64)
    cell = torch.searchsorted(shares, u * shares[-1], right=True)  # (n,)
    columns = []
    for size in reversed(joint.shape):  # the last factor changes fastest
        columns.insert(0, cell % size)
        cell = cell // size
    return torch.stack(columns, dim=1)


@sample_correlated.cases
def _(g):
    yield Case(joint=torch.tensor([[0.475, 0.025], [0.025, 0.475]]), n=400)
    yield Case(joint=torch.tensor([[0.6, 0.0, 0.1], [0.0, 0.1, 0.2]]), n=400)
    yield Case(joint=torch.full((2, 3, 4), 1 / 24), n=400)
    yield Case(joint=torch.tensor([[0.0], [0.0], [0.3], [0.0], [0.7], [0.0]]), n=400)


sample_correlated.mistake(
    "Every cell is as frequent as any other: the table has no say. Draw cell numbers with the probabilities "
    "joint.flatten().",
    uniform=(
        "torch.searchsorted(shares, u * shares[-1], right=True)",
        "torch.randint(joint.numel(), (n,), generator=generator, device=joint.device)",
    ),
)


@sample_correlated.mistake(
    "Each factor is drawn on its own, from its own frequencies: they are right, and the correlation is gone. Draw CELLS "
    "of the whole table."
)
def each_on_its_own(joint, n, generator):
    columns = []
    for axis in range(joint.ndim):
        alone = joint.sum([k for k in range(joint.ndim) if k != axis])
        columns.append(sample_correlated(alone, n, generator)[:, 0])
    return torch.stack(columns, dim=1)


sample_correlated.mistake(
    "The cells are numbered with the last factor fastest, as .flatten() does; you took the first one for the fastest.",
    first_is_fastest=[
        ("reversed(joint.shape)", "joint.shape"),
        ("columns.insert(0, cell % size)", "columns.append(cell % size)"),
    ],
)
sample_correlated.mistake(
    "This is always the most likely cell. A sample has the unlikely ones too, as often as the table says.",
    most_likely=(
        "torch.searchsorted(shares, u * shares[-1], right=True)",
        "joint.flatten().argmax().expand(n)",
    ),
)
sample_correlated.mistake(
    "The draw does not come from `generator`, so a run with the same seed cannot be repeated. Pass it on: "
    "generator=generator.",
    global_randomness=("generator=generator, ", ""),
)
sample_correlated.mistake(
    "Two draws are the same. Do not seed `generator` again: take from it what comes next.",
    seeded_again=("generator=generator", "generator=torch.Generator(generator.device).manual_seed(0)"),
)
sample_correlated.mistake(
    "The points come in order: one tells where the next is. n INDEPENDENT draws follow each other in no order.",
    in_order=("shares[-1], right=True)", "shares[-1], right=True).sort().values"),
)


# ------------------------------------------------------------------ accuracy_bound


@solution(
    lesson.accuracy_bound,
    hints=[
        "Independent predictions have a fixed table: q_ij = p(a_1 = i) p(a_2 = j). How often can two tables agree, at "
        "best?",
        "In cell (i, j) the truth is there p_ij of the time and the predictions q_ij of the time: they can meet there "
        "min(p_ij, q_ij) of the time and no more. Sum over the cells.",
        "With keepdim=True the two margins broadcast to the table q; then torch.minimum(joint, q).sum((-2, -1)).",
    ],
)
def accuracy_bound(joint):
    product = joint.sum(-1, keepdim=True) * joint.sum(-2, keepdim=True)  # of the predictions
    return torch.minimum(joint, product).sum((-2, -1))


@accuracy_bound.cases
def _(g):
    yield Case(joint=torch.tensor([[0.475, 0.025], [0.025, 0.475]]))
    table = rand(g, 5, 3, 4) ** 3
    yield Case(joint=table / table.sum((-2, -1), keepdim=True))
    table = rand(g, 2, 2, 4, 4) + 2 * torch.eye(4)
    yield Case(joint=table / table.sum((-2, -1), keepdim=True))
    yield Case(
        joint=torch.tensor([[[0.3, 0.0, 0.2], [0.0, 0.0, 0.0], [0.1, 0.0, 0.4]]])
    )  # an empty row and column


accuracy_bound.mistake(
    "The ½ is missing: Σ |p − q| counts every difference twice, once where p has more and once where q has.",
    no_half=("torch.minimum(joint, product).sum((-2, -1))", "1 - (joint - product).abs().sum((-2, -1))"),
)
accuracy_bound.mistake(
    "This is what is lost (the total variation). The bound is 1 minus that.",
    what_is_lost=("return ", "return 1 - "),
)
accuracy_bound.mistake(
    "Σ p q is how often predictions that know NOTHING of the image agree with the truth. The best predictions meet the "
    "truth as often as the two tables allow: min(p, q).",
    blind_predictions=("torch.minimum(joint, product)", "(joint * product)"),
)
accuracy_bound.mistake(
    "You took uniform predictions, 1 / (K L) in every cell. They are as frequent as the attributes: p_i p_j, the product "
    "of the table's own margins.",
    uniform_predictions=(
        "torch.minimum(joint, product)",
        "joint.clamp(max=1 / (joint.shape[-1] * joint.shape[-2]))",
    ),
)
accuracy_bound.mistake(
    "Only the diagonal is counted. Predictions may be right in every cell (i, j), also where a_1 and a_2 differ.",
    diagonal_only=(".sum((-2, -1))", ".diagonal(dim1=-2, dim2=-1).sum(-1)"),
)
accuracy_bound.mistake(
    "This is the largest cell of each, added up in the wrong order: take the SMALLER of p and q in every cell.",
    larger=("torch.minimum", "torch.maximum"),
)


# ------------------------------------------------------------------ conditional_mutual_information


@solution(
    lesson.conditional_mutual_information,
    hints=[
        "I(x; y | a) is a difference of entropies, each of a table you get by summing out what is not in it. Which four?",
        "I(x; y | a) = H(x, a) + H(y, a) − H(x, y, a) − H(a). torch.special.entr knows that 0 log 0 = 0.",
        "p = table / table.sum((-3, -2, -1), keepdim=True); p(x, a) = p.sum(-2), p(y, a) = p.sum(-3), p(a) = "
        "p.sum((-3, -2)).",
    ],
)
def conditional_mutual_information(table):
    p = table / table.sum((-3, -2, -1), keepdim=True)  # (…, K, L, M): x, y, a

    def entropy(q, axes):
        return torch.special.entr(q).sum(axes)

    p_xa, p_ya, p_a = p.sum(-2), p.sum(-3), p.sum((-3, -2))
    return entropy(p_xa, (-2, -1)) + entropy(p_ya, (-2, -1)) - entropy(p, (-3, -2, -1)) - entropy(p_a, (-1,))


@conditional_mutual_information.cases
def _(g):
    yield Case(table=torch.tensor([[[4, 0], [1, 1]], [[1, 1], [2, 6]]]))
    yield Case(table=rand(g, 3, 4, 2, 3))
    yield Case(table=rand(g, 2, 3, 3, 4) * torch.tensor([1.0, 0.2, 0.0, 3.0]))
    yield Case(
        table=torch.tensor([[[[3, 0], [0, 1]], [[0, 0], [0, 0]], [[1, 2], [0, 2]]]])
    )  # y is never 1 at a = 0


@conditional_mutual_information.mistake(
    "This is I(x; y), with a summed out. Two variables that depend on each other may be independent once a is known, "
    "and the other way round."
)
def unconditional(table):
    return mutual_information.discrete_mutual_information(table.sum(-1))


@conditional_mutual_information.mistake(
    "The groups count alike. Weigh the information inside each group by how frequent the group is, p(a)."
)
def plain_mean(table):
    information = mutual_information.discrete_mutual_information(table.movedim(-1, -3))  # of each group
    return information.nan_to_num().mean(-1)


conditional_mutual_information.mistake(
    "H(a) is missing: H(x, a) + H(y, a) counts what a holds twice, H(x, y, a) takes it away once. Subtract H(a), too.",
    no_entropy_of_a=(" - entropy(p_a, (-1,))", ""),
)
conditional_mutual_information.mistake(
    "This is in bits (log2). The course measures in nats.", bits=(".sum(axes)", ".sum(axes) / 0.6931472")
)


@conditional_mutual_information.mistake(
    "Empty cells or groups give NaN: 0 · log 0 must count as 0. torch.special.entr and torch.xlogy do that."
)
def nan_in_empty_cells(table):
    p = table / table.sum((-3, -2, -1), keepdim=True)
    p_xa, p_ya, p_a = (p.sum(axes, keepdim=True) for axes in (-2, -3, (-3, -2)))
    return (p * (p * p_a / (p_xa * p_ya)).log()).sum((-3, -2, -1))


conditional_mutual_information.mistake(
    "You conditioned on the first axis. The axes are x, y, a: the attribute that is known is the LAST.",
    given_the_first=("p = table", "table = table.movedim(-3, -1)\n    p = table"),
)


@conditional_mutual_information.mistake(
    "Empty cells are right, but where a value never comes up within a group 0 / 0 gives NaN. Take the difference of "
    "logarithms, or entropies."
)
def nan_in_empty_rows(table):
    p = table / table.sum((-3, -2, -1), keepdim=True)
    p_xa, p_ya, p_a = (p.sum(axes, keepdim=True) for axes in (-2, -3, (-3, -2)))
    return torch.xlogy(p, p * p_a / (p_xa * p_ya)).sum((-3, -2, -1))


# ------------------------------------------------------------------ gaussian_conditional_mutual_information


@solution(
    lesson.gaussian_conditional_mutual_information,
    hints=[
        "Given a, (x, y) is still Gaussian, and its covariance does not depend on the value of a. Which matrix is it?",
        "S = Σ_11 − Σ_12 Σ_22⁻¹ Σ_21. Cut Σ into its blocks with covariance[..., :n, n:] and so on, n = x + y. Σ_22⁻¹ Σ_21 "
        "is torch.linalg.solve_ex(Σ_22, Σ_21)[0].",
        "Then it is the mutual information of two blocks of S: ½ (log det S[:x, :x] + log det S[x:, x:] − log det S), "
        "with torch.linalg.slogdet(…).logabsdet.",
    ],
)
def gaussian_conditional_mutual_information(covariance, x, y):
    n = x + y
    cross, inner = covariance[..., :n, n:], covariance[..., n:, n:]
    s = covariance[..., :n, :n] - cross @ torch.linalg.solve_ex(inner, cross.mT)[0]  # (…, n, n)

    def log_det(matrix):
        return torch.linalg.slogdet(matrix).logabsdet

    return 0.5 * (log_det(s[..., :x, :x]) + log_det(s[..., x:, x:]) - log_det(s))


@gaussian_conditional_mutual_information.cases
def _(g):
    yield Case(covariance=torch.tensor([[2.0, 0.8, 1.0], [0.8, 1.5, 0.5], [1.0, 0.5, 1.0]]), x=1, y=1)
    factor = randn(g, 4, 6, 6)
    yield Case(covariance=factor @ factor.mT + torch.eye(6), x=2, y=1)
    factor = randn(g, 2, 3, 5, 5)
    yield Case(covariance=factor @ factor.mT + torch.eye(5), x=1, y=3)
    factor = randn(g, 1, 5, 5)
    yield Case(covariance=factor @ factor.mT + torch.eye(5), x=1, y=1)


gaussian_conditional_mutual_information.mistake(
    "This is I(x; y), without a. Knowing a changes the covariance of (x, y): take the Schur complement first.",
    unconditional=(" - cross @ torch.linalg.solve_ex(inner, cross.mT)[0]", ""),
)
gaussian_conditional_mutual_information.mistake(
    "The sign of the Schur complement is wrong: knowing a takes variance away, S = Σ_11 − Σ_12 Σ_22⁻¹ Σ_21.",
    added=("- cross", "+ cross"),
)
gaussian_conditional_mutual_information.mistake(
    "The factor ½ is missing: the entropy of a Gaussian has ½ log det.", no_half=("0.5 * ", "")
)
gaussian_conditional_mutual_information.mistake(
    "Σ_22 is not inverted: S = Σ_11 − Σ_12 Σ_22⁻¹ Σ_21.",
    not_inverted=("torch.linalg.solve_ex(inner, cross.mT)[0]", "inner @ cross.mT"),
)
gaussian_conditional_mutual_information.mistake(
    "This is I(x; a): the second block has to be y, given a, and not a itself.",
    with_a=(
        "log_det(s[..., :x, :x]) + log_det(s[..., x:, x:]) - log_det(s)",
        "log_det(covariance[..., :x, :x]) - log_det(s[..., :x, :x])",
    ),
)
gaussian_conditional_mutual_information.mistake(
    "The sign is wrong: a mutual information is never negative.", negative=("0.5", "-0.5")
)


# ------------------------------------------------------------------ linear_optimum


@solution(
    lesson.linear_optimum,
    hints=[
        "Σ_s and Σ_x = Σ_s + σ² I have the same eigenvectors, (1, 1) and (1, −1), over √2, whatever ρ: every matrix you "
        "need has the form [[p, q], [q, p]], with eigenvalues p + q and p − q.",
        "Eigenvalues of Σ_s: 1 + ρ and 1 − ρ; of Σ_x: those plus σ². Then base: λ / (λ + σ²). From eigenvalues (u, v) back to "
        "the matrix: p = (u + v) / 2, q = (u − v) / 2.",
        "Condition 2: the whitener Σ_x^{−½} has eigenvalues (λ + σ²)^{−½}, Σ_x^{−½} Σ_s has λ (λ + σ²)^{−½}, and both "
        "entries of its diagonal are the mean of these two.",
    ],
)
def linear_optimum(correlation, noise):
    def matrix(u, v):  # with eigenvectors (1, 1) and (1, -1)
        p, q = (u + v) / 2, (u - v) / 2
        return torch.stack([p, q, q, p], dim=-1).unflatten(-1, (2, 2))

    signal = 1 + correlation, 1 - correlation  # the eigenvalues of Σ_s
    base = matrix(*(value / (value + noise) for value in signal))
    whitener = matrix(*((value + noise).rsqrt() for value in signal))
    scale = sum(value * (value + noise).rsqrt() for value in signal) / 2  # both entries of the diagonal
    own = 1 / (1 + noise)
    conditional = matrix(own, own)
    return base, scale[..., None, None] * whitener, conditional


@linear_optimum.cases
def _(g):
    yield Case(correlation=torch.tensor([0.8, -0.5]), noise=torch.tensor([0.1, 1.0]))
    yield Case(correlation=torch.tensor(0.8), noise=torch.tensor(0.1))
    yield Case(correlation=torch.tensor([0.95, 0.95, 0.1, -0.5]), noise=torch.tensor([0.1, 1.0, 0.5, 0.3]))
    yield Case(correlation=0.1 + 0.8 * rand(g, 3, 4), noise=0.1 + rand(g, 3, 4))
    yield Case(correlation=torch.tensor([-0.99]), noise=torch.tensor([100.0]))


linear_optimum.mistake(
    "The noise is missing in Σ_x: x = s + n, so Σ_x = Σ_s + σ² I. Without it, x is s and every encoder is perfect.",
    no_noise=("    signal =", "    noise = 0 * noise\n    signal ="),
)
linear_optimum.mistake(
    "`noise` is the variance σ², not the standard deviation: do not square it.",
    noise_squared=("    signal =", "    noise = noise**2\n    signal ="),
)
linear_optimum.mistake(
    "The second is whitened, but not scaled: components of variance 1 are independent, yet not the best predictions. "
    "Multiply row k by Cov(s_k, z_k).",
    not_scaled=("scale[..., None, None] * ", ""),
)
linear_optimum.mistake(
    "The third keeps Base's diagonal. Those numbers are right only together with the others; alone, ŝ_k = x_k / (1 + σ²) is "
    "best.",
    bases_diagonal=("matrix(own, own)", "base * torch.eye(2, device=base.device)"),
)
linear_optimum.mistake(
    "The second whitens with Σ_s in place of Σ_x. It is the predictions, made of x, that must be uncorrelated.",
    whitened_signal=[
        ("((value + noise).rsqrt()", "(value.rsqrt()"),
        ("value * (value + noise).rsqrt()", "value.sqrt()"),
    ],
)


@linear_optimum.mistake(
    "The second whitens with a triangular (Cholesky) root: independent as well, but the first prediction then gets all "
    "that both share. The symmetric root treats both alike and is better on average."
)
def cholesky(correlation, noise):
    base, _, conditional = linear_optimum(correlation, noise)
    v, zero = 1 + noise, torch.zeros_like(correlation + noise)
    rest = v - correlation**2 / v  # the variance of x_2 given x_1
    first, second = 1 / v, (1 - correlation**2 / v) / rest
    entries = [first + zero, zero, -second * correlation / v, second + zero]
    return base, torch.stack(entries, dim=-1).unflatten(-1, (2, 2)), conditional


linear_optimum.mistake(
    "The matrices are in another order: no condition, I(ŝ_1; ŝ_2) = 0, I(ŝ_1; ŝ_2 | s_k) = 0.",
    last_two_swapped=[
        (
            "return base, scale[..., None, None] * whitener, conditional",
            "return base, conditional, scale[..., None, None] * whitener",
        )
    ],
)


# ------------------------------------------------------------------ shuffle_within_groups


@solution(
    lesson.shuffle_within_groups,
    hints=[
        "Sort the places by their attribute: each group is then one stretch. Bring the rows into the same stretches, but "
        "in a random order inside each.",
        "A random order p of all rows, then a STABLE sort of a[p], gives rows sorted by group and random inside. "
        "a.argsort(stable=True) gives the places they may go to.",
        "source = p[a[p].argsort(stable=True)]; place = a.argsort(stable=True); then result[place] = z[source], "
        "which index_copy does for a new tensor.",
    ],
)
def shuffle_within_groups(z, a, generator):
    order = torch.randperm(len(z), generator=generator, device=z.device)
    source = order[a[order].argsort(stable=True)]  # rows sorted by group, in random order inside each
    place = a.argsort(stable=True)  # the places of each group, in the same stretches
    return torch.empty_like(z).index_copy(0, place, z[source])


@shuffle_within_groups.cases
def _(g):
    places = torch.arange(64.0)
    yield Case(z=places[:, None].repeat(1, 3), a=torch.arange(64) % 4)
    yield Case(z=places[:, None].repeat(1, 5), a=7 * torch.randint(5, (64,), generator=g) - 3)
    yield Case(z=places[:, None].repeat(1, 2), a=(torch.arange(64) > 9).long())
    yield Case(z=places[:, None], a=torch.tensor([500, -500]).repeat(32).index_fill(0, torch.tensor([5]), 0))
    yield Case(z=torch.zeros(1, 3), a=torch.tensor([2]))
    yield Case(z=places[:, None].repeat(1, 3), a=2**40 + torch.arange(64) % 2).alone(
        "Right where labels are small only: as float32 these are all the same number. Sort the labels as they are."
    )


shuffle_within_groups.mistake(
    "The rows move across groups: this is lesson 01's shuffle, which samples p(z) p(w, a). Here z must keep its "
    "attribute.",
    whole_batch=("torch.empty_like(z).index_copy(0, place, z[source])", "z[order]"),
)
shuffle_within_groups.mistake(
    "The rows are sorted by group and stay there. Put them back: row i of the result must have the attribute a_i.",
    not_put_back=("torch.empty_like(z).index_copy(0, place, z[source])", "z[source]"),
)


@shuffle_within_groups.mistake(
    "Every column was shuffled on its own, which tears the rows apart. A row is one sample of z and stays whole."
)
def columns_apart(z, a, generator):
    columns = [shuffle_within_groups(z[:, k : k + 1], a, generator) for k in range(z.shape[1])]
    return torch.cat(columns, dim=1)


@shuffle_within_groups.mistake(
    "You drew rows of the group with replacement: some come twice and some never. A shuffle has each exactly once."
)
def with_replacement(z, a, generator):
    score = torch.rand(len(z), len(z), generator=generator, device=z.device)
    return z[(score - 2 * (a[:, None] != a).float()).argmax(1)]


shuffle_within_groups.mistake(
    "The rows are where they were: nothing was shuffled.",
    untouched=("torch.empty_like(z).index_copy(0, place, z[source])", "z.clone()"),
)


@shuffle_within_groups.mistake(
    "The order is the same at every call. Draw it anew from `generator`, or the critic learns it by heart."
)
def always_reversed(z, a, generator):
    place = a.argsort(stable=True)
    back = len(z) - 1 - a.flip(0).argsort(stable=True)
    return torch.empty_like(z).index_copy(0, place, z[back])


shuffle_within_groups.mistake(
    "The order does not come from `generator`, so a run with the same seed cannot be repeated. Pass it on: "
    "generator=generator.",
    global_randomness=("generator=generator, ", ""),
)


# ------------------------------------------------------------------ conditional_critic_loss


@solution(
    lesson.conditional_critic_loss,
    hints=[
        "Two batches for the critic: with own and with shuffled, all else the same. The attribute comes as zeros and one "
        "1.",
        "torch.cat([own, rest, onehot], dim=1), where onehot compares a[:, None] with all classes (torch.arange on a's "
        "device), as floats.",
        "The critic gives (B, 1): .squeeze(1), then mutual_information.critic_loss(logits of own, logits of shuffled).",
    ],
)
def conditional_critic_loss(critic, own, shuffled, rest, a, classes):
    onehot = (a[:, None] == torch.arange(classes, device=a.device)).to(own.dtype)  # (B, classes)
    joint, other = (critic(torch.cat([z, rest, onehot], dim=1)).squeeze(1) for z in (own, shuffled))
    return mutual_information.critic_loss(joint, other)


@conditional_critic_loss.cases
def _(g):
    sizes = [(2, 1, 1, 2, 4), (40, 3, 3, 3, 8), (30, 2, 5, 4, 8)]
    for b, d, e, classes, hidden in sizes:
        yield Case(
            weight=randn(g, d + e + classes, hidden),
            own=randn(g, b, d),
            shuffled=randn(g, b, d),
            rest=randn(g, b, e),
            a=(torch.arange(b) * 5 + 1) % classes,
            classes=classes,
        )
    yield Case(  # a class that no example has, and a critic that is very sure
        weight=torch.cat([torch.tensor([[500.0], [-500.0]]), torch.zeros(3, 1)]).repeat(1, 200),
        own=torch.tensor([[1.0]]),
        shuffled=torch.tensor([[-1.0]]),
        rest=torch.tensor([[0.5]]),
        a=torch.tensor([2]),
        classes=3,
    )


conditional_critic_loss.mistake(
    "The labels are exchanged: pairs with `own` are class 1, those with `shuffled` class 0. (Exchanged, it is the "
    "encoder's loss.)",
    labels_exchanged=("(joint, other)", "(other, joint)"),
)
conditional_critic_loss.mistake(
    "The critic is not told the attribute: its columns are zero. Then it tells p(z, w) from p(z | a) p(w | a) mixed over "
    "a, which is not what you want.",
    not_told=("onehot], dim", "0 * onehot], dim"),
)
conditional_critic_loss.mistake(
    "The attribute is a number in yours, the same in every column. It needs one column per class (one-hot): classes have "
    "no order.",
    as_a_number=("(a[:, None] == torch.arange(classes, device=a.device))", "a[:, None].expand(-1, classes)"),
)
conditional_critic_loss.mistake(
    "The columns are in another order: the critic expects [own, rest, onehot(a)].",
    attribute_first=("[z, rest, onehot]", "[onehot, z, rest]"),
)
conditional_critic_loss.mistake(
    "The codes are detached, so the encoder can never be trained with this loss. The caller detaches where it must.",
    detached=("[z, rest,", "[z.detach(), rest.detach(),"),
)
conditional_critic_loss.mistake(
    "The factor ½ is missing: lesson 01's critic_loss is the mean over both halves.",
    no_half=("return ", "return 2 * "),
)
