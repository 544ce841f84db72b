"""Lesson 01: solutions, cases, named mistakes and hints."""

import math

import torch
import torch.nn.functional as F

from course_lib.exercise.solution import Case, rand, randn, small_numbers, solution
from course_lib.lessons import mutual_information as lesson

# ------------------------------------------------------------------ entropy


@solution(
    lesson.entropy,
    hints=[
        "A fair coin has log 2 = 0.693 nats, a certain outcome has 0. Try both by hand.",
        "0 · log 0 is NaN for a computer. One function of torch.special computes −p log p with the limit 0 built in.",
        "torch.special.entr(p).sum(-1), or torch.xlogy(p, p) with a minus sign.",
    ],
)
def entropy(p):
    return torch.special.entr(p).sum(-1)


@entropy.cases
def _(g):
    yield Case(p=torch.tensor([[0.5, 0.5], [0.9, 0.1]]))
    yield Case(p=torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]]))
    yield Case(p=rand(g, 4, 3, 5).softmax(-1))
    yield Case(
        p=(100 * randn(g, 6)).softmax(-1)
    )  # one distribution, of a few probabilities and many that are nearly 0
    yield Case(p=torch.full((1, 4), 0.25))


entropy.mistake(
    "This is in bits (log2). The course measures in nats: use the natural logarithm.",
    bits=(".sum(-1)", ".sum(-1) / math.log(2)"),
)
entropy.mistake(
    "The sign is wrong: log p is negative, so −Σ p log p is positive.", negative=("torch", "-torch")
)
entropy.mistake(
    "Right where every p is positive, but 0 · log 0 is NaN on a computer. Its limit is 0: torch.xlogy or "
    "torch.special.entr know that.",
    zero_times_infinity=("torch.special.entr(p)", "-(p * p.log())"),
)
entropy.mistake(
    "You averaged over the K outcomes. Entropy is a sum: the weights p are already in it.",
    mean_over_outcomes=(".sum(-1)", ".mean(-1)"),
)
entropy.mistake(
    "You summed over the first axis. The probabilities stand along the last one: .sum(-1).",
    first_axis=(".sum(-1)", ".sum(0)"),
)


# ------------------------------------------------------------------ contingency_table


@solution(
    lesson.contingency_table,
    hints=[
        "Give every pair (i, j) one number, so that counting pairs becomes counting numbers. Which number has row i, "
        "column j in a table that is stored row by row?",
        "i · classes_b + j. Then add 1 into a flat table of zeros at these places; a place may come up many times.",
        "torch.zeros(K * L, dtype=torch.int64, device=a.device).index_add_(0, cell, torch.ones_like(cell)), then "
        ".view(K, L).",
    ],
)
def contingency_table(a, b, classes_a, classes_b):
    cell = a * classes_b + b  # (N,): the table's cells, numbered row by row
    counts = torch.zeros(classes_a * classes_b, dtype=torch.int64, device=a.device)
    return counts.index_add_(0, cell, torch.ones_like(cell)).view(classes_a, classes_b)


@contingency_table.cases
def _(g):
    yield Case(a=torch.tensor([0, 0, 1, 1, 1]), b=torch.tensor([0, 2, 1, 1, 0]), classes_a=2, classes_b=3)
    yield Case(
        a=torch.randint(5, (200,), generator=g),
        b=torch.randint(5, (200,), generator=g) + 1,
        classes_a=6,
        classes_b=7,
    )  # the last row, the first and the last column are empty
    yield Case(
        a=torch.randint(4, (90,), generator=g),
        b=torch.randint(4, (90,), generator=g),
        classes_a=4,
        classes_b=4,
    )
    yield Case(a=torch.tensor([1]), b=torch.tensor([0]), classes_a=2, classes_b=2)


@contingency_table.mistake(
    "Each pair is counted once at most: table[a, b] += 1 reads all places, adds 1, and writes them back, so of "
    "repeated pairs one write survives. index_add_ and scatter_add_ add up."
)
def counted_once(a, b, classes_a, classes_b):
    table = torch.zeros(classes_a, classes_b, dtype=torch.int64, device=a.device)
    table[a, b] += 1
    return table


