"""Wrong answers to lesson 08, cell by cell, beyond the mistakes that the solutions name."""

# %% the notebook's first cell
import torch
import torch.nn.functional as F

from course_lib import answer
from course_lib.lessons import on_the_gpu
from course_lib.lessons.on_the_gpu import tl


# %% time_call: the clock, no waiting
# says: LAUNCH
@answer(on_the_gpu.time_call)
def time_call(call, queue, warm_up, repeats):
    for _ in range(warm_up):
        call()
    times = []
    for _ in range(repeats):
        start = queue.clock()
        call()
        times.append(queue.clock() - start)
    return torch.stack(times).median()


# %% time_call: the clock, waiting before it only
# says: LAUNCH
@answer(on_the_gpu.time_call)
def time_call(call, queue, warm_up, repeats):
    for _ in range(warm_up):
        call()
    times = []
    for _ in range(repeats):
        queue.synchronize()
        start = queue.clock()
        call()
        times.append(queue.clock() - start)
    return torch.stack(times).median()


# %% time_call: no synchronisation before the times are read
# says: synchronise the queue
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
    return torch.stack([start.elapsed_time(end) for start, end in pairs]).median()


# %% time_call: a Python number
# says: torch.Tensor
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
    return torch.stack([start.elapsed_time(end) for start, end in pairs]).median().item()


# %% time_call: both events in front of the call
# says: LAUNCH
@answer(on_the_gpu.time_call)
def time_call(call, queue, warm_up, repeats):
    for _ in range(warm_up):
        call()
    pairs = []
    for _ in range(repeats):
        start, end = queue.Event(), queue.Event()
        start.record()
        end.record()
        call()
        pairs.append((start, end))
    queue.synchronize()
    return torch.stack([start.elapsed_time(end) for start, end in pairs]).median()


