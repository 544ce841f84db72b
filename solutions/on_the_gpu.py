"""Lesson 08: solutions, cases, named mistakes and hints."""

import math

import torch
import torch.nn.functional as F

from course_lib.exercise.solution import Case, rand, randn, solution
from course_lib.lessons import on_the_gpu as lesson
from course_lib.lessons.on_the_gpu import tl

# ------------------------------------------------------------------ time_call


@solution(
    lesson.time_call,
    hints=[
        "A launch returns at once: a clock of the processor's measures the launch. An event is recorded by the device, when it comes by.",
        "One pair of events around each call; times are there only after queue.synchronize().",
        "torch.stack of start.elapsed_time(end) over all pairs, and its .median().",
    ],
)
def time_call(call, queue, warm_up, repeats):
    for _ in range(warm_up):
        call()
    pairs = []
    for _ in range(repeats):
        start, end = queue.Event(), queue.Event()
        start.record()
        call()
        end.record()
        pairs.append((start, end))
    queue.synchronize()
    return torch.stack([start.elapsed_time(end) for start, end in pairs]).median()


@time_call.cases
def _(g):
    yield Case(durations=torch.tensor([9.0, 5.0, 2.0, 1.0, 1.5, 8.0, 2.5]), warm_up=2)
    yield Case(durations=torch.cat([50 + 10 * rand(g, 3), 1 + rand(g, 20)]), warm_up=3)
    yield Case(durations=torch.cat([rand(g, 1) + 30, rand(g, 8) + 0.1]), warm_up=1)
    yield Case(durations=rand(g, 6), warm_up=0)
    yield Case(durations=2 + rand(g, 1), warm_up=0)


time_call.mistake(
    "You measured how long the LAUNCH takes: the processor's clock was read before the device was done. Put events into the queue, or "
    "synchronise before each reading.",
    without_waiting=[
        ("start, end = queue.Event(), queue.Event()", "start = queue.clock()"),
        ("        start.record()\n", ""),
        ("end.record()", "end = queue.clock()"),
        ("start.elapsed_time(end)", "end - start"),
    ],
)
time_call.mistake(
    "You took the mean. A call that something else delays then counts in full; the median does not notice it.",
    mean=(".median()", ".mean()"),
)
time_call.mistake(
    "The warm-up is among the calls that you timed. The first calls compile, allocate and load: leave them out.",
    no_warm_up=[
        ("for _ in range(warm_up):\n        call()", "pass"),
        ("range(repeats)", "range(warm_up + repeats)"),
    ],
)
time_call.mistake(
    "You took the fastest call. What a caller meets is the median.", fastest=(".median()", ".min()")
)
time_call.mistake(
    "You measured from the first call to the last, and all of them together: divide by their number, or better time each of them.",
    total=(
        "start.elapsed_time(end) for start, end in pairs]).median()",
        "pairs[0][0].elapsed_time(pairs[-1][1])]).sum()",
    ),
)


# ------------------------------------------------------------------ lean_step


@solution(
    lesson.lean_step,
    hints=[
        "Which lines need a number on the processor? An index by a mask, len, if, .item(), .tolist(), torch.tensor of numbers.",
        "A mean over some is a sum of losses × mask over a sum of the mask; where the mask is empty that sum is 0, and so is the gradient.",
        "kept = (losses < limit).to(x.dtype) is a mask that one can multiply by; clamp keeps a number of examples at 1 or more.",
    ],
)
def lean_step(model, optimiser, x, labels, limit):
    losses = F.cross_entropy(model(x), labels, reduction="none")  # (B,)
    kept = (losses < limit).to(x.dtype)
    loss = (losses * kept).sum() / kept.sum().clamp(min=1)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    with torch.no_grad():
        right = (model(x).argmax(1) == labels).to(x.dtype).sum()
    return {"loss": loss.detach(), "kept": kept.sum(), "right": right}


@lean_step.cases
def _(g):
    yield Case(weight=randn(g, 3, 2), x=randn(g, 6, 2), labels=torch.tensor([0, 1, 2, 0, 1, 2]), limit=1.2)
    yield Case(weight=randn(g, 5, 8), x=2 * randn(g, 40, 8), labels=torch.arange(40) % 5, limit=3.0)
    yield Case(weight=randn(g, 4, 3), x=1000 * randn(g, 12, 3), labels=torch.arange(12) % 4, limit=0.0)
    yield Case(weight=randn(g, 4, 3), x=randn(g, 1, 3), labels=torch.tensor([2]), limit=100.0)