contingency_table.mistake(
    "Rows and columns are exchanged: a numbers the rows, b the columns.",
    transposed=[
        ("a * classes_b + b", "b * classes_a + a"),
        (".view(classes_a, classes_b)", ".view(classes_b, classes_a)"),
    ],
)


contingency_table.mistake(
    "The cells are numbered with the wrong stride. Stored row by row, row i begins at i · classes_b.",
    wrong_stride=("a * classes_b +", "a * classes_a +"),
)
contingency_table.mistake(
    "These are frequencies. Return the counts themselves, int64: they are exact, and the next function normalises.",
    frequencies=(".view(classes_a, classes_b)", ".view(classes_a, classes_b) / len(a)"),
)


# ------------------------------------------------------------------ discrete_mutual_information


@solution(
    lesson.discrete_mutual_information,
    hints=[
        "First make probabilities of the table: divide by its sum over the last two axes. Rows sum to p(a), columns to "
        "p(b); with keepdim=True their product has the table's shape.",
        "I is also H(a) + H(b) − H(a, b), three entropies that treat 0 log 0 rightly.",
        "joint is the table over its sum (keepdim=True); H(a) = entr(joint.sum(-1)).sum(-1), H(b) = "
        "entr(joint.sum(-2)).sum(-1), H(a, b) = entr(joint).sum((-2, -1)).",
    ],
)
def discrete_mutual_information(table):
    joint = table / table.sum((-2, -1), keepdim=True)  # (…, K, L)
    a, b = joint.sum(-1), joint.sum(-2)  # (…, K), (…, L)
    return lesson.entropy(a) + lesson.entropy(b) - lesson.entropy(joint.flatten(-2))


@discrete_mutual_information.cases
def _(g):
    yield Case(table=torch.tensor([[3, 1], [1, 3]]))
    yield Case(table=torch.tensor([[4, 0, 0], [0, 2, 2]]))
    yield Case(table=rand(g, 3, 4, 5))
    yield Case(table=torch.tensor([[0.4, 0.1], [0.1, 0.4]]))
    yield Case(
        table=torch.tensor([[[3.0, 0.0, 5.0], [0.0, 0.0, 0.0], [2.0, 0.0, 1.0]]])
    )  # an empty row and column


discrete_mutual_information.mistake(
    "The counts are not normalised. p_ij is the table divided by its sum; only then are the sums over rows and columns "
    "probabilities.",
    counts_as_probabilities=("table / table.sum((-2, -1), keepdim=True)", "table.float()"),
)


@discrete_mutual_information.mistake(
    "Empty cells give NaN: 0 · log 0 must count as 0. Use torch.xlogy, or your own entropy."
)
def nan_in_empty_cells(table):
    joint = table / table.sum((-2, -1), keepdim=True)
    product = joint.sum(-1, keepdim=True) * joint.sum(-2, keepdim=True)
    return (joint * (joint / product).log()).sum((-2, -1))


discrete_mutual_information.mistake(
    "This is in bits (log2). The course measures in nats.",
    bits=[("return lesson", "return (lesson"), ("flatten(-2))", "flatten(-2))) / math.log(2)")],
)
discrete_mutual_information.mistake(
    "This is the joint entropy H(a, b). Mutual information is H(a) + H(b) − H(a, b).",
    joint_entropy=("lesson.entropy(a) + lesson.entropy(b) - ", ""),
)
discrete_mutual_information.mistake(
    "This is the conditional entropy H(a | b). I(a; b) is H(a) − H(a | b).",
    conditional_entropy=(
        "lesson.entropy(a) + lesson.entropy(b) - lesson.entropy(joint.flatten(-2))",
        "lesson.entropy(joint.flatten(-2)) - lesson.entropy(b)",
    ),
)


@discrete_mutual_information.mistake(
    "The KL is the wrong way round: the average is taken over the JOINT distribution, KL[p(a, b) || p(a) p(b)]."
)
def reversed_kl(table):
    joint = table / table.sum((-2, -1), keepdim=True)
    product = joint.sum(-1, keepdim=True) * joint.sum(-2, keepdim=True)
    return (torch.xlogy(product, product) - torch.xlogy(product, joint)).sum((-2, -1))