# %% time_call: the upper median
# says: 2 of 5|1 of 5|differ
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
    return torch.stack([start.elapsed_time(end) for start, end in pairs]).sort().values[repeats // 2]


# %% time_call: one warm-up call, whatever was asked for
@answer(on_the_gpu.time_call)
def time_call(call, queue, warm_up, repeats):
    for _ in range(1):
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


# %% lean_step: a mask as an index
# says: size depends on values
@answer(on_the_gpu.lean_step)
def lean_step(model, optimiser, x, labels, limit):
    losses = F.cross_entropy(model(x), labels, reduction="none")
    inside = losses < limit
    loss = losses[inside].sum() / inside.sum().clamp(min=1)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    right = (model(x).argmax(1) == labels).sum()
    return {"loss": loss.detach(), "kept": inside.sum().to(x.dtype), "right": right.to(x.dtype)}


# %% lean_step: .item() for the report
# says: reads a value on the host
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
    return {
        "loss": torch.full((), loss.item(), dtype=x.dtype, device=x.device),
        "kept": kept.sum(),
        "right": right,
    }


# %% lean_step: an if over a tensor
# says: reads a value on the host
@answer(on_the_gpu.lean_step)
def lean_step(model, optimiser, x, labels, limit):
    losses = F.cross_entropy(model(x), labels, reduction="none")
    kept = (losses < limit).to(x.dtype)
    loss = (losses * kept).sum() / kept.sum().clamp(min=1)
    if kept.sum() > 0:
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    right = (model(x).argmax(1) == labels).to(x.dtype).sum()
    return {"loss": loss.detach(), "kept": kept.sum(), "right": right}


# %% lean_step: no zero_grad
# says: differ
@answer(on_the_gpu.lean_step)
def lean_step(model, optimiser, x, labels, limit):
    losses = F.cross_entropy(model(x), labels, reduction="none")  # (B,)
    kept = (losses < limit).to(x.dtype)
    loss = (losses * kept).sum() / kept.sum().clamp(min=1)
    loss.backward()
    optimiser.step()
    with torch.no_grad():
        right = (model(x).argmax(1) == labels).to(x.dtype).sum()
    return {"loss": loss.detach(), "kept": kept.sum(), "right": right}


# %% lean_step: the loss with its graph
# says: graph
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
    return {"loss": loss, "kept": kept.sum(), "right": right}


# %% lean_step: counted on the CPU
# says: CPU
@answer(on_the_gpu.lean_step)
def lean_step(model, optimiser, x, labels, limit):
    losses = F.cross_entropy(model(x), labels, reduction="none")  # (B,)
    kept = (losses < limit).to(x.dtype)
    loss = (losses * kept).sum() / kept.sum().clamp(min=1)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    with torch.no_grad():
        right = (model(x).argmax(1) == labels).cpu().to(x.dtype).sum()
    return {"loss": loss.detach(), "kept": kept.sum(), "right": right}


# %% lean_step: Python numbers
# says: torch.Tensor
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
    return {"loss": loss.detach(), "kept": kept.sum(), "right": float(right)}


# %% arithmetic_intensity: float64 comes out
# says: float32
@answer(on_the_gpu.arithmetic_intensity)
def arithmetic_intensity(rows, inner, columns, size):
    m, k, n = (x.to(torch.float64) + torch.zeros((), dtype=torch.float64) for x in (rows, inner, columns))
    return 2 * m * k * n / (size * (m * k + k * n + m * n))


# %% arithmetic_intensity: the mean over the products
# says: shape
@answer(on_the_gpu.arithmetic_intensity)
def arithmetic_intensity(rows, inner, columns, size):
    flops = 2 * rows * inner * columns
    moved = size * (rows * inner + inner * columns + rows * columns)
    return (flops / moved).mean()


# %% arithmetic_intensity: a fused multiply-add counts as one, the result is free
@answer(on_the_gpu.arithmetic_intensity)
def arithmetic_intensity(rows, inner, columns, size):
    return rows * inner * columns / (size * (rows * inner + inner * columns))


# %% arithmetic_intensity: one after the other
# says: loop
@answer(on_the_gpu.arithmetic_intensity)
def arithmetic_intensity(rows, inner, columns, size):
    found = []
    for m, k, n in zip(rows, inner, columns, strict=True):
        found.append(2 * m * k * n / (size * (m * k + k * n + m * n)))
    return torch.stack(found)


# %% arithmetic_intensity: bits
@answer(on_the_gpu.arithmetic_intensity)
def arithmetic_intensity(rows, inner, columns, size):
    flops = 2 * rows * inner * columns
    moved = 8 * size * (rows * inner + inner * columns + rows * columns)
    return flops / moved


# %% arithmetic_intensity: numbers on the host
# says: CPU|host
@answer(on_the_gpu.arithmetic_intensity)
def arithmetic_intensity(rows, inner, columns, size):
    found = [
        2 * m * k * n / (size * (m * k + k * n + m * n))
        for m, k, n in zip(*(x.tolist() for x in (rows, inner, columns)), strict=True)
    ]
    return torch.tensor(found)


# %% roofline_seconds: the mean of the three
@answer(on_the_gpu.roofline_seconds)
def roofline_seconds(flops, moved, launches, peak, bandwidth, launch_seconds):
    return (flops / peak + moved / bandwidth + launches * launch_seconds) / 3


# %% roofline_seconds: one number for all pieces
# says: shape
@answer(on_the_gpu.roofline_seconds)
def roofline_seconds(flops, moved, launches, peak, bandwidth, launch_seconds):
    return torch.stack([flops / peak, moved / bandwidth, launches * launch_seconds]).max()


# %% roofline_seconds: launches before the device begins
@answer(on_the_gpu.roofline_seconds)
def roofline_seconds(flops, moved, launches, peak, bandwidth, launch_seconds):
    return torch.maximum(flops / peak, moved / bandwidth) + launches * launch_seconds


# %% roofline_seconds: speeds, not times
@answer(on_the_gpu.roofline_seconds)
def roofline_seconds(flops, moved, launches, peak, bandwidth, launch_seconds):
    return torch.maximum(torch.maximum(peak / flops, bandwidth / moved), launches * launch_seconds)


# %% roofline_seconds: a Python max
# says: host|loop
@answer(on_the_gpu.roofline_seconds)
def roofline_seconds(flops, moved, launches, peak, bandwidth, launch_seconds):
    three = zip(flops / peak, moved / bandwidth, launches * launch_seconds, strict=True)
    return torch.stack([max(times) for times in three])


# %% roofline_seconds: milliseconds
@answer(on_the_gpu.roofline_seconds)
def roofline_seconds(flops, moved, launches, peak, bandwidth, launch_seconds):
    return 1000 * torch.stack([flops / peak, moved / bandwidth, launches * launch_seconds]).amax(0)


# %% fused_traffic: a loop over the tensors
# says: loop
@answer(on_the_gpu.fused_traffic)
def fused_traffic(reads, writes, kept, sizes):
    apart = fused = torch.zeros((), device=sizes.device)
    for r, w, k, size in zip(reads.T, writes.T, kept, sizes, strict=True):
        apart = apart + size * (r.sum() + w.sum())
        fused = fused + size * ((r.any() & ~w.any()).to(size.dtype) + (w.any() & k).to(size.dtype))
    return torch.stack([apart, fused])


# %% fused_traffic: masks as indices
# says: size depends on values
@answer(on_the_gpu.fused_traffic)
def fused_traffic(reads, writes, kept, sizes):
    read, written = reads.any(0), writes.any(0)
    apart = (reads * sizes).sum() + (writes * sizes).sum()
    return torch.stack([apart, sizes[read & ~written].sum() + sizes[written & kept].sum()])


# %% fused_traffic: what is kept is written whether an operation writes it or not
@answer(on_the_gpu.fused_traffic)
def fused_traffic(reads, writes, kept, sizes):
    apart = (reads * sizes).sum() + (writes * sizes).sum()
    read, written = reads.any(0), writes.any(0)
    fused = ((read & ~written) * sizes).sum() + (kept * sizes).sum()
    return torch.stack([apart, fused])


# %% fused_traffic: read from memory even if an earlier operation wrote it, and kept results only
@answer(on_the_gpu.fused_traffic)
def fused_traffic(reads, writes, kept, sizes):
    apart = (reads * sizes).sum() + (writes * sizes).sum()
    read, written = reads.any(0), writes.any(0)
    fused = ((read & ~(written & ~kept)) * sizes).sum() + ((written & kept) * sizes).sum()
    return torch.stack([apart, fused])


# %% fused_traffic: a tuple
# says: Expected one tensor
@answer(on_the_gpu.fused_traffic)
def fused_traffic(reads, writes, kept, sizes):
    apart = (reads * sizes).sum() + (writes * sizes).sum()
    read, written = reads.any(0), writes.any(0)
    fused = ((read & ~written) * sizes).sum() + ((written & kept) * sizes).sum()
    return (apart, fused)


# %% fused_traffic: counts of tensors, not bytes
@answer(on_the_gpu.fused_traffic)
def fused_traffic(reads, writes, kept, sizes):
    apart = (reads * torch.ones_like(sizes)).sum() + (writes * torch.ones_like(sizes)).sum()
    read, written = reads.any(0), writes.any(0)
    fused = ((read & ~written) * torch.ones_like(sizes)).sum() + (
        (written & kept) * torch.ones_like(sizes)
    ).sum()
    return torch.stack([apart, fused])


# %% gaussian_kl_kernel: no mask on the store
# says: writes
# says: past the end of `kl`
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
    tl.store(kl + row, 0.5 * tl.sum(m * m + tl.exp(v) - v - 1, 1))


# %% gaussian_kl_kernel: columns not masked
# says: past the end|differ
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
    inside = (row < B)[:, None] & (column < COLUMNS)[None, :]
    at_mean = row[:, None] * mean_row + column[None, :] * mean_column
    at_log_var = row[:, None] * log_var_row + column[None, :] * log_var_column
    m = tl.load(mean + at_mean, mask=inside, other=0.0)
    v = tl.load(log_var + at_log_var, mask=inside, other=0.0)
    tl.store(kl + row, 0.5 * tl.sum(m * m + tl.exp(v) - v - 1, 1), mask=row < B)


# %% gaussian_kl_kernel: each tensor loaded twice
# says: least possible
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
    tl.store(
        kl + row,
        0.5 * tl.sum(m * m + tl.exp(v) - tl.load(log_var + at_log_var, mask=inside, other=0.0) - 1, 1),
        mask=row < B,
    )


# %% gaussian_kl_kernel: variance for log variance
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
    tl.store(kl + row, 0.5 * tl.sum(m * m + v * v - v - 1, 1), mask=row < B)


# %% gaussian_kl_kernel: off by one row
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
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS) + 1
    column = tl.arange(0, COLUMNS)
    inside = (row < B)[:, None] & (column < D)[None, :]
    at_mean = row[:, None] * mean_row + column[None, :] * mean_column
    at_log_var = row[:, None] * log_var_row + column[None, :] * log_var_column
    m = tl.load(mean + at_mean, mask=inside, other=0.0)
    v = tl.load(log_var + at_log_var, mask=inside, other=0.0)
    tl.store(kl + row, 0.5 * tl.sum(m * m + tl.exp(v) - v - 1, 1), mask=row < B)