lean_step.mistake(
    "You divide by the whole batch. The mean is of the examples below the limit: divide by how many they are, at least 1.",
    mean_of_all=("kept.sum().clamp(min=1)", "len(x)"),
)
lean_step.mistake(
    "All examples count: those whose loss is not below the limit are to be left out.",
    nothing_left_out=("(losses < limit)", "(losses < float('inf'))"),
)
lean_step.mistake(
    "You cut the losses off at the limit. An example above it then still counts, with the limit as its loss: it is to be left out.",
    cut_off=[
        ("(losses < limit)", "(losses < float('inf'))"),
        ("losses * kept", "losses.clamp(max=limit) * kept"),
    ],
)
lean_step.mistake(
    "Where no example is below the limit you divide 0 by 0, and the weights become NaN: divide by at least 1.",
    empty=(".clamp(min=1)", ""),
)
lean_step.mistake(
    "`right` counts what the model said BEFORE the step. It is asked for afterwards: call the model again.",
    before_the_step=[
        (
            "losses = F.cross_entropy(model(x), labels",
            "logits = model(x)\n    losses = F.cross_entropy(logits, labels",
        ),
        ("(model(x).argmax", "(logits.argmax"),
    ],
)
lean_step.mistake(
    "`right` is a share. Count the examples: sum, not mean.",
    share=("to(x.dtype).sum()", "to(x.dtype).mean()"),
)


# ------------------------------------------------------------------ arithmetic_intensity


@solution(
    lesson.arithmetic_intensity,
    hints=[
        "Operations first: rows · columns results, of `inner` multiplications and additions each.",
        "Bytes: size · (rows · inner + inner · columns + rows · columns). Divide.",
    ],
)
def arithmetic_intensity(rows, inner, columns, size):
    flops = 2 * rows * inner * columns
    moved = size * (rows * inner + inner * columns + rows * columns)
    return flops / moved


@arithmetic_intensity.cases
def _(g):
    yield Case(
        rows=torch.tensor([1.0, 4.0]),
        inner=torch.tensor([8.0, 4.0]),
        columns=torch.tensor([8.0, 2.0]),
        size=4,
    )
    yield Case(**{k: (1 + 4000 * rand(g, 30)).floor() for k in ("rows", "inner", "columns")}, size=2)
    yield Case(**{k: (1 + 40 * rand(g, 1)).floor() for k in ("rows", "inner", "columns")}, size=8)


arithmetic_intensity.mistake(
    "A multiplication AND an addition for each term: the factor 2 is missing.", one_each=("2 * rows", "rows")
)
arithmetic_intensity.mistake(
    "You counted numbers, not bytes: each takes `size` bytes.", numbers=("moved = size *", "moved =")
)
arithmetic_intensity.mistake(
    "The result is written, too: rows · columns numbers are missing among the bytes.",
    result_for_free=(" + rows * columns)", ")"),
)
arithmetic_intensity.mistake(
    "The fraction stands on its head: operations for each byte, not bytes for each operation.",
    upside_down=("flops / moved", "moved / flops"),
)
arithmetic_intensity.mistake(
    "You load both factors anew for every result. The least that must move is each matrix once.",
    no_reuse=("rows * inner + inner * columns", "2 * rows * inner * columns"),
)


# ------------------------------------------------------------------ roofline_seconds


@solution(
    lesson.roofline_seconds,
    hints=[
        "Three times: flops / peak, moved / bandwidth, launches · launch_seconds.",
        "They overlap: the device computes on one part while it fetches the next, and the processor launches ahead. The longest counts.",
    ],
)
def roofline_seconds(flops, moved, launches, peak, bandwidth, launch_seconds):
    return torch.maximum(torch.maximum(flops / peak, moved / bandwidth), launches * launch_seconds)


@roofline_seconds.cases
def _(g):
    three = torch.tensor([8.0, 1.0, 1.0])
    yield Case(
        flops=three, moved=three.roll(1), launches=three.roll(2), peak=2.0, bandwidth=0.5, launch_seconds=3.0
    )
    yield Case(
        flops=100 * rand(g, 50),
        moved=100 * rand(g, 50),
        launches=100 * rand(g, 50),
        peak=1.0,
        bandwidth=1.2,
        launch_seconds=0.8,
    )
    yield Case(
        flops=10 * rand(g, 1),
        moved=rand(g, 1),
        launches=rand(g, 1),
        peak=0.5,
        bandwidth=2.0,
        launch_seconds=0.1,
    )


roofline_seconds.mistake(
    "You added the times. They overlap, so the longest of them counts.",
    added=(
        "torch.maximum(torch.maximum(flops / peak, moved / bandwidth), ",
        "(flops / peak + moved / bandwidth + ",
    ),
)
roofline_seconds.mistake(
    "You took the shortest of the times: the device is done when the last of them is.",
    shortest=(
        "torch.maximum(torch.maximum(flops / peak, moved / bandwidth), ",
        "torch.minimum(torch.minimum(flops / peak, moved / bandwidth), ",
    ),
)
roofline_seconds.mistake(
    "The launches cost nothing in your answer. Many small kernels wait for the processor: launches · launch_seconds is the third roof.",
    free_launches=(
        "torch.maximum(torch.maximum(flops / peak, moved / bandwidth), launches * launch_seconds)",
        "torch.maximum(flops / peak, moved / bandwidth)",
    ),
)
roofline_seconds.mistake(
    "Every launch costs launch_seconds: multiply by their number.",
    one_launch=("launches * launch_seconds", "launches * 0 + launch_seconds"),
)
roofline_seconds.mistake(
    "Peak and bandwidth are exchanged: operations by the peak, bytes by the bandwidth.",
    exchanged=("flops / peak, moved / bandwidth", "flops / bandwidth, moved / peak"),
)