@discrete_mutual_information.mistake(
    "Empty cells are right, but an empty row or column gives 0 / 0 = NaN: its product of marginals is 0, too. Take the "
    "difference of logarithms, torch.xlogy(p, p) − torch.xlogy(p, p_i p_j), or entropies."
)
def nan_in_empty_rows(table):
    joint = table / table.sum((-2, -1), keepdim=True)
    product = joint.sum(-1, keepdim=True) * joint.sum(-2, keepdim=True)
    return torch.xlogy(joint, joint / product).sum((-2, -1))


# ------------------------------------------------------------------ gaussian_total_correlation


@solution(
    lesson.gaussian_total_correlation,
    hints=[
        "If Σ is diagonal, det Σ is the product of the variances and the two terms cancel: TC = 0. Try that first.",
        "torch.diagonal(Σ, dim1=-2, dim2=-1) gives the variances of a whole batch of matrices.",
        "torch.linalg.slogdet(covariance).logabsdet is log det Σ without forming det Σ, which may underflow.",
    ],
)
def gaussian_total_correlation(covariance):
    variances = covariance.diagonal(dim1=-2, dim2=-1)  # (…, D)
    return 0.5 * (variances.log().sum(-1) - torch.linalg.slogdet(covariance).logabsdet)


@gaussian_total_correlation.cases
def _(g):
    yield Case(covariance=torch.tensor([[1.0, 0.5], [0.5, 1.0]]))
    yield Case(covariance=torch.tensor([[4.0, 0.9], [0.9, 0.25]]))
    root = randn(g, 5, 6, 12)
    yield Case(covariance=root @ root.mT / 12)
    root = randn(g, 30, 60)
    yield Case(covariance=1e-3 * root @ root.mT / 60)  # its determinant, about 1e-99, is 0 in float32
    yield Case(covariance=torch.tensor([[[250000.0, 100.0], [100.0, 1.0]], [[2e-8, 5e-9], [5e-9, 1e-8]]]))
    yield Case(covariance=torch.tensor([[[2.0, 0.0], [0.0, 0.5]]]))


gaussian_total_correlation.mistake(
    "The factor ½ is missing: log densities of a Gaussian have ½ log det Σ.", no_half=("0.5 * ", "")
)
gaussian_total_correlation.mistake(
    "The sign is wrong: total correlation is a KL divergence, never negative.", negative=("0.5", "-0.5")
)
gaussian_total_correlation.mistake(
    "Right for small matrices, but the determinant underflows to 0 for a large one and its log is −∞. "
    "torch.linalg.slogdet gives the logarithm itself.",
    log_of_det=("slogdet(covariance).logabsdet", "det(covariance).log()"),
)
gaussian_total_correlation.mistake(
    "You took the logarithm of the sum of the variances (the trace). The formula sums their logarithms.",
    log_of_trace=("log().sum(-1)", "sum(-1).log()"),
)
gaussian_total_correlation.mistake(
    "The variances are left out. −½ log det Σ is the total correlation only where every variance is 1; otherwise "
    "½ Σ log Σ_dd comes first.",
    variances_left_out=("variances.log().sum(-1) - ", "-"),
)


# ------------------------------------------------------------------ shuffle_across_batch


@solution(
    lesson.shuffle_across_batch,
    hints=[
        "A whole row moves: the latents inside it stay together. You want one random order of the B rows.",
        "torch.randperm(n, generator=…, device=…) is a random order. Put it where z is.",
        "torch.randperm takes a generator and a device. What it gives is an index of z's rows.",
    ],
)
def shuffle_across_batch(z, generator):
    return z[torch.randperm(len(z), generator=generator, device=z.device)]


@shuffle_across_batch.cases
def _(g):
    rows = torch.arange(1.0, 65)
    yield Case(z=rows[:, None].repeat(1, 3))
    yield Case(z=rows.roll(7)[:, None].repeat(1, 10))
    yield Case(z=500 * rows[:40, None])
    yield Case(z=torch.ones(1, 4))