# %% gaussian_kl_kernel: all programs write the first rows
# says: race|past the end|touch
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
    tl.store(kl + tl.arange(0, ROWS), 0.5 * tl.sum(m * m + tl.exp(v) - v - 1, 1), mask=row < B)


# %% gaussian_kl_kernel: a block of D columns, which is no power of two
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
    column = tl.arange(0, D)
    inside = (row < B)[:, None] & (column < D)[None, :]
    at_mean = row[:, None] * mean_row + column[None, :] * mean_column
    at_log_var = row[:, None] * log_var_row + column[None, :] * log_var_column
    m = tl.load(mean + at_mean, mask=inside, other=0.0)
    v = tl.load(log_var + at_log_var, mask=inside, other=0.0)
    tl.store(kl + row, 0.5 * tl.sum(m * m + tl.exp(v) - v - 1, 1), mask=row < B)


# %% gaussian_kl_kernel: a Python loop with break
# says: compiler
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
    for i in range(ROWS):
        if i > B:
            break
    tl.store(kl + row, 0.5 * tl.sum(m * m + tl.exp(v) - v - 1, 1), mask=row < B)


# %% gaussian_kl_kernel: rounded to bfloat16 before the sum
# says: differ
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
    tl.store(
        kl + row,
        0.5 * tl.sum((m * m + tl.exp(v) - v - 1).to(tl.float32).to(tl.bfloat16).to(tl.float32), 1),
        mask=row < B,
    )