# ------------------------------------------------------------------ fused_traffic


@solution(
    lesson.fused_traffic,
    hints=[
        "Apart: each of the K operations moves all that it reads and all that it writes, (reads + writes) @ sizes, added up.",
        "Fused, ask of each tensor: is it read by any and written by none? Is it written by any, and kept?",
        "read, written = reads.any(0), writes.any(0); then sizes times (read & ~written) and times (written & kept).",
    ],
)
def fused_traffic(reads, writes, kept, sizes):
    apart = (reads * sizes).sum() + (writes * sizes).sum()
    read, written = reads.any(0), writes.any(0)
    fused = ((read & ~written) * sizes).sum() + ((written & kept) * sizes).sum()
    return torch.stack([apart, fused])


@fused_traffic.cases
def _(g):
    # d = x − m, q = d², s = q · v: x, m, v come from outside, s is kept
    names = ["x", "m", "d", "q", "v", "s"]
    table = lambda rows: torch.tensor([[n in row.split() for n in names] for row in rows])  # noqa: E731
    size = torch.tensor([8.0, 4.0, 8.0, 8.0, 4.0, 8.0])
    yield Case(
        reads=table(["x m", "d", "q v"]), writes=table(["d", "q", "s"]), kept=table(["s"])[0], sizes=size
    )
    for operations, tensors in ((5, 12), (9, 40), (1, 3)):
        reads = rand(g, operations, tensors) < 0.4
        reads[0, 0], kept = True, rand(g, tensors) < 0.6
        writes = (rand(g, operations, tensors) < 0.3) & ~reads
        reads[:, -1], writes[:, -1], kept[-1] = False, True, True
        reads[:, 1], writes[:, 1], kept[1] = True, False, True
        if tensors > 3:  # of no operation
            reads[:, 2] = writes[:, 2] = False
        yield Case(reads=reads, writes=writes, kept=kept, sizes=1 + rand(g, tensors))


fused_traffic.mistake(
    "Fused, what an operation writes and another reads never leaves the chip: you read it from memory.",
    intermediates_read=("(read & ~written)", "read"),
)
fused_traffic.mistake(
    "Fused, only what is kept is written: you write the intermediate results, too.",
    all_written=("(written & kept)", "written"),
)
fused_traffic.mistake(
    "Apart, each operation reads for itself: a tensor that three of them read is moved three times.",
    read_once_apart=("(reads * sizes).sum()", "(reads.any(0) * sizes).sum()"),
)
fused_traffic.mistake(
    "Apart, the results are written, too: you count only what is read.",
    writes_forgotten=(" + (writes * sizes).sum()", ""),
)
fused_traffic.mistake(
    "Fused, the kept results are still written: you count only what is read.",
    fused_writes_nothing=(" + ((written & kept) * sizes).sum()", ""),
)
fused_traffic.mistake(
    "The two stand in the other order: apart first, fused second.",
    exchanged=("[apart, fused]", "[fused, apart]"),
)


# ------------------------------------------------------------------ gaussian_kl_kernel


