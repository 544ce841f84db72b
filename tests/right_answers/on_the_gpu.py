"""Right answers to lesson 08, cell by cell."""

# %% the notebook's first cell
import torch
import torch.nn.functional as F

from course_lib import answer
from course_lib.lessons import on_the_gpu
from course_lib.lessons.on_the_gpu import tl


# %% time_call: the hint, literally
@answer(on_the_gpu.time_call)
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


# %% time_call: a clock that waits, before and after
@answer(on_the_gpu.time_call)
def time_call(call, queue, warm_up, repeats):
    for _ in range(warm_up):
        call()
    times = []
    for _ in range(repeats):
        queue.synchronize()
        start = queue.clock()
        call()
        queue.synchronize()
        times.append(queue.clock() - start)
    return torch.stack(times).median()


# %% time_call: synchronised after each call
@answer(on_the_gpu.time_call)
def time_call(call, queue, warm_up, repeats):
    times = []
    for i in range(warm_up + repeats):
        start, end = queue.Event(), queue.Event()
        start.record()
        call()
        end.record()
        queue.synchronize()
        if i >= warm_up:
            times.append(start.elapsed_time(end))
    return torch.stack(times).median()


# %% time_call: one event between two calls
@answer(on_the_gpu.time_call)
def time_call(call, queue, warm_up, repeats):
    for _ in range(warm_up):
        call()
    events = [queue.Event() for _ in range(repeats + 1)]
    events[0].record()
    for event in events[1:]:
        call()
        event.record()
    queue.synchronize()
    times = [events[i].elapsed_time(events[i + 1]) for i in range(repeats)]
    return torch.stack(times).sort().values[(repeats - 1) // 2]


# %% lean_step: the hint, literally
@answer(on_the_gpu.lean_step)
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


# %% lean_step: torch.where
@answer(on_the_gpu.lean_step)
def lean_step(model, optimiser, x, labels, limit):
    losses = F.cross_entropy(model(x), labels, reduction="none")
    inside = losses < limit
    count = inside.sum()
    loss = torch.where(inside, losses, 0).sum() / count.clamp(min=1)
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    optimiser.step()
    right = model(x).argmax(dim=1).eq(labels).sum()
    return {"loss": loss.detach(), "kept": count.to(x.dtype), "right": right.to(x.dtype)}


# %% lean_step: log_softmax and gather
@answer(on_the_gpu.lean_step)
def lean_step(model, optimiser, x, labels, limit):
    losses = -F.log_softmax(model(x), dim=1).gather(1, labels[:, None])[:, 0]
    mask = (losses < limit).float().to(x.dtype)
    kept = mask.sum()
    loss = losses.mul(mask).sum().div(kept.clamp(min=1))
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    with torch.no_grad():
        right = torch.eq(model(x).max(1).indices, labels).sum(dtype=x.dtype)
    return {"loss": loss.detach(), "kept": kept.detach(), "right": right}


# %% lean_step: weights that add up to 1
@answer(on_the_gpu.lean_step)
def lean_step(model, optimiser, x, labels, limit):
    optimiser.zero_grad()
    losses = F.cross_entropy(model(x), labels, reduction="none")
    kept = torch.lt(losses.detach(), limit).to(x.dtype)
    total = kept.sum()
    loss = losses @ (kept / torch.maximum(total, torch.ones_like(total)))
    loss.backward()
    optimiser.step()
    hits = (model(x).detach().argmax(1) == labels).to(x.dtype)
    return {"loss": loss.detach(), "kept": total, "right": hits.sum()}


# %% arithmetic_intensity: the hint, literally
@answer(on_the_gpu.arithmetic_intensity)
def arithmetic_intensity(rows, inner, columns, size):
    flops = 2 * rows * inner * columns
    moved = size * (rows * inner + inner * columns + rows * columns)
    return flops / moved


# %% arithmetic_intensity: one fraction
@answer(on_the_gpu.arithmetic_intensity)
def arithmetic_intensity(rows, inner, columns, size):
    return 2 / size / (1 / rows + 1 / columns + 1 / inner)


# %% arithmetic_intensity: bytes first
@answer(on_the_gpu.arithmetic_intensity)
def arithmetic_intensity(rows, inner, columns, size):
    a, b, c = rows * inner, inner * columns, rows * columns
    moved = torch.stack([a, b, c]).sum(0) * size
    return c * inner * 2 / moved


# %% arithmetic_intensity: in double precision
@answer(on_the_gpu.arithmetic_intensity)
def arithmetic_intensity(rows, inner, columns, size):
    m, k, n = (x.double() for x in (rows, inner, columns))
    return (2 * m * k * n / (size * (m * k + k * n + m * n))).to(rows.dtype)


# %% roofline_seconds: the hint, literally
@answer(on_the_gpu.roofline_seconds)
def roofline_seconds(flops, moved, launches, peak, bandwidth, launch_seconds):
    return torch.maximum(torch.maximum(flops / peak, moved / bandwidth), launches * launch_seconds)


# %% roofline_seconds: stacked
@answer(on_the_gpu.roofline_seconds)
def roofline_seconds(flops, moved, launches, peak, bandwidth, launch_seconds):
    return torch.stack([flops / peak, moved / bandwidth, launches * launch_seconds]).amax(0)


# %% roofline_seconds: torch.where
@answer(on_the_gpu.roofline_seconds)
def roofline_seconds(flops, moved, launches, peak, bandwidth, launch_seconds):
    device = torch.where(flops / peak > moved / bandwidth, flops / peak, moved / bandwidth)
    host = launch_seconds * launches
    return torch.where(host > device, host, device)


# %% roofline_seconds: by the ridge
@answer(on_the_gpu.roofline_seconds)
def roofline_seconds(flops, moved, launches, peak, bandwidth, launch_seconds):
    at_most = (flops / moved * bandwidth).clamp(max=peak)  # operations a second that the roofs allow
    return (flops / at_most).max(launches * launch_seconds)


# %% fused_traffic: the hint, literally
@answer(on_the_gpu.fused_traffic)
def fused_traffic(reads, writes, kept, sizes):
    apart = (reads * sizes).sum() + (writes * sizes).sum()
    read, written = reads.any(0), writes.any(0)
    fused = ((read & ~written) * sizes).sum() + ((written & kept) * sizes).sum()
    return torch.stack([apart, fused])


# %% fused_traffic: matrix products
@answer(on_the_gpu.fused_traffic)
def fused_traffic(reads, writes, kept, sizes):
    apart = ((reads.to(sizes.dtype) + writes.to(sizes.dtype)) @ sizes).sum()
    read, written = reads.any(dim=0), writes.any(dim=0)
    fused = (read & ~written).to(sizes.dtype) @ sizes + (written & kept).to(sizes.dtype) @ sizes
    return torch.stack((apart, fused))


# %% fused_traffic: where, and counts
@answer(on_the_gpu.fused_traffic)
def fused_traffic(reads, writes, kept, sizes):
    times = reads.sum(0) + writes.sum(0)
    written = writes.sum(0) > 0
    once = torch.where(written, kept, reads.sum(0) > 0)
    return torch.stack([(times * sizes).sum(), (once * sizes).sum()])


# %% fused_traffic: masked by multiplication
@answer(on_the_gpu.fused_traffic)
def fused_traffic(reads, writes, kept, sizes):
    r, w, k = (x.to(sizes.dtype) for x in (reads, writes, kept))
    written = w.amax(0)
    moved = torch.stack([r.sum(0) + w.sum(0), r.amax(0) * (1 - written) + written * k])
    return moved @ sizes


# %% gaussian_kl_kernel: the hint, literally
from course_lib.lessons.on_the_gpu import tl


@answer(on_the_gpu.gaussian_kl_kernel)
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


# %% gaussian_kl_kernel: terms masked before the sum
from course_lib.lessons.on_the_gpu import tl


@answer(on_the_gpu.gaussian_kl_kernel)
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
    m = tl.load(mean + at_mean, mask=inside)
    v = tl.load(log_var + at_log_var, mask=inside)
    tl.store(kl + row, tl.sum(tl.where(inside, 0.5 * (m * m + tl.exp(v) - v - 1), 0.0), 1), mask=row < B)


# %% gaussian_kl_kernel: ½ (mean² − 1 − log_var) + ½ exp, in two sums
from course_lib.lessons.on_the_gpu import tl


@answer(on_the_gpu.gaussian_kl_kernel)
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
    tl.store(kl + row, 0.5 * (tl.sum(m * m - v, 1) + tl.sum(tl.exp(v), 1) - COLUMNS), mask=row < B)


# %% gaussian_kl_kernel: accumulated in float32 by name
from course_lib.lessons.on_the_gpu import tl


@answer(on_the_gpu.gaussian_kl_kernel)
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
    row = tl.program_id(axis=0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    inside = (row < B)[:, None] & (column < D)[None, :]
    at_mean = row[:, None] * mean_row + column[None, :] * mean_column
    at_log_var = row[:, None] * log_var_row + column[None, :] * log_var_column
    m = tl.load(mean + at_mean, mask=inside, other=0.0)
    v = tl.load(log_var + at_log_var, mask=inside, other=0.0)
    tl.store(kl + row, 0.5 * tl.sum(m * m + tl.exp(v) - (v + 1.0), axis=1), mask=row < B)


# %% log_sum_exp_kernel: the hint, literally
from course_lib.lessons.on_the_gpu import tl


@answer(on_the_gpu.log_sum_exp_kernel)
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


# %% log_sum_exp_kernel: the block summed by itself, then joined
from course_lib.lessons.on_the_gpu import tl


@answer(on_the_gpu.log_sum_exp_kernel)
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
        total *= tl.exp(top - higher)
        total += tl.sum(tl.exp(values - higher[:, None]), axis=1)
        top = higher
    tl.store(out + row, top + tl.log(total), mask=row < B)


# %% log_sum_exp_kernel: in the base of 2
from course_lib.lessons.on_the_gpu import tl


@answer(on_the_gpu.log_sum_exp_kernel)
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
        total = total * tl.exp2((top - higher) * 1.4426950408889634) + tl.sum(
            tl.exp2((values - higher[:, None]) * 1.4426950408889634), 1
        )
        top = higher
    tl.store(out + row, top + tl.log2(total) * 0.6931471805599453, mask=row < B)


# %% log_sum_exp_kernel: a large negative number for −∞
from course_lib.lessons.on_the_gpu import tl


@answer(on_the_gpu.log_sum_exp_kernel)
def log_sum_exp_kernel(x, out, B, N, x_row, x_column, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    top = tl.full([ROWS], -3e38, tl.float32)
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


# %% log_aggregate_posterior_kernel: the hint, literally
from course_lib.lessons.on_the_gpu import tl


@answer(on_the_gpu.log_aggregate_posterior_kernel)
def log_aggregate_posterior_kernel(
    z,
    mean,
    log_var,
    out,
    B,
    N,
    D,
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
    inside = (row < B)[:, None] & (column < D)[None, :]
    code = tl.load(z + row[:, None] * z_row + column[None, :] * z_column, mask=inside, other=0.0)
    top = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    tops = tl.full([ROWS, COLUMNS], float("-inf"), tl.float32)
    totals = tl.zeros([ROWS, COLUMNS], tl.float32)
    for first in range(0, N, BLOCK):
        n = first + tl.arange(0, BLOCK)
        there = (n < N)[:, None] & (column < D)[None, :]
        at_mean = n[:, None] * mean_row + column[None, :] * mean_column
        at_log_var = n[:, None] * log_var_row + column[None, :] * log_var_column
        m = tl.load(mean + at_mean, mask=there, other=0.0)
        v = tl.load(log_var + at_log_var, mask=there, other=0.0)
        difference = code[:, None, :] - m[None, :, :]  # (ROWS, BLOCK, COLUMNS)
        e = -0.5 * (difference * difference * tl.exp(-v)[None, :, :] + v[None, :, :])
        joint = tl.where((n < N)[None, :], tl.sum(e, 2), float("-inf"))
        each = tl.where((n < N)[None, :, None], e, float("-inf"))
        higher = tl.maximum(top, tl.max(joint, 1))
        total = total * tl.exp(top - higher) + tl.sum(tl.exp(joint - higher[:, None]), 1)
        top = higher
        highers = tl.maximum(tops, tl.max(each, 1))
        totals = totals * tl.exp(tops - highers) + tl.sum(tl.exp(each - highers[:, None, :]), 1)
        tops = highers
    tl.store(out + row * (1 + D), top + tl.log(total), mask=row < B)
    tl.store(out + row[:, None] * (1 + D) + 1 + column[None, :], tops + tl.log(totals), mask=inside)


# %% log_aggregate_posterior_kernel: a precision of its own
from course_lib.lessons.on_the_gpu import tl


@answer(on_the_gpu.log_aggregate_posterior_kernel)
def log_aggregate_posterior_kernel(
    z,
    mean,
    log_var,
    out,
    B,
    N,
    D,
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
    inside = (row < B)[:, None] & (column < D)[None, :]
    code = tl.load(z + row[:, None] * z_row + column[None, :] * z_column, mask=inside, other=0.0)
    top = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    tops = tl.full([ROWS, COLUMNS], float("-inf"), tl.float32)
    totals = tl.zeros([ROWS, COLUMNS], tl.float32)
    for first in range(0, N, BLOCK):
        n = first + tl.arange(0, BLOCK)
        there = (n < N)[:, None] & (column < D)[None, :]
        at_mean = n[:, None] * mean_row + column[None, :] * mean_column
        at_log_var = n[:, None] * log_var_row + column[None, :] * log_var_column
        m = tl.load(mean + at_mean, mask=there, other=0.0)
        v = tl.load(log_var + at_log_var, mask=there, other=0.0)
        precision = tl.exp(-v)
        difference = code[:, None, :] - m[None, :, :]  # (ROWS, BLOCK, COLUMNS)
        e = -0.5 * (difference * difference * precision[None, :, :] + v[None, :, :])
        joint = tl.where((n < N)[None, :], tl.sum(e, 2), float("-inf"))
        each = tl.where((n < N)[None, :, None], e, float("-inf"))
        higher = tl.maximum(top, tl.max(joint, 1))
        total = total * tl.exp(top - higher) + tl.sum(tl.exp(joint - higher[:, None]), 1)
        top = higher
        highers = tl.maximum(tops, tl.max(each, 1))
        totals = totals * tl.exp(tops - highers) + tl.sum(tl.exp(each - highers[:, None, :]), 1)
        tops = highers
    tl.store(out + row * (1 + D), top + tl.log(total), mask=row < B)
    tl.store(out + row[:, None] * (1 + D) + 1 + column[None, :], tops + tl.log(totals), mask=inside)


# %% log_aggregate_posterior_kernel: −∞ added instead of where
from course_lib.lessons.on_the_gpu import tl


@answer(on_the_gpu.log_aggregate_posterior_kernel)
def log_aggregate_posterior_kernel(
    z,
    mean,
    log_var,
    out,
    B,
    N,
    D,
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
    inside = (row < B)[:, None] & (column < D)[None, :]
    code = tl.load(z + row[:, None] * z_row + column[None, :] * z_column, mask=inside, other=0.0)
    top = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    tops = tl.full([ROWS, COLUMNS], float("-inf"), tl.float32)
    totals = tl.zeros([ROWS, COLUMNS], tl.float32)
    for first in range(0, N, BLOCK):
        n = first + tl.arange(0, BLOCK)
        there = (n < N)[:, None] & (column < D)[None, :]
        at_mean = n[:, None] * mean_row + column[None, :] * mean_column
        at_log_var = n[:, None] * log_var_row + column[None, :] * log_var_column
        m = tl.load(mean + at_mean, mask=there, other=0.0)
        v = tl.load(log_var + at_log_var, mask=there, other=0.0)
        difference = code[:, None, :] - m[None, :, :]  # (ROWS, BLOCK, COLUMNS)
        e = -0.5 * (difference * difference * tl.exp(-v)[None, :, :] + v[None, :, :])
        joint = tl.sum(e, 2) + tl.where(n < N, 0.0, float("-inf"))[None, :]
        each = tl.where((n < N)[None, :, None], e, float("-inf"))
        higher = tl.maximum(top, tl.max(joint, 1))
        total = total * tl.exp(top - higher) + tl.sum(tl.exp(joint - higher[:, None]), 1)
        top = higher
        highers = tl.maximum(tops, tl.max(each, 1))
        totals = totals * tl.exp(tops - highers) + tl.sum(tl.exp(each - highers[:, None, :]), 1)
        tops = highers
    tl.store(out + row * (1 + D), top + tl.log(total), mask=row < B)
    tl.store(out + row[:, None] * (1 + D) + 1 + column[None, :], tops + tl.log(totals), mask=inside)


# %% log_aggregate_posterior_kernel: difference scaled by the standard deviation
from course_lib.lessons.on_the_gpu import tl


@answer(on_the_gpu.log_aggregate_posterior_kernel)
def log_aggregate_posterior_kernel(
    z,
    mean,
    log_var,
    out,
    B,
    N,
    D,
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
    inside = (row < B)[:, None] & (column < D)[None, :]
    code = tl.load(z + row[:, None] * z_row + column[None, :] * z_column, mask=inside, other=0.0)
    top = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    tops = tl.full([ROWS, COLUMNS], float("-inf"), tl.float32)
    totals = tl.zeros([ROWS, COLUMNS], tl.float32)
    for first in range(0, N, BLOCK):
        n = first + tl.arange(0, BLOCK)
        there = (n < N)[:, None] & (column < D)[None, :]
        at_mean = n[:, None] * mean_row + column[None, :] * mean_column
        at_log_var = n[:, None] * log_var_row + column[None, :] * log_var_column
        m = tl.load(mean + at_mean, mask=there, other=0.0)
        v = tl.load(log_var + at_log_var, mask=there, other=0.0)
        difference = (code[:, None, :] - m[None, :, :]) * tl.exp(-0.5 * v)[
            None, :, :
        ]  # (ROWS, BLOCK, COLUMNS)
        e = -0.5 * (difference * difference + v[None, :, :])
        joint = tl.where((n < N)[None, :], tl.sum(e, 2), float("-inf"))
        each = tl.where((n < N)[None, :, None], e, float("-inf"))
        higher = tl.maximum(top, tl.max(joint, 1))
        total = total * tl.exp(top - higher) + tl.sum(tl.exp(joint - higher[:, None]), 1)
        top = higher
        highers = tl.maximum(tops, tl.max(each, 1))
        totals = totals * tl.exp(tops - highers) + tl.sum(tl.exp(each - highers[:, None, :]), 1)
        tops = highers
    tl.store(out + row * (1 + D), top + tl.log(total), mask=row < B)
    tl.store(out + row[:, None] * (1 + D) + 1 + column[None, :], tops + tl.log(totals), mask=inside)


# %% log_aggregate_posterior_backward_kernel: the hint, literally
from course_lib.lessons.on_the_gpu import tl


@answer(on_the_gpu.log_aggregate_posterior_backward_kernel)
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
    D,
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
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    column = tl.arange(0, COLUMNS)
    there = (n < N)[:, None] & (column < D)[None, :]
    at_mean = n[:, None] * mean_row + column[None, :] * mean_column
    at_log_var = n[:, None] * log_var_row + column[None, :] * log_var_column
    m = tl.load(mean + at_mean, mask=there, other=0.0)
    v = tl.load(log_var + at_log_var, mask=there, other=0.0)
    to_mean = tl.zeros([BLOCK, COLUMNS], tl.float32)
    to_log_var = tl.zeros([BLOCK, COLUMNS], tl.float32)
    for first in range(0, B, ROWS):
        row = first + tl.arange(0, ROWS)
        inside = (row < B)[:, None] & (column < D)[None, :]
        place = row[:, None] * (1 + D) + 1 + column[None, :]
        code = tl.load(z + row[:, None] * z_row + column[None, :] * z_column, mask=inside, other=0.0)
        joint_sum = tl.load(sums + row * (1 + D), mask=row < B, other=0.0)
        joint_gradient = tl.load(gradient + row * (1 + D), mask=row < B, other=0.0)
        each_sum = tl.load(sums + place, mask=inside, other=0.0)
        each_gradient = tl.load(gradient + place, mask=inside, other=0.0)
        difference = code[:, None, :] - m[None, :, :]  # (ROWS, BLOCK, COLUMNS)
        s = difference * tl.exp(-v)[None, :, :]
        e = -0.5 * (difference * s + v[None, :, :])
        joint = joint_gradient[:, None] * tl.exp(tl.sum(e, 2) - joint_sum[:, None])
        w = joint[:, :, None] + each_gradient[:, None, :] * tl.exp(e - each_sum[:, None, :])
        w = tl.where((n < N)[None, :, None], w, 0.0)
        to_mean += tl.sum(w * s, 0)
        to_log_var += 0.5 * tl.sum(w * (difference * s - 1), 0)
        tl.atomic_add(z_gradient + row[:, None] * D + column[None, :], -tl.sum(w * s, 1), mask=inside)
    tl.store(mean_gradient + n[:, None] * D + column[None, :], to_mean, mask=there)
    tl.store(log_var_gradient + n[:, None] * D + column[None, :], to_log_var, mask=there)


# %% log_aggregate_posterior_backward_kernel: mask by multiplication
from course_lib.lessons.on_the_gpu import tl


@answer(on_the_gpu.log_aggregate_posterior_backward_kernel)
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
    D,
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
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    column = tl.arange(0, COLUMNS)
    there = (n < N)[:, None] & (column < D)[None, :]
    at_mean = n[:, None] * mean_row + column[None, :] * mean_column
    at_log_var = n[:, None] * log_var_row + column[None, :] * log_var_column
    m = tl.load(mean + at_mean, mask=there, other=0.0)
    v = tl.load(log_var + at_log_var, mask=there, other=0.0)
    to_mean = tl.zeros([BLOCK, COLUMNS], tl.float32)
    to_log_var = tl.zeros([BLOCK, COLUMNS], tl.float32)
    for first in range(0, B, ROWS):
        row = first + tl.arange(0, ROWS)
        inside = (row < B)[:, None] & (column < D)[None, :]
        place = row[:, None] * (1 + D) + 1 + column[None, :]
        code = tl.load(z + row[:, None] * z_row + column[None, :] * z_column, mask=inside, other=0.0)
        joint_sum = tl.load(sums + row * (1 + D), mask=row < B, other=0.0)
        joint_gradient = tl.load(gradient + row * (1 + D), mask=row < B, other=0.0)
        each_sum = tl.load(sums + place, mask=inside, other=0.0)
        each_gradient = tl.load(gradient + place, mask=inside, other=0.0)
        difference = code[:, None, :] - m[None, :, :]  # (ROWS, BLOCK, COLUMNS)
        s = difference * tl.exp(-v)[None, :, :]
        e = -0.5 * (difference * s + v[None, :, :])
        joint = joint_gradient[:, None] * tl.exp(tl.sum(e, 2) - joint_sum[:, None])
        w = joint[:, :, None] + each_gradient[:, None, :] * tl.exp(e - each_sum[:, None, :])
        w = w * (n < N)[None, :, None]
        to_mean += tl.sum(w * s, 0)
        to_log_var += 0.5 * tl.sum(w * (difference * s - 1), 0)
        tl.atomic_add(z_gradient + row[:, None] * D + column[None, :], -tl.sum(w * s, 1), mask=inside)
    tl.store(mean_gradient + n[:, None] * D + column[None, :], to_mean, mask=there)
    tl.store(log_var_gradient + n[:, None] * D + column[None, :], to_log_var, mask=there)


# %% log_aggregate_posterior_backward_kernel: w · s once
from course_lib.lessons.on_the_gpu import tl


@answer(on_the_gpu.log_aggregate_posterior_backward_kernel)
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
    D,
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
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    column = tl.arange(0, COLUMNS)
    there = (n < N)[:, None] & (column < D)[None, :]
    at_mean = n[:, None] * mean_row + column[None, :] * mean_column
    at_log_var = n[:, None] * log_var_row + column[None, :] * log_var_column
    m = tl.load(mean + at_mean, mask=there, other=0.0)
    v = tl.load(log_var + at_log_var, mask=there, other=0.0)
    to_mean = tl.zeros([BLOCK, COLUMNS], tl.float32)
    to_log_var = tl.zeros([BLOCK, COLUMNS], tl.float32)
    for first in range(0, B, ROWS):
        row = first + tl.arange(0, ROWS)
        inside = (row < B)[:, None] & (column < D)[None, :]
        place = row[:, None] * (1 + D) + 1 + column[None, :]
        code = tl.load(z + row[:, None] * z_row + column[None, :] * z_column, mask=inside, other=0.0)
        joint_sum = tl.load(sums + row * (1 + D), mask=row < B, other=0.0)
        joint_gradient = tl.load(gradient + row * (1 + D), mask=row < B, other=0.0)
        each_sum = tl.load(sums + place, mask=inside, other=0.0)
        each_gradient = tl.load(gradient + place, mask=inside, other=0.0)
        difference = code[:, None, :] - m[None, :, :]  # (ROWS, BLOCK, COLUMNS)
        s = difference * tl.exp(-v)[None, :, :]
        e = -0.5 * (difference * s + v[None, :, :])
        joint = joint_gradient[:, None] * tl.exp(tl.sum(e, 2) - joint_sum[:, None])
        w = joint[:, :, None] + each_gradient[:, None, :] * tl.exp(e - each_sum[:, None, :])
        w = tl.where((n < N)[None, :, None], w, 0.0)
        ws = w * s
        to_mean += tl.sum(ws, 0)
        to_log_var += 0.5 * tl.sum(w * (difference * s - 1), 0)
        tl.atomic_add(z_gradient + row[:, None] * D + column[None, :], -tl.sum(ws, 1), mask=inside)
    tl.store(mean_gradient + n[:, None] * D + column[None, :], to_mean, mask=there)
    tl.store(log_var_gradient + n[:, None] * D + column[None, :], to_log_var, mask=there)


# %% log_aggregate_posterior_backward_kernel: the half at the end
from course_lib.lessons.on_the_gpu import tl


@answer(on_the_gpu.log_aggregate_posterior_backward_kernel)
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
    D,
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
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    column = tl.arange(0, COLUMNS)
    there = (n < N)[:, None] & (column < D)[None, :]
    at_mean = n[:, None] * mean_row + column[None, :] * mean_column
    at_log_var = n[:, None] * log_var_row + column[None, :] * log_var_column
    m = tl.load(mean + at_mean, mask=there, other=0.0)
    v = tl.load(log_var + at_log_var, mask=there, other=0.0)
    to_mean = tl.zeros([BLOCK, COLUMNS], tl.float32)
    to_log_var = tl.zeros([BLOCK, COLUMNS], tl.float32)
    for first in range(0, B, ROWS):
        row = first + tl.arange(0, ROWS)
        inside = (row < B)[:, None] & (column < D)[None, :]
        place = row[:, None] * (1 + D) + 1 + column[None, :]
        code = tl.load(z + row[:, None] * z_row + column[None, :] * z_column, mask=inside, other=0.0)
        joint_sum = tl.load(sums + row * (1 + D), mask=row < B, other=0.0)
        joint_gradient = tl.load(gradient + row * (1 + D), mask=row < B, other=0.0)
        each_sum = tl.load(sums + place, mask=inside, other=0.0)
        each_gradient = tl.load(gradient + place, mask=inside, other=0.0)
        difference = code[:, None, :] - m[None, :, :]  # (ROWS, BLOCK, COLUMNS)
        s = difference * tl.exp(-v)[None, :, :]
        e = -0.5 * (difference * s + v[None, :, :])
        joint = joint_gradient[:, None] * tl.exp(tl.sum(e, 2) - joint_sum[:, None])
        w = joint[:, :, None] + each_gradient[:, None, :] * tl.exp(e - each_sum[:, None, :])
        w = tl.where((n < N)[None, :, None], w, 0.0)
        to_mean += tl.sum(w * s, 0)
        to_log_var += tl.sum(w * (difference * s - 1), 0)
        tl.atomic_add(z_gradient + row[:, None] * D + column[None, :], -tl.sum(w * s, 1), mask=inside)
    tl.store(mean_gradient + n[:, None] * D + column[None, :], to_mean, mask=there)
    tl.store(log_var_gradient + n[:, None] * D + column[None, :], 0.5 * to_log_var, mask=there)


# %% differentiable: the hint, literally
@answer(on_the_gpu.differentiable)
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


# %% differentiable: a function that calls apply
@answer(on_the_gpu.differentiable)
def differentiable(forward, backward):
    class Aggregate(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *inputs):
            result = forward(*inputs)
            ctx.save_for_backward(result, *inputs)
            return result

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, gradient):
            out, *inputs = ctx.saved_tensors
            return tuple(backward(gradient.contiguous(), out, *inputs))

    def log_posterior(z, mean, log_var):
        return Aggregate.apply(z, mean, log_var)

    return log_posterior


# %% differentiable: setup_context
@answer(on_the_gpu.differentiable)
def differentiable(forward, backward):
    class Streamed(torch.autograd.Function):
        @staticmethod
        def forward(z, mean, log_var):
            return forward(z, mean, log_var)

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.save_for_backward(output, *inputs)

        @staticmethod
        def backward(ctx, gradient):
            to_z, to_mean, to_log_var = backward(gradient, *ctx.saved_tensors)
            return to_z, to_mean, to_log_var

    return lambda z, mean, log_var: Streamed.apply(z, mean, log_var)