# %% log_sum_exp_kernel: no mask on the store
# says: writes
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
    tl.store(out + row, top + tl.log(total))


# %% log_sum_exp_kernel: two passes
# says: least possible
from course_lib.lessons.on_the_gpu import tl


@answer(on_the_gpu.log_sum_exp_kernel)
def log_sum_exp_kernel(x, out, B, N, x_row, x_column, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    top = tl.full([ROWS], float("-inf"), tl.float32)
    for first in range(0, N, BLOCK):
        column = first + tl.arange(0, BLOCK)
        inside = (row < B)[:, None] & (column < N)[None, :]
        place = row[:, None] * x_row + column[None, :] * x_column
        top = tl.maximum(top, tl.max(tl.load(x + place, mask=inside, other=float("-inf")), 1))
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


# %% log_sum_exp_kernel: without the logarithm
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
    tl.store(out + row, top + total, mask=row < B)


# %% log_sum_exp_kernel: the product of rescaled sums
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
        total = total * tl.exp(top - higher) * tl.sum(tl.exp(values - higher[:, None]), 1)
        top = higher
    tl.store(out + row, top + tl.log(total), mask=row < B)


# %% log_sum_exp_kernel: rescaled the wrong way round
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
        total = total * tl.exp(higher - top) + tl.sum(tl.exp(values - higher[:, None]), 1)
        top = higher
    tl.store(out + row, top + tl.log(total), mask=row < B)


# %% log_sum_exp_kernel: the first block is left out
from course_lib.lessons.on_the_gpu import tl


@answer(on_the_gpu.log_sum_exp_kernel)
def log_sum_exp_kernel(x, out, B, N, x_row, x_column, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    top = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    for first in range(BLOCK, N, BLOCK):
        column = first + tl.arange(0, BLOCK)
        inside = (row < B)[:, None] & (column < N)[None, :]
        place = row[:, None] * x_row + column[None, :] * x_column
        values = tl.load(x + place, mask=inside, other=float("-inf"))
        higher = tl.maximum(top, tl.max(values, 1))
        total = total * tl.exp(top - higher) + tl.sum(tl.exp(values - higher[:, None]), 1)
        top = higher
    tl.store(out + row, top + tl.log(total), mask=row < B)


# %% log_sum_exp_kernel: blocks that overlap
# says: least possible
from course_lib.lessons.on_the_gpu import tl


@answer(on_the_gpu.log_sum_exp_kernel)
def log_sum_exp_kernel(x, out, B, N, x_row, x_column, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    top = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    for first in range(0, N, BLOCK // 2):
        column = first + tl.arange(0, BLOCK)
        inside = (row < B)[:, None] & (column < N)[None, :]
        place = row[:, None] * x_row + column[None, :] * x_column
        values = tl.load(x + place, mask=inside, other=float("-inf"))
        higher = tl.maximum(top, tl.max(values, 1))
        total = total * tl.exp(top - higher) + tl.sum(tl.exp(values - higher[:, None]), 1)
        top = higher
    tl.store(out + row, top + tl.log(total), mask=row < B)


# %% log_aggregate_posterior_kernel: the store of the latents unmasked
# says: writes|touch
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
    tl.store(out + row[:, None] * (1 + D) + 1 + column[None, :], tops + tl.log(totals))


# %% log_aggregate_posterior_kernel: posteriors loaded twice
# says: least possible
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
        e = -0.5 * (
            difference * difference * tl.exp(-v)[None, :, :]
            + tl.load(log_var + at_log_var, mask=there, other=0.0)[None, :, :]
        )
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


# %% log_aggregate_posterior_kernel: the mean over n, not the sum
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
    tl.store(out + row * (1 + D), top + tl.log(total / N), mask=row < B)
    tl.store(out + row[:, None] * (1 + D) + 1 + column[None, :], tops + tl.log(totals / N), mask=inside)


# %% log_aggregate_posterior_kernel: joint and latents exchanged by one column
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
    tl.store(out + row[:, None] * (1 + D) + column[None, :], tops + tl.log(totals), mask=inside)


# %% log_aggregate_posterior_kernel: −½ forgotten
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
        e = -1.0 * (difference * difference * tl.exp(-v)[None, :, :] + v[None, :, :])
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


# %% log_aggregate_posterior_kernel: padded latents count in the joint
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
        v = tl.load(log_var + at_log_var, mask=there, other=1.0)
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


# %% log_aggregate_posterior_kernel: sums over the latents of the maxima
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
        joint = tl.where((n < N)[None, :], tl.max(e, 2), float("-inf"))
        each = tl.where((n < N)[None, :, None], e, float("-inf"))
        higher = tl.maximum(top, tl.max(joint, 1))
        total = total * tl.exp(top - higher) + tl.sum(tl.exp(joint - higher[:, None]), 1)
        top = higher
        highers = tl.maximum(tops, tl.max(each, 1))
        totals = totals * tl.exp(tops - highers) + tl.sum(tl.exp(each - highers[:, None, :]), 1)
        tops = highers
    tl.store(out + row * (1 + D), top + tl.log(total), mask=row < B)
    tl.store(out + row[:, None] * (1 + D) + 1 + column[None, :], tops + tl.log(totals), mask=inside)


# %% log_aggregate_posterior_backward_kernel: z by a plain store
# says: atomic_add
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
        tl.store(z_gradient + row[:, None] * D + column[None, :], -tl.sum(w * s, 1), mask=inside)
    tl.store(mean_gradient + n[:, None] * D + column[None, :], to_mean, mask=there)
    tl.store(log_var_gradient + n[:, None] * D + column[None, :], to_log_var, mask=there)


# %% log_aggregate_posterior_backward_kernel: atomic without a mask
# says: past the end|differ|race|touch
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
        tl.atomic_add(z_gradient + row[:, None] * D + column[None, :], -tl.sum(w * s, 1))
    tl.store(mean_gradient + n[:, None] * D + column[None, :], to_mean, mask=there)
    tl.store(log_var_gradient + n[:, None] * D + column[None, :], to_log_var, mask=there)


# %% log_aggregate_posterior_backward_kernel: mean by an atomic of each step, too
# says: least possible
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
        tl.atomic_add(mean_gradient + n[:, None] * D + column[None, :], tl.sum(w * s, 0), mask=there)
        to_log_var += 0.5 * tl.sum(w * (difference * s - 1), 0)
        tl.atomic_add(z_gradient + row[:, None] * D + column[None, :], -tl.sum(w * s, 1), mask=inside)
    tl.store(log_var_gradient + n[:, None] * D + column[None, :], to_log_var, mask=there)


# %% log_aggregate_posterior_backward_kernel: padded posteriors count
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
        to_mean += tl.sum(w * s, 0)
        to_log_var += 0.5 * tl.sum(w * (difference * s - 1), 0)
        tl.atomic_add(z_gradient + row[:, None] * D + column[None, :], -tl.sum(w * s, 1), mask=inside)
    tl.store(mean_gradient + n[:, None] * D + column[None, :], to_mean, mask=there)
    tl.store(log_var_gradient + n[:, None] * D + column[None, :], to_log_var, mask=there)


# %% log_aggregate_posterior_backward_kernel: variance for precision
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
        s = difference * tl.exp(v)[None, :, :]
        e = -0.5 * (difference * s + v[None, :, :])
        joint = joint_gradient[:, None] * tl.exp(tl.sum(e, 2) - joint_sum[:, None])
        w = joint[:, :, None] + each_gradient[:, None, :] * tl.exp(e - each_sum[:, None, :])
        w = tl.where((n < N)[None, :, None], w, 0.0)
        to_mean += tl.sum(w * s, 0)
        to_log_var += 0.5 * tl.sum(w * (difference * s - 1), 0)
        tl.atomic_add(z_gradient + row[:, None] * D + column[None, :], -tl.sum(w * s, 1), mask=inside)
    tl.store(mean_gradient + n[:, None] * D + column[None, :], to_mean, mask=there)
    tl.store(log_var_gradient + n[:, None] * D + column[None, :], to_log_var, mask=there)


# %% log_aggregate_posterior_backward_kernel: sums of the latents for the joint
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
        joint_gradient = tl.load(gradient + row * (1 + D), mask=row < B, other=0.0)
        each_sum = tl.load(sums + place, mask=inside, other=0.0)
        each_gradient = tl.load(gradient + place, mask=inside, other=0.0)
        difference = code[:, None, :] - m[None, :, :]  # (ROWS, BLOCK, COLUMNS)
        s = difference * tl.exp(-v)[None, :, :]
        e = -0.5 * (difference * s + v[None, :, :])
        joint = joint_gradient[:, None] * tl.exp(tl.sum(e - each_sum[:, None, :], 2))
        w = joint[:, :, None] + each_gradient[:, None, :] * tl.exp(e - each_sum[:, None, :])
        w = tl.where((n < N)[None, :, None], w, 0.0)
        to_mean += tl.sum(w * s, 0)
        to_log_var += 0.5 * tl.sum(w * (difference * s - 1), 0)
        tl.atomic_add(z_gradient + row[:, None] * D + column[None, :], -tl.sum(w * s, 1), mask=inside)
    tl.store(mean_gradient + n[:, None] * D + column[None, :], to_mean, mask=there)
    tl.store(log_var_gradient + n[:, None] * D + column[None, :], to_log_var, mask=there)


# %% log_aggregate_posterior_backward_kernel: mean and log_var exchanged
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
    tl.store(log_var_gradient + n[:, None] * D + column[None, :], to_mean, mask=there)
    tl.store(mean_gradient + n[:, None] * D + column[None, :], to_log_var, mask=there)


# %% differentiable: gradients without the names of two inputs
# says: gradients
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
            return backward(gradient, *ctx.saved_tensors)[0]

    return Streamed.apply


# %% differentiable: out forgotten
@answer(on_the_gpu.differentiable)
def differentiable(forward, backward):
    class Streamed(torch.autograd.Function):
        @staticmethod
        def forward(ctx, z, mean, log_var):
            out = forward(z, mean, log_var)
            ctx.save_for_backward(z, mean, log_var)
            return out

        @staticmethod
        def backward(ctx, gradient):
            return backward(gradient, *ctx.saved_tensors)

    return Streamed.apply


# %% differentiable: the sum of the gradients, for all
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
            a, b, c = backward(gradient, *ctx.saved_tensors)
            return a, b + c, b + c

    return Streamed.apply


# %% differentiable: all pairs are kept
# says: would hold|memory
@answer(on_the_gpu.differentiable)
def differentiable(forward, backward):
    class Streamed(torch.autograd.Function):
        @staticmethod
        def forward(ctx, z, mean, log_var):
            out = forward(z, mean, log_var)
            ctx.pairs = z[:, None] - mean
            ctx.save_for_backward(out, z, mean, log_var)
            return out

        @staticmethod
        def backward(ctx, gradient):
            return backward(gradient, *ctx.saved_tensors)

    return Streamed.apply


# %% differentiable: the class, not its apply
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

    return Streamed


# %% differentiable: the result of forward, in place
@answer(on_the_gpu.differentiable)
def differentiable(forward, backward):
    class Streamed(torch.autograd.Function):
        @staticmethod
        def forward(ctx, z, mean, log_var):
            out = forward(z, mean, log_var)
            ctx.save_for_backward(out, z, mean, log_var)
            return out.mul_(1).add_(0.1)

        @staticmethod
        def backward(ctx, gradient):
            return backward(gradient, *ctx.saved_tensors)

    return Streamed.apply