@solution(
    lesson.gaussian_kl_kernel,
    hints=[
        "Which examples are yours? program_id(0) · ROWS and the ROWS − 1 that follow. A block (ROWS, COLUMNS) of pointers comes from a column of rows plus a row of columns.",
        "The mask of both loads is row < B as a column, & column < D as a row. What it leaves out is `other`; with 0, mean² + exp(log_var) − log_var − 1 is 0.",
        "The pointers are mean + row[:, None] * mean_row + column * mean_column with column made a row; load log_var alike, then tl.sum(…, 1) and tl.store(kl + row, …, mask=row < B).",
    ],
)
def gaussian_kl_kernel(
    mean,
    log_var,
    kl,
    B,
    D,
    mean_row,
    mean_column,
    log_var_row,
    log_var_column,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    inside = (row < B)[:, None] & (column < D)[None, :]
    at_mean = row[:, None] * mean_row + column[None, :] * mean_column
    at_log_var = row[:, None] * log_var_row + column[None, :] * log_var_column
    m = tl.load(mean + at_mean, mask=inside, other=0.0)
    v = tl.load(log_var + at_log_var, mask=inside, other=0.0)
    tl.store(kl + row, 0.5 * tl.sum(m * m + tl.exp(v) - v - 1, 1), mask=row < B)


@gaussian_kl_kernel.cases
def _(g):
    yield Case(mean=randn(g, 5, 3), log_var=randn(g, 5, 3))
    yield Case(mean=randn(g, 38, 10), log_var=2 * randn(g, 38, 10)).alone(
        "38 examples are no multiple of ROWS = 16."
    )
    yield Case(mean=torch.full((16, 4), 0.5), log_var=randn(g, 16, 4))
    yield Case(mean=3 * randn(g, 1, 1), log_var=randn(g, 1, 1))


gaussian_kl_kernel.mistake(
    "The mask of the loads is missing: a block is a power of two, and your tensors are not. Say mask=…, with row < B as a column & column < D as a row.",
    no_mask=[
        ("mean + at_mean, mask=inside, other=0.0)", "mean + at_mean)"),
        ("at_log_var, mask=inside, other=0.0)", "at_log_var)"),
    ],
)
gaussian_kl_kernel.mistake(
    "The mask knows the columns and not the rows: the last program goes past the end of the batch. Add row < B.",
    rows_not_masked=(
        "(row < B)[:, None] & (column < D)[None, :]",
        "(row < row + 1)[:, None] & (column < D)[None, :]",
    ),
)
gaussian_kl_kernel.mistake(
    "You took the number of the program for the row: program i has ROWS rows, from i · ROWS on.",
    program_for_row=("tl.program_id(0) * ROWS", "tl.program_id(0)"),
)
gaussian_kl_kernel.mistake(
    "log_var is read with the strides of mean. Two tensors of one shape may lie in memory in two ways: each has strides of its own.",
    other_strides=(
        "row[:, None] * log_var_row + column[None, :] * log_var_column",
        "row[:, None] * mean_row + column[None, :] * mean_column",
    ),
)
gaussian_kl_kernel.mistake(
    "You suppose that rows lie one behind the other, D numbers apart. An input may be a transposed or a sliced tensor: its strides say where a number is.",
    contiguous=[
        ("row[:, None] * mean_row + column[None, :] * mean_column", "row[:, None] * D + column[None, :]"),
        (
            "row[:, None] * log_var_row + column[None, :] * log_var_column",
            "row[:, None] * D + column[None, :]",
        ),
    ],
)
gaussian_kl_kernel.mistake(
    "The padded columns count: where the mask is False the load gave another number than 0, and its term is not 0. Give other=0.0, or take "
    "them out with tl.where before the sum.",
    padding_counts=("at_log_var, mask=inside, other=0.0)", "at_log_var, mask=inside, other=1.0)"),
)
gaussian_kl_kernel.mistake(
    "You divided by the number of latents: the KL of a product is the sum of the KLs.",
    mean_over_latents=("tl.sum(m * m + tl.exp(v) - v - 1, 1)", "tl.sum(m * m + tl.exp(v) - v - 1, 1) / D"),
)
gaussian_kl_kernel.mistake("The factor ½ is missing.", no_half=("0.5 * ", ""))
gaussian_kl_kernel.mistake(
    "You summed along the wrong axis of the block: axis 0 are the examples, axis 1 the latents.",
    other_axis=(
        "tl.sum(m * m + tl.exp(v) - v - 1, 1)",
        "(tl.sum(m * m + tl.exp(v) - v - 1, 0)[None, :] + tl.zeros([ROWS, COLUMNS], tl.float32)).sum(1) / COLUMNS",
    ),
)


# ------------------------------------------------------------------ log_sum_exp_kernel


@solution(
    lesson.log_sum_exp_kernel,
    hints=[
        "Two numbers a row: `top`, the largest so far, −∞ at first, and `total`, the sum of exp(x − top), 0 at first.",
        "With a new block: higher = max(top, the block's largest). The old total was relative to top: total · exp(top − higher), then add the block's exp(x − higher).",
        "Columns past N are loaded as −∞, so that exp makes them 0. At the end: top + log(total).",
    ],
)
def log_sum_exp_kernel(x, out, B, N, x_row, x_column, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    top = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    for first in range(0, N, BLOCK):
        column = first + tl.arange(0, BLOCK)
        inside = (row < B)[:, None] & (column < N)[None, :]
        place = row[:, None] * x_row + column[None, :] * x_column
        values = tl.load(x + place, mask=inside, other=float("-inf"))
        higher = tl.maximum(top, tl.max(values, 1))
        total = total * tl.exp(top - higher) + tl.sum(tl.exp(values - higher[:, None]), 1)
        top = higher
    tl.store(out + row, top + tl.log(total), mask=row < B)


@log_sum_exp_kernel.cases
def _(g):
    yield Case(x=torch.tensor([[0.0, 1.0, 2.0], [3.0, -1.0, 0.5]]))
    yield Case(x=20 * randn(g, 9, 75))
    low, high = randn(g, 6, 40) - 300, randn(g, 6, 30) + 300
    yield Case(x=torch.cat([torch.cat([low, high], 1), torch.cat([high, low], 1)])).alone(
        "The largest value of a row comes in its first block, or in its last."
    )
    # beside the first block's sum all others are less than a bfloat16 tells apart, one by one
    yield Case(x=-math.log(32) - torch.cat([torch.zeros(1, 32), torch.full((1, 320), 6.0)], 1))
    yield Case(x=randn(g, 1, 1))


log_sum_exp_kernel.mistake(
    "The sum so far was not rescaled when the largest value grew: it is relative to the old one. Multiply it by exp(top − higher).",
    not_rescaled=("total * tl.exp(top - higher)", "total"),
)
log_sum_exp_kernel.mistake(
    "Only the last block counts: add to the total, rescaled, instead of beginning anew.",
    last_block=("total * tl.exp(top - higher) + ", ""),
)
log_sum_exp_kernel.mistake(
    "exp overflows: nothing was subtracted from the exponents. Subtract the largest so far, and add it at the end.",
    no_maximum=[
        (
            "total * tl.exp(top - higher) + tl.sum(tl.exp(values - higher[:, None]), 1)",
            "total + tl.sum(tl.exp(values), 1)",
        ),
        ("top + tl.log", "tl.log"),
    ],
)
log_sum_exp_kernel.mistake(
    "Columns past N were loaded as 0, and exp(0) = 1 counts. Load them as −∞.",
    padding_counts=('other=float("-inf")', "other=0.0"),
)
log_sum_exp_kernel.mistake(
    "You took the BLOCK's largest value instead of the largest so far: where the new block has smaller ones, the old sum overflows.",
    only_the_blocks_maximum=("tl.maximum(top, tl.max(values, 1))", "tl.max(values, 1)"),
)
log_sum_exp_kernel.mistake(
    "Only the first BLOCK columns are read: go on with a loop, for first in range(0, N, BLOCK).",
    one_block=("range(0, N, BLOCK)", "range(0, BLOCK, BLOCK)"),
)
log_sum_exp_kernel.mistake(
    "The mask of the load is missing, and the last block reads past the end of the row.",
    no_mask=(', mask=inside, other=float("-inf"))', ")"),
)
log_sum_exp_kernel.mistake(
    "The largest value, which you subtracted, was not added again at the end.",
    top_forgotten=("top + tl.log", "tl.log"),
)
log_sum_exp_kernel.mistake(
    "Row and column have each other's stride.",
    strides_exchanged=(
        "row[:, None] * x_row + column[None, :] * x_column",
        "row[:, None] * x_column + column[None, :] * x_row",
    ),
)
log_sum_exp_kernel.mistake(
    "The total is kept in bfloat16, with three digits: every block's rounding adds up. Accumulate in float32.",
    half_precision=(
        "tl.sum(tl.exp(values - higher[:, None]), 1)\n",
        "tl.sum(tl.exp(values - higher[:, None]), 1)\n        total = total.to(tl.float32).to(tl.bfloat16).to(tl.float32)\n",
    ),
)
log_sum_exp_kernel.mistake(
    "All programs write the first ROWS results: two programs that write to one place are a race. Store at out + row.",
    race=(
        "tl.store(out + row, top + tl.log(total), mask=row < B)",
        "tl.store(out + tl.arange(0, ROWS), top + tl.log(total), mask=row < B)",
    ),
)


# ------------------------------------------------------------------ log_aggregate_posterior_kernel


@solution(
    lesson.log_aggregate_posterior_kernel,
    hints=[
        "Your log_sum_exp_kernel, twice in one loop: `top` and `total` of shape (ROWS,) for the joint and (COLUMNS, ROWS) for the latents. The codes are loaded once, before the loop.",
        "e = −½ ((z[:, :, None] − m[:, None, :])² exp(−v) + v) is (COLUMNS, ROWS, BLOCK). With other=0.0 everywhere padded latents have e = 0, which the joint's sum does not notice.",
        "Padded posteriors must not count: tl.where((n < N)[None, None, :], e, −∞), and for the joint tl.where((n < N)[None, :], tl.sum(e, 0), −∞). (The solution is faster on a GPU: each lane keeps a top and a total of its own, joined after the loop.)",
    ],
)
def log_aggregate_posterior_kernel(
    z,
    mean,
    log_var,
    out,
    B,
    N,
    D: tl.constexpr,
    z_row,
    z_column,
    mean_row,
    mean_column,
    log_var_row,
    log_var_column,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    inside = (column < D)[:, None] & (row < B)[None, :]
    code = tl.load(z + column[:, None] * z_column + row[None, :] * z_row, mask=inside, other=0.0)
    # A block is 4 × LANES posteriors. Each lane has its own tops and totals, so that threads wait for each other only after the loop.
    # They begin low, not at −∞, as a lane may meet no posterior at all and −∞ − (−∞) is NaN.
    LANES: tl.constexpr = BLOCK // 4
    top = tl.full([ROWS, LANES], -1e30, tl.float32)
    total = tl.zeros([ROWS, LANES], tl.float32)
    tops = tl.full([COLUMNS, ROWS, LANES], -1e30, tl.float32)
    totals = tl.zeros([COLUMNS, ROWS, LANES], tl.float32)
    for first in tl.range(0, N, BLOCK, num_stages=2):  # the next block is fetched while this one is worked on
        n = first + tl.arange(0, 4)[:, None] * LANES + tl.arange(0, LANES)[None, :]
        there = (n < N)[:, None, :] & (column < D)[None, :, None]
        at_mean = n[:, None, :] * mean_row + column[None, :, None] * mean_column
        at_log_var = n[:, None, :] * log_var_row + column[None, :, None] * log_var_column
        m = tl.load(mean + at_mean, mask=there, other=0.0)[:, :, None, :]
        v = tl.load(log_var + at_log_var, mask=there, other=float("inf"))[:, :, None, :]  # then e = −∞
        # Exponents in base 2, as a GPU computes 2ˣ: e log₂ exp(1), whose half is 0.7213, and 0.8493² = 0.7213.
        half = -0.72134752 * v
        scaled = (code[None, :, :, None] - m) * (0.84932180 * tl.exp2(half))  # (4, COLUMNS, ROWS, LANES)
        e = tl.where((column < D)[None, :, None, None], half - scaled * scaled, 0.0)
        joint = tl.sum(e, 1)
        higher = tl.maximum(top, tl.max(joint, 0))
        total = total * tl.exp2(top - higher) + tl.sum(tl.exp2(joint - higher[None, :, :]), 0)
        top = higher
        highers = tl.maximum(tops, tl.max(e, 0))
        totals = totals * tl.exp2(tops - highers) + tl.sum(tl.exp2(e - highers[None, :, :, :]), 0)
        tops = highers
    highest = tl.max(top, 1)
    total = tl.sum(total * tl.exp2(top - highest[:, None]), 1)
    all_highest = tl.max(tops, 2)
    totals = tl.sum(totals * tl.exp2(tops - all_highest[:, :, None]), 2)
    sums = 0.69314718 * (highest + tl.log2(total))  # log 2 brings them back to base e
    all_sums = 0.69314718 * (all_highest + tl.log2(totals))
    tl.store(out + row * (1 + D), sums, mask=row < B)
    tl.store(out + row[None, :] * (1 + D) + 1 + column[:, None], all_sums, mask=inside)


@log_aggregate_posterior_kernel.cases
def _(g):
    yield Case(z=randn(g, 3, 2), mean=randn(g, 4, 2), log_var=randn(g, 4, 2))
    nearer = 0.5 * randn(g, 20, 5) + torch.linspace(4, 0, 20)[:, None]  # the largest terms come last
    yield Case(z=randn(g, 6, 5), mean=nearer, log_var=randn(g, 20, 5) - 1)
    yield Case(z=8 * randn(g, 5, 3), mean=8 * randn(g, 17, 3), log_var=randn(g, 17, 3) - 3)
    yield Case(z=randn(g, 3, 3), mean=torch.full((18, 3), 0.5), log_var=2 * randn(g, 18, 3))
    yield Case(z=randn(g, 1, 1), mean=randn(g, 1, 1), log_var=randn(g, 1, 1))


log_aggregate_posterior_kernel.mistake(
    "Posteriors past N count, as N(0, 1), since their loads gave 0. Give them the exponent −∞ before the sums over n.",
    padded_posteriors=('other=float("inf")', "other=0.0"),
)
log_aggregate_posterior_kernel.mistake(
    "The joint's sum so far was not rescaled when its largest exponent grew.",
    joint_not_rescaled=("total * tl.exp2(top - higher)", "total"),
)
log_aggregate_posterior_kernel.mistake(
    "The latents' sums so far were not rescaled when their largest exponents grew.",
    latents_not_rescaled=("totals * tl.exp2(tops - highers)", "totals"),
)
log_aggregate_posterior_kernel.mistake(
    "The joint is the log of a sum of PRODUCTS: add the exponents over the latents first, then take log Σ exp over n. You added the latents' results.",
    product_of_marginals=(
        "(1 + D), sums, mask",
        "(1 + D), tl.sum(tl.where((column < D)[:, None], all_sums, 0.0), 0), mask",
    ),
)
log_aggregate_posterior_kernel.mistake(
    "exp(−log_var) weighs the squared difference: you multiplied by exp(log_var).",
    variance_for_precision=("tl.exp2(half)", "tl.exp2(-half)"),
)
log_aggregate_posterior_kernel.mistake(
    "The width of a posterior counts, too: + log_var is missing in the exponent, and a narrow posterior is a high one.",
    no_log_var=(
        "half - scaled * scaled, 0.0",
        'tl.where((n < N)[:, None, None, :], -scaled * scaled, float("-inf")), 0.0',
    ),
)
log_aggregate_posterior_kernel.mistake(
    "The loads of the posteriors have no mask for n: the last block reads past the end of `mean`.",
    no_mask=("(n < N)[:, None, :]", "(n < n + 1)[:, None, :]"),
)
log_aggregate_posterior_kernel.mistake(
    "The codes are loaded anew for every block of posteriors: load them once, before the loop.",
    codes_in_the_loop=(
        "        half = ",
        "        code = tl.load(z + column[:, None] * z_column + row[None, :] * z_row, mask=inside, other=0.0)\n        half = ",
    ),
)
log_aggregate_posterior_kernel.mistake(
    "log_var is read with the strides of mean.",
    other_strides=(
        "n[:, None, :] * log_var_row + column[None, :, None] * log_var_column",
        "n[:, None, :] * mean_row + column[None, :, None] * mean_column",
    ),
)
log_aggregate_posterior_kernel.mistake(
    "A row of `out` has 1 + D numbers, the joint first: your rows are D apart, and two of them meet in one place.",
    rows_of_d=[
        ("out + row * (1 + D)", "out + row * D"),
        ("out + row[None, :] * (1 + D)", "out + row[None, :] * D"),
    ],
)


# ------------------------------------------------------------------ log_aggregate_posterior_backward_kernel


@solution(
    lesson.log_aggregate_posterior_backward_kernel,
    hints=[
        "Roles are exchanged: the posteriors are loaded once, before the loop, and codes, sums and gradients come in blocks of ROWS. Two sums, (COLUMNS, BLOCK), grow in the loop and are stored at its end.",
        "w = g_joint · exp(Σ_d e − sums_joint), which is (ROWS, BLOCK), for all latents alike, plus g_each · exp(e − sums_each). Padded codes have gradient 0 by other=0.0, and so weight 0; padded posteriors need tl.where, or log_var = ∞.",
        "z's gradient is minus the sum of w · s over the posteriors, (COLUMNS, ROWS): tl.atomic_add(z_gradient + row[None, :] * D + column[:, None], …, mask=inside), as all programs add to it.",
    ],
)
def log_aggregate_posterior_backward_kernel(
    z,
    mean,
    log_var,
    sums,
    gradient,
    z_gradient,
    mean_gradient,
    log_var_gradient,
    B,
    N,
    D: tl.constexpr,
    z_row,
    z_column,
    mean_row,
    mean_column,
    log_var_row,
    log_var_column,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    LANES: tl.constexpr = BLOCK // 2
    n = tl.program_id(0) * BLOCK + tl.arange(0, 2)[:, None] * LANES + tl.arange(0, LANES)[None, :]
    column = tl.arange(0, COLUMNS)
    there = (n < N)[:, None, :] & (column < D)[None, :, None]
    at_mean = n[:, None, :] * mean_row + column[None, :, None] * mean_column
    at_log_var = n[:, None, :] * log_var_row + column[None, :, None] * log_var_column
    m = tl.load(mean + at_mean, mask=there, other=0.0)[:, :, None, :]
    v = tl.load(log_var + at_log_var, mask=there, other=float("inf"))[:, :, None, :]  # then e = −∞, and w = 0
    half, precision = -0.72134752 * v, tl.exp2(-1.44269504 * v)  # in base 2, as before
    real = (column < D)[None, :, None, None]
    to_mean = tl.zeros(
        [2, COLUMNS, ROWS, LANES], tl.float32
    )  # summed over the rows of a block after the loop
    to_log_var = tl.zeros([2, COLUMNS, ROWS, LANES], tl.float32)
    for turn in range(0, tl.cdiv(B, ROWS)):
        # Each program begins at other codes: where all add to the same places at once, they wait for each other.
        row = (turn + tl.program_id(0)) % tl.cdiv(B, ROWS) * ROWS + tl.arange(0, ROWS)
        inside = (column < D)[:, None] & (row < B)[None, :]
        place = row[None, :] * (1 + D) + 1 + column[:, None]
        code = tl.load(z + column[:, None] * z_column + row[None, :] * z_row, mask=inside, other=0.0)
        joint_sum = 1.44269504 * tl.load(sums + row * (1 + D), mask=row < B, other=0.0)
        joint_gradient = tl.load(gradient + row * (1 + D), mask=row < B, other=0.0)
        each_sum = 1.44269504 * tl.load(sums + place, mask=inside, other=0.0)
        each_gradient = tl.load(gradient + place, mask=inside, other=0.0)
        difference = code[None, :, :, None] - m  # (2, COLUMNS, ROWS, LANES)
        s = tl.where(real, difference * precision, 0.0)
        e = tl.where(real, half - 0.72134752 * (difference * s), 0.0)
        joint = joint_gradient[None, :, None] * tl.exp2(tl.sum(e, 1) - joint_sum[None, :, None])
        each = each_gradient[None, :, :, None] * tl.exp2(e - each_sum[None, :, :, None])
        w = joint[:, None, :, :] + each
        to_mean += w * s
        to_log_var += w * (difference * s - 1)
        to_z = -tl.sum(tl.sum(w * s, 0), 2)
        # "relaxed": an addition need not wait for what this program reads and writes elsewhere.
        tl.atomic_add(z_gradient + row[None, :] * D + column[:, None], to_z, mask=inside, sem="relaxed")
    own = n[:, None, :] * D + column[None, :, None]
    tl.store(mean_gradient + own, tl.sum(to_mean, 2), mask=there)
    tl.store(log_var_gradient + own, 0.5 * tl.sum(to_log_var, 2), mask=there)


@log_aggregate_posterior_backward_kernel.cases
def _(g):
    yield Case(z=randn(g, 3, 2), mean=randn(g, 5, 2), log_var=randn(g, 5, 2), gradient=randn(g, 3, 3))
    yield Case(z=randn(g, 18, 5), mean=randn(g, 6, 5), log_var=randn(g, 6, 5) - 1, gradient=randn(g, 18, 6))
    yield Case(z=randn(g, 1, 1), mean=randn(g, 1, 1), log_var=randn(g, 1, 1), gradient=randn(g, 1, 2))


log_aggregate_posterior_backward_kernel.mistake(
    "All programs add to z_gradient, and you add by a load and a store: of two that do so at once one is lost. That takes tl.atomic_add.",
    race=(
        'tl.atomic_add(z_gradient + row[None, :] * D + column[:, None], to_z, mask=inside, sem="relaxed")',
        "there_z = z_gradient + row[None, :] * D + column[:, None]\n        tl.store(there_z, tl.load(there_z, mask=inside, other=0.0) + to_z, mask=inside)",
    ),
)
log_aggregate_posterior_backward_kernel.mistake(
    "The weights lack the joint: its gradient goes to every latent of a posterior.",
    no_joint=("joint[:, None, :, :] + each", "each"),
)
log_aggregate_posterior_backward_kernel.mistake(
    "The weights lack the latents' own sums: only the joint's gradient arrives.",
    only_joint=("joint[:, None, :, :] + each", "joint[:, None, :, :] + 0 * each"),
)
log_aggregate_posterior_backward_kernel.mistake(
    "The sign of z's gradient is wrong: e falls as z moves away from the mean, and rises as the mean follows.",
    sign=("to_z = -tl.sum", "to_z = tl.sum"),
)
log_aggregate_posterior_backward_kernel.mistake(
    "The gradient of log_var lacks the −1, which comes from the term + log_var in e.",
    no_minus_one=("(difference * s - 1)", "(difference * s)"),
)
log_aggregate_posterior_backward_kernel.mistake(
    "The ½ in front of log_var's gradient is missing.", no_half=("0.5 * tl.sum(", "tl.sum(")
)
log_aggregate_posterior_backward_kernel.mistake(
    "Only the last block of codes counts: add to the gradients of mean and log_var in the loop.",
    last_block=[
        ("to_mean += ", "to_mean = "),
        ("to_log_var += ", "to_log_var = "),
        ("(turn + tl.program_id(0)) % tl.cdiv(B, ROWS)", "turn"),
    ],
)
log_aggregate_posterior_backward_kernel.mistake(
    "The exponents are not made relative to the sums: w needs exp(e − sums), which are the posterior's shares and add up to 1.",
    no_sums=[(" - joint_sum[None, :, None])", ")"), ("(e - each_sum[None, :, :, None])", "(e)")],
)
log_aggregate_posterior_backward_kernel.mistake(
    "The gradient that arrives is not used: multiply the shares by `gradient`.",
    no_gradient=[("joint_gradient[None, :, None] * ", ""), ("each_gradient[None, :, :, None] * ", "")],
)


# ------------------------------------------------------------------ differentiable


@solution(
    lesson.differentiable,
    hints=[
        "A class of torch.autograd.Function within your function: its static forward(ctx, z, mean, log_var) calls `forward`, its backward(ctx, gradient) calls `backward`. Return the class's .apply.",
        "ctx.save_for_backward keeps out and the three inputs; in backward ctx.saved_tensors gives them back, in that order, to be handed to `backward` behind the gradient.",
    ],
)
def differentiable(forward, backward):
    class Streamed(torch.autograd.Function):
        @staticmethod
        def forward(ctx, z, mean, log_var):
            out = forward(z, mean, log_var)
            ctx.save_for_backward(out, z, mean, log_var)
            return out

        @staticmethod
        def backward(ctx, gradient):
            return backward(gradient, *ctx.saved_tensors)

    return Streamed.apply


@differentiable.cases
def _(g):
    yield Case(z=randn(g, 3, 2), mean=randn(g, 4, 2), log_var=randn(g, 4, 2))
    yield Case(z=randn(g, 20, 6), mean=randn(g, 31, 6), log_var=randn(g, 31, 6) - 1)
    yield Case(z=randn(g, 1, 1), mean=randn(g, 1, 1), log_var=randn(g, 1, 1))


differentiable.mistake(
    "The gradient that arrives is not passed on: you gave `backward` ones. The chain rule multiplies by it.",
    ones=("backward(gradient, ", "backward(torch.ones_like(gradient), "),
)
differentiable.mistake(
    "This is `forward` itself: autograd finds no graph in it, and nothing is trained. Wrap both in a torch.autograd.Function.",
    forward_alone=("return Streamed.apply", "return forward"),
)
differentiable.mistake(
    "No gradient arrives at mean and log_var: return all three, in the order of forward's arguments.",
    only_z=(
        "return backward(gradient, *ctx.saved_tensors)",
        "return backward(gradient, *ctx.saved_tensors)[0], None, None",
    ),
)
differentiable.mistake(
    "`backward` was given its tensors in another order: gradient, out, z, mean, log_var.",
    exchanged=("save_for_backward(out, z, mean, log_var)", "save_for_backward(out, z, log_var, mean)"),
)
differentiable.mistake(
    "The gradients of mean and log_var are exchanged: return them in the order of forward's arguments.",
    gradients_exchanged=(
        "return backward(gradient, *ctx.saved_tensors)",
        "to_z, to_mean, to_log_var = backward(gradient, *ctx.saved_tensors)\n            return to_z, to_log_var, to_mean",
    ),
)