@shuffle_across_batch.mistake(
    "Every column was shuffled on its own, which tears the rows apart. Here a row is one sample of z and must stay "
    "whole. (Shuffling each latent on its own comes in lesson 04, where it has a purpose.)"
)
def columns_apart(z, generator):
    order = torch.rand(z.shape, generator=generator, device=z.device).argsort(0)
    return z.gather(0, order)


shuffle_across_batch.mistake(
    "You drew rows with replacement (randint): some come twice and some never. A permutation has each exactly once.",
    with_replacement=("torch.randperm(len(z), ", "torch.randint(len(z), (len(z),), "),
)
shuffle_across_batch.mistake(
    "The order is the same at every call. It must be drawn anew from `generator` each time, or the critic learns the "
    "order by heart.",
    always_rolled=("z[torch.randperm(len(z), generator=generator, device=z.device)]", "z.roll(1, 0)"),
    seeded_again=("generator=generator", "generator=torch.Generator(generator.device).manual_seed(0)"),
)
shuffle_across_batch.mistake(
    "The rows are where they were: nothing was shuffled.",
    untouched=("z[torch.randperm(len(z), generator=generator, device=z.device)]", "z.clone()"),
)
shuffle_across_batch.mistake(
    "The order does not come from `generator`, so a run with the same seed cannot be repeated. Pass it on: "
    "generator=generator.",
    global_randomness=("generator=generator, ", ""),
)


# ------------------------------------------------------------------ critic_loss


@solution(
    lesson.critic_loss,
    hints=[
        "It is binary cross-entropy, with label 1 for joint and 0 for shuffled pairs.",
        "−log σ(t) = softplus(−t) and −log(1 − σ(t)) = softplus(t): stable for any t.",
        "Half the sum of softplus(−j).mean() and softplus(s).mean(), for the logits j of the joint and s of the shuffled.",
    ],
)
def critic_loss(joint_logits, shuffled_logits):
    return 0.5 * (F.softplus(-joint_logits).mean() + F.softplus(shuffled_logits).mean())


def _two_logits(g):
    yield Case(joint_logits=torch.tensor([1.0, 2.0]), shuffled_logits=torch.tensor([0.0, -1.0]))
    yield Case(joint_logits=2 * randn(g, 50), shuffled_logits=2 * randn(g, 50) - 1)
    yield Case(joint_logits=torch.tensor([200.0, -200.0]), shuffled_logits=torch.tensor([150.0, -250.0]))
    yield Case(joint_logits=torch.tensor([-800.0, 1.0]), shuffled_logits=torch.tensor([800.0, 799.0]))
    yield Case(joint_logits=torch.tensor([-500.0]), shuffled_logits=torch.tensor([500.0]))


critic_loss.cases(_two_logits)


critic_loss.mistake(
    "The labels are exchanged: joint pairs are class 1 and shuffled ones class 0. (Exchanged labels are the encoder's "
    "loss, later.)",
    labels_exchanged=[("-joint", "joint"), ("(shuffled_logits)", "(-shuffled_logits)")],
)
critic_loss.mistake(
    "The factor ½ is missing: the mean over both halves is asked for. A critic at chance pays log 2.",
    no_half=("0.5 * ", ""),
)
critic_loss.mistake(
    "You summed over the batch. Take the mean of each half, or the loss depends on the batch size.",
    summed=[("joint_logits).mean", "joint_logits).sum"), ("shuffled_logits).mean", "shuffled_logits).sum")],
)
critic_loss.mistake(
    "The sigmoid is applied twice: binary_cross_entropy_with_logits takes the logits as they are.",
    sigmoid_twice=[
        ("-joint_logits", "-joint_logits.sigmoid()"),
        ("(shuffled_logits)", "(shuffled_logits.sigmoid())"),
    ],
)
critic_loss.mistake(
    "Right for moderate logits, but σ rounds to 0 or 1 for large ones and its log is −∞. Use softplus, logsigmoid or "
    "the cross-entropy with logits.",
    log_of_sigmoid=[
        ("F.softplus(-joint_logits)", "-joint_logits.sigmoid().log()"),
        ("F.softplus(shuffled_logits)", "-(1 - shuffled_logits.sigmoid()).log()"),
    ],
)
critic_loss.mistake(
    "Without the mean over the batch this is one loss for each pair: return a scalar.",
    no_mean=[
        ("(-joint_logits).mean()", "(-joint_logits)"),
        ("(shuffled_logits).mean()", "(shuffled_logits)"),
    ],
)
critic_loss.mistake(
    "A small number inside the logarithm, or a clamp (F.binary_cross_entropy has one), keeps the loss finite and makes it "
    "wrong where the critic is sure; no gradient comes from there. Use softplus, logsigmoid or the cross-entropy with "
    "logits.",
    **small_numbers(
        ("F.softplus(-joint_logits)", "-(joint_logits.sigmoid(){plus}).log(){cut}"),
        ("F.softplus(shuffled_logits)", "-(1 - shuffled_logits.sigmoid(){plus}).log(){cut}"),
    ),
)


# ------------------------------------------------------------------ mutual_information_from_logits


@solution(
    lesson.mutual_information_from_logits,
    hints=[
        "The first number is one call of .mean(). The second subtracts log of a mean of exponentials.",
        "exp(100) overflows. log Σ exp has a function of its own: torch.logsumexp.",
        "log mean exp T = T.logsumexp(0) − log B: the mean brings the log B.",
    ],
)
def mutual_information_from_logits(joint_logits, shuffled_logits):
    ratio = joint_logits.mean()
    return ratio, ratio - (shuffled_logits.logsumexp(0) - math.log(len(shuffled_logits)))


mutual_information_from_logits.cases(_two_logits)


mutual_information_from_logits.mistake(
    "The second number takes log Σ exp where log of the MEAN of exp is asked for: − log B is missing.",
    no_log_b=(" - math.log(len(shuffled_logits))", ""),
)
mutual_information_from_logits.mistake(
    "exp overflows for large logits, so the bound is −∞. torch.logsumexp stays finite.",
    overflow=("logsumexp(0) - math.log(len(shuffled_logits))", "exp().mean().log()"),
)
mutual_information_from_logits.mistake(
    "The second number subtracts the mean of the shuffled logits. The bound has log E[exp T], the mean inside the "
    "logarithm: with the logarithm inside the mean it is no bound.",
    mean_of_logs=("logsumexp(0) - math.log(len(shuffled_logits))", "mean()"),
)
mutual_information_from_logits.mistake(
    "Joint and shuffled are exchanged: the first average is over joint pairs, the exponentials over shuffled ones.",
    exchanged=[
        ("ratio = joint", "ratio = shuffled"),
        ("shuffled_logits.logsumexp", "joint_logits.logsumexp"),
    ],
)
mutual_information_from_logits.mistake(
    "You averaged probabilities, σ(T). The logit itself is the log density ratio; its mean is in nats.",
    of_probabilities=[
        ("joint_logits.mean", "joint_logits.sigmoid().mean"),
        ("shuffled_logits.logsumexp", "shuffled_logits.sigmoid().logsumexp"),
    ],
)
mutual_information_from_logits.mistake(
    "The second number adds log E[exp T]. It is a normalisation of the critic, to be subtracted.",
    added=("ratio - (", "ratio + ("),
)
mutual_information_from_logits.mistake(
    "The two numbers are exchanged: first the mean of the joint logits, then the bound.",
    outputs_swapped=[
        ("return ratio, ratio - (", "return ratio - ("),
        ("math.log(len(shuffled_logits)))", "math.log(len(shuffled_logits))), ratio"),
    ],
)


# ------------------------------------------------------------------ mmd2


@solution(
    lesson.mmd2,
    hints=[
        "You need all squared distances between two sets, (M, N). |a − b|² = |a|² + |b|² − 2 a·b: two norms and one "
        "matrix product.",
        "Unbiased means without the pairs i = j, whose kernel is 1 whatever the distribution. There are M (M − 1) others.",
        "within = (k.sum() − k.diagonal().sum()) / (M (M − 1)), for x and for y; then minus 2 k(x, y).mean().",
    ],
)
def mmd2(x, y, bandwidth):
    def kernel(a, b):
        distance = a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T  # (M, N)
        return (-distance / (2 * bandwidth**2)).exp()

    def within(a):
        k, n = kernel(a, a), len(a)
        return (k.sum() - k.diagonal().sum()) / (n * (n - 1))

    return within(x) + within(y) - 2 * kernel(x, y).mean()


@mmd2.cases
def _(g):
    yield Case(x=torch.tensor([[0.0], [1.0]]), y=torch.tensor([[2.0], [3.0], [3.5]]), bandwidth=1.5)
    yield Case(x=randn(g, 30, 3), y=randn(g, 25, 3) + 0.5, bandwidth=1.5)
    yield Case(x=randn(g, 20, 8), y=randn(g, 20, 8), bandwidth=3.0)
    yield Case(  # points that coincide, within a set and between the two
        x=torch.tensor([[0.0, 0.0], [0.0, 0.0], [1.0, 2.0]]),
        y=torch.tensor([[1.0, 2.0], [0.0, 0.0]]),
        bandwidth=0.7,
    )
    yield Case(x=100 * randn(g, 4, 2), y=100 * randn(g, 3, 2), bandwidth=50.0)


mmd2.mistake(
    "The pairs of a point with itself are counted (the biased form): their kernel is 1 and lifts the estimate above 0 "
    "even for equal distributions. Leave out i = j and divide by M (M − 1).",
    biased=("(k.sum() - k.diagonal().sum()) / (n * (n - 1))", "k.mean()"),
)
mmd2.mistake(
    "The cross term comes twice in (x − y)²: − 2 mean k(x, y). Yours has it once.",
    cross_term_once=("- 2 * kernel", "- kernel"),
)
mmd2.mistake(
    "The kernel has |a − b|² in its exponent, yours the distance |a − b| itself.",
    distance_not_squared=(
        "a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T",
        "torch.cdist(a, b)",
    ),
)
mmd2.mistake(
    "The exponent is |a − b|² / (2 bandwidth²): the 2 is missing in yours.",
    no_two=("(2 * bandwidth**2)", "bandwidth**2"),
)
mmd2.mistake(
    "The bandwidth is not squared: the exponent is |a − b|² / (2 bandwidth²).",
    bandwidth_not_squared=("bandwidth**2", "bandwidth"),
)
mmd2.mistake(
    "The diagonal is left out of the sum, but the mean still divides by M². Only M (M − 1) pairs are left.",
    wrong_divisor=("(n * (n - 1))", "n**2"),
)


# ------------------------------------------------------------------ independence_loss


@solution(
    lesson.independence_loss,
    hints=[
        "Write down what the encoder wants the critic to say of joint pairs, and of shuffled ones.",
        "It is your critic_loss with the two labels exchanged, not its negative.",
        "Half the sum of softplus(j).mean() and softplus(−s).mean(), for the logits j of the joint and s of the shuffled.",
    ],
)
def independence_loss(joint_logits, shuffled_logits):
    return 0.5 * (F.softplus(joint_logits).mean() + F.softplus(-shuffled_logits).mean())


independence_loss.cases(_two_logits)


independence_loss.mistake(
    "This is the critic's own loss. The encoder plays against it: exchange the labels.",
    critics_own=[("(joint_logits)", "(-joint_logits)"), ("-shuffled", "shuffled")],
)
independence_loss.mistake(
    "This is the critic's loss with a minus sign. Its gradient vanishes just where the critic is sure, and it has no "
    "lower bound. Exchange the labels instead.",
    minus_critic=[("0.5", "-0.5"), ("(joint_logits)", "(-joint_logits)"), ("-shuffled", "shuffled")],
)
independence_loss.mistake(
    "Only the joint pairs are there. Shuffled pairs are made of the encoder's codes too: both halves have a gradient, "
    "and each is halved.",
    joint_only=(
        "0.5 * (F.softplus(joint_logits).mean() + F.softplus(-shuffled_logits).mean())",
        "F.softplus(joint_logits).mean()",
    ),
)
independence_loss.mistake(
    "Only the shuffled pairs are there. The joint pairs, which should be taken for shuffled ones, are the other half.",
    shuffled_only=(
        "0.5 * (F.softplus(joint_logits).mean() + F.softplus(-shuffled_logits).mean())",
        "F.softplus(-shuffled_logits).mean()",
    ),
)
independence_loss.mistake(
    "The factor ½ is missing: the mean over both halves is asked for.", no_half=("0.5 * ", "")
)
independence_loss.mistake(
    "Without the mean over the batch this is one loss for each pair: return a scalar.",
    no_mean=[
        ("(joint_logits).mean()", "(joint_logits)"),
        ("(-shuffled_logits).mean()", "(-shuffled_logits)"),
    ],
)
independence_loss.mistake(
    "Right for moderate logits, but σ rounds to 0 or 1 for large ones and its log is −∞. Use softplus, logsigmoid or "
    "the cross-entropy with logits.",
    log_of_sigmoid=[
        ("F.softplus(joint_logits)", "-(1 - joint_logits.sigmoid()).log()"),
        ("F.softplus(-shuffled_logits)", "-shuffled_logits.sigmoid().log()"),
    ],
)


# ------------------------------------------------------------------ leakage


@solution(
    lesson.leakage,
    hints=[
        "Without a probe you would pay H(a) nats on average to learn a; with it you pay its cross-entropy.",
        "Frequencies of a: F.one_hot(a, K).float().mean(0), with K the number of logits, known without looking at a.",
        "entropy(frequencies) − F.cross_entropy(logits, a)",
    ],
)
def leakage(a, logits):
    frequencies = torch.zeros(logits.shape[1], device=a.device).index_add_(
        0, a, torch.full((len(a),), 1 / len(a), device=a.device)
    )
    return lesson.entropy(frequencies) - F.cross_entropy(logits, a)


@leakage.cases
def _(g):
    yield Case(
        a=torch.tensor([0, 0, 0, 1]), logits=torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 0.0], [0.0, 3.0]])
    )
    yield Case(a=torch.randint(3, (100,), generator=g) // 2, logits=2 * randn(g, 100, 4))
    yield Case(a=torch.arange(40) % 5, logits=randn(g, 40, 5))
    yield Case(a=torch.tensor([2]), logits=torch.tensor([[0.0, 1.0, 2.0]]))
    yield Case(
        a=torch.tensor([0, 2, 2]),
        logits=torch.tensor([[500.0, 0.0, -500.0], [0.0, 0.0, 0.0], [0.0, -500.0, 500.0]]),
    )


leakage.mistake(
    "The sign is wrong: a probe that knows a has a small cross-entropy, and then much leaks.",
    negative=(
        "lesson.entropy(frequencies) - F.cross_entropy(logits, a)",
        "F.cross_entropy(logits, a) - lesson.entropy(frequencies)",
    ),
)
leakage.mistake(
    "This is the cross-entropy alone. Compare it with H(a), what you would pay without the probe.",
    cross_entropy_alone=("lesson.entropy(frequencies) - ", ""),
)
leakage.mistake(
    "You took log K for H(a). That is the entropy of attributes that are equally frequent; use the frequencies of a.",
    uniform_entropy=("lesson.entropy(frequencies)", "math.log(logits.shape[1])"),
)
leakage.mistake(
    "This is in bits (log2). The course measures in nats.",
    bits=[("return lesson", "return (lesson"), ("(logits, a)", "(logits, a)) / math.log(2)")],
)
leakage.mistake(
    "The cross-entropy is summed over the batch. Average it: H(a) is nats per example, too.",
    summed=("(logits, a)", '(logits, a, reduction="sum")'),
)
leakage.mistake(
    "You used probabilities where F.cross_entropy expects logits: the softmax is applied twice. Pass the logits as they "
    "are.",
    softmax_twice=("(logits, a)", "(logits.softmax(1), a)"),
)
leakage.mistake(
    "The mean over the batch is missing in the cross-entropy: the result is one number, a scalar.",
    no_mean=("(logits, a)", '(logits, a, reduction="none")'),
)
