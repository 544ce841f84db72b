"""The room in which kernels are interpreted: what it counts, what it finds, and that Triton's private parts are still there."""

from __future__ import annotations

import importlib
import operator

import pytest
import torch

from course_lib.exercise import answers, kernels
from course_lib.exercise.check import inspect_answer
from course_lib.exercise.findings import Finding, NoTriton
from course_lib.exercise.kernels import KernelError, launch
from course_lib.exercise.kernels import tl as tl  # a kernel looks for it in its module
from course_lib.lessons import on_the_gpu

needs_triton = pytest.mark.skipif(not kernels.HAS_TRITON, reason="needs Triton")
TRIED = ("3.2", "3.5", "3.6", "3.8", "3.9")  # what the room was tried on


def copy_kernel(x, out, N, BLOCK: tl.constexpr):
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + place, 2.0 * tl.load(x + place, mask=place < N, other=0.0), mask=place < N)


def run(kernel, x, out, programs=3, BLOCK=4, **more):
    return launch(kernel, programs, x=x, out=out, N=len(x), BLOCK=BLOCK, **more)


@needs_triton
def test_the_private_parts_of_triton_are_where_they_were():
    """Where this fails, Triton has moved them: course_lib/exercise/kernels.py is to be adapted, and nothing else."""
    import triton

    missing = []
    for module, names in kernels.PRIVATE.items():
        for name in names:
            try:
                operator.attrgetter(name)(importlib.import_module(module))
            except (ImportError, AttributeError):
                missing.append(f"{module}.{name}")
    assert not missing, f"Triton {triton.__version__}, tried on {', '.join(TRIED)}: {missing} moved"


@needs_triton
class TestCounts:
    def test_what_a_kernel_moves(self):
        x, out = torch.arange(10.0), torch.empty(10)
        trace = run(copy_kernel, x, out)
        assert torch.equal(out, 2 * x)
        assert (trace.programs, trace.loaded, trace.stored, trace.operations) == (3, 40, 40, 12)
        assert trace.readers["x"].tolist() == trace.writers["out"].tolist() == [0] * 4 + [1] * 4 + [2] * 2
        assert trace.reads["x"].tolist() == [1] * 10 and (trace.writers["x"] == kernels.NOWHERE).all()

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.int32])
    def test_other_dtypes(self, dtype):
        x, out = torch.arange(10).to(dtype), torch.empty(10, dtype=torch.float32)
        trace = run(copy_kernel, x, out)
        assert torch.equal(out, 2 * x.float()) and trace.loaded == 10 * x.element_size()

    def test_bfloat16(self):
        def widen(x, out, N, BLOCK: tl.constexpr):
            place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
            tl.store(out + place, tl.load(x + place, mask=place < N).to(tl.float32), mask=place < N)

        x, out = torch.randn(10).bfloat16(), torch.empty(10)
        trace = run(widen, x, out)
        assert torch.equal(out, x.float()) and (trace.loaded, trace.stored) == (20, 40)

    def test_a_reduction_counts_what_goes_in(self):
        def total(x, out, N, BLOCK: tl.constexpr):
            place = tl.arange(0, BLOCK)
            tl.store(out, tl.sum(tl.load(x + place, mask=place < N, other=0.0), 0))

        out = torch.empty(1)
        trace = run(total, torch.arange(10.0), out, programs=1, BLOCK=16)
        assert out.item() == 45 and trace.operations == 16 and (trace.loaded, trace.stored) == (40, 4)
        assert trace.largest == 16  # what the mask keeps back included

    def test_exponentials_are_counted_apart(self):
        def soft(x, out, N, BLOCK: tl.constexpr):
            place = tl.arange(0, BLOCK)
            tl.store(out + place, tl.log2(1 + tl.exp(tl.load(x + place))))

        out = torch.empty(8)
        trace = run(soft, torch.zeros(8), out, programs=1, BLOCK=8)
        assert (trace.operations, trace.specials) == (8, 16) and (out == 1).all()

    def test_an_annotation_makes_a_constant(self):
        def first(x, out, N: tl.constexpr, BLOCK: tl.constexpr):
            kept: tl.constexpr = N // 2
            place = tl.arange(0, BLOCK)
            tl.store(out + place, tl.load(x + place, mask=place < kept, other=7.0), mask=place < N)

        out = torch.empty(4)
        run(first, torch.zeros(4), out, programs=1)
        assert out.tolist() == [0, 0, 7, 7]
        run(first, torch.zeros(4, device="meta"), out.to("meta"), programs=1)

    def test_neighbours_share_a_sector(self):
        def strided(x, out, N, STEP: tl.constexpr, BLOCK: tl.constexpr):
            place = tl.arange(0, BLOCK)
            tl.store(out + place, tl.load(x + STEP * place))

        for step, share in ((1, 1), (2, 1 / 2), (8, 1 / 8), (16, 1 / 8)):
            trace = run(strided, torch.zeros(512), torch.empty(32), programs=1, BLOCK=32, STEP=step)
            assert trace.sectors == 32 * 4 + 32 * 4 / share
            assert trace.coalesced == 256 / trace.sectors

    def test_nothing_and_no_program(self):
        trace = run(copy_kernel, torch.empty(0), torch.empty(0), programs=0)
        assert (trace.programs, trace.moved, trace.coalesced) == (0, 0, 1.0)

    def test_atomic_additions_add_up(self):
        def add(x, out, N, BLOCK: tl.constexpr):
            place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
            tl.atomic_add(out + 0 * place, tl.load(x + place, mask=place < N, other=0.0), mask=place < N)

        x, out = torch.arange(10.0), torch.zeros(1)
        trace = run(add, x, out)
        assert out.item() == 45 and (trace.loaded, trace.stored) == (80, 40)

    def test_a_program_may_load_what_it_alone_added_to(self):
        def own(x, out, N, BLOCK: tl.constexpr):
            me = tl.program_id(0)
            tl.atomic_add(out + me, tl.load(x + me))
            tl.store(out + me, 2 * tl.load(out + me))

        out = torch.zeros(3)
        run(own, torch.arange(3.0), out)
        assert out.tolist() == [0, 2, 4]

    def test_without_other_what_the_mask_leaves_out_is_nothing_to_count_on(self):
        def careless(x, out, N, BLOCK: tl.constexpr):
            place = tl.arange(0, BLOCK)
            tl.store(out, tl.sum(tl.load(x + place, mask=place < N), 0))

        out = torch.zeros(1)
        run(careless, torch.ones(3), out, programs=1)
        assert out.isnan().all()


def past_the_end(x, out, N, BLOCK: tl.constexpr):
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + place, tl.load(x + place), mask=place < N)


def before_the_start(x, out, N, BLOCK: tl.constexpr):
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + place - 1, tl.load(x + place, mask=place < N, other=0.0), mask=place < N)


def one_place(x, out, N, BLOCK: tl.constexpr):
    place = tl.arange(0, BLOCK)
    tl.store(out + place, tl.load(x + place))


def what_another_wrote(x, out, N, BLOCK: tl.constexpr):
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + place, 1.0, mask=place < N)
    tl.load(out + place - 4, mask=(place >= 4) & (place < N), other=0.0)


def what_another_writes_later(x, out, N, BLOCK: tl.constexpr):
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    later = tl.load(out + place + BLOCK, mask=place + BLOCK < N, other=0.0)
    tl.store(out + place, later + tl.load(x + place, mask=place < N), mask=place < N)


def what_all_read(x, out, N, BLOCK: tl.constexpr):
    first = tl.load(out)
    if tl.program_id(0) == 2:
        tl.atomic_add(out, first)


def what_two_read(x, out, N, BLOCK: tl.constexpr):
    me = tl.program_id(0)
    first = tl.load(out, mask=me > 0, other=0.0)  # programs 1 and 2
    tl.store(out, first, mask=me == 2)


def what_two_added_to(x, out, N, BLOCK: tl.constexpr):
    me = tl.program_id(0)
    tl.atomic_add(out + 1, 1.0, mask=me > 0)  # programs 1 and 2
    tl.store(out, tl.load(out + 1, mask=me == 2, other=0.0), mask=me == 2)


def one_place_for_all_lanes(x, out, N, BLOCK: tl.constexpr):
    place = tl.arange(0, BLOCK)
    tl.store(out + tl.program_id(0) + 0 * place, tl.load(x + place))


def half_atomic(x, out, N, BLOCK: tl.constexpr):
    if tl.program_id(0) == 0:
        tl.atomic_add(out + tl.arange(0, BLOCK), tl.load(x + tl.arange(0, BLOCK)))
    else:
        tl.store(out + tl.arange(0, BLOCK), tl.load(x + tl.arange(0, BLOCK)))


def cleared_by_the_first_alone(x, out, N, BLOCK: tl.constexpr):
    if tl.program_id(0) == 0:
        tl.store(out, 0.0)
    tl.atomic_add(out, tl.load(x + tl.program_id(0)))


@needs_triton
@pytest.mark.parametrize(
    ("kernel", "words"),
    [
        (past_the_end, r"Program 2 reads 2 number\(s\) past the end of `x`. Is a mask missing"),
        (before_the_start, r"Program 0 writes 1 number\(s\) before the start of `out`"),
        (one_place, "Programs 0 and 1 both touch a number of `out` that one of them writes.*atomic_add"),
        (what_another_wrote, "Programs 0 and 1 both touch a number of `out`"),
        (what_another_writes_later, "Programs 0 and 1 both touch a number of `out`"),
        (what_all_read, "Programs 0 and 2 both touch a number of `out`"),
        (what_two_read, "Programs 1 and 2 both touch a number of `out`"),
        (what_two_added_to, "Programs 1 and 2 both touch a number of `out`"),
        (one_place_for_all_lanes, "Program 0 stores different numbers to one place of `out`"),
        (half_atomic, "Programs 0 and 1 both touch a number of `out`"),
        (cleared_by_the_first_alone, "Programs 0 and 1 both touch a number of `out`"),
    ],
)
def test_what_a_gpu_would_not_say(kernel, words):
    """Found where it happens; nothing is read or written there, and the tensors' neighbours in memory are as they were."""
    around = torch.zeros(30)
    with pytest.raises(KernelError, match=words) as error:
        run(kernel, torch.arange(10.0), around[10:20])
    assert not around[:10].any() and not around[20:].any()
    found = error.value.finding
    assert Finding.from_data(found.as_data()) == found and "`" not in found.public


@needs_triton
def test_views_are_seen_in_their_own_shape():
    base = torch.arange(24.0).view(4, 6)
    kl, trace = on_the_gpu.launch_gaussian_kl(_kl, base.T[1:4], base.T[1:4] * 0, rows=2)
    assert trace.readers["mean"].tolist() == [[0] * 4, [0] * 4, [1] * 4]
    assert torch.allclose(kl, 0.5 * base.T[1:4].square().sum(1))


def _kl(
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
    row, column = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    inside = (row < B)[:, None] & (column < D)[None, :]
    m = tl.load(mean + row[:, None] * mean_row + column[None, :] * mean_column, mask=inside, other=0.0)
    v = tl.load(
        log_var + row[:, None] * log_var_row + column[None, :] * log_var_column, mask=inside, other=0.0
    )
    tl.store(kl + row, 0.5 * tl.sum(m * m + tl.exp(v) - v - 1, 1), mask=row < B)


@needs_triton
def test_afterwards_triton_is_as_it_was():
    from triton.runtime import interpreter
    from triton.runtime.jit import JITFunction

    before = tl.load, tl.sum, tl.tensor.T, vars(interpreter.interpreter_builder).copy()
    with pytest.raises(KernelError):
        run(past_the_end, torch.arange(10.0), torch.empty(10))
    assert (tl.load, tl.sum, tl.tensor.T) == before[:3] and isinstance(tl.sum, JITFunction)
    left = vars(interpreter.interpreter_builder)
    assert left.keys() - before[3].keys() <= {"grid_dim", "grid_idx"} and "binary_op" not in left


@needs_triton
class TestCompiled:
    def test_shapes_alone_compile_and_run_nothing(self):
        out = torch.empty(10, device="meta")
        assert run(copy_kernel, torch.empty(10, device="meta"), out) is None

    @pytest.mark.parametrize("capability", [75, 80, 90])
    def test_for_every_device_of_the_lesson(self, capability):
        arguments = {"x": torch.empty(4), "out": torch.empty(4), "N": 4, "BLOCK": 4}
        text = kernels.compile_for_gpu(copy_kernel, arguments, ("cuda", capability, 32))
        assert "tt.load" in text and "tt.store" in text

    def test_what_the_compiler_refuses(self):
        def unsteady(x, out, N, BLOCK: tl.constexpr):
            found = 0.0
            for first in range(0, N, BLOCK):
                found = tl.load(x + first + tl.arange(0, BLOCK))
            tl.store(out + tl.arange(0, BLOCK), found)

        with pytest.raises(KernelError, match=r"Triton's compiler refuses your kernel for a GPU: .*found"):
            run(unsteady, torch.empty(8, device="meta"), torch.empty(8, device="meta"))
        with pytest.raises(KernelError, match="nowhere"):
            run(unknown_name, torch.empty(8, device="meta"), torch.empty(8, device="meta"))


def unknown_name(x, out, N, BLOCK: tl.constexpr):
    tl.store(out + nowhere, 0.0)  # noqa: F821


@needs_triton
def test_a_kernel_needs_the_language_under_its_name():
    space: dict = {}
    exec("def f(x, out, N, BLOCK): pass", space)
    with pytest.raises(NameError, match=r"needs triton\.language under that name"):
        run(space["f"], torch.zeros(2), torch.zeros(2))


def test_without_triton_a_panel_says_so_and_nothing_fails(monkeypatch, folder):
    monkeypatch.setattr(kernels, "HAS_TRITON", False)
    with pytest.raises(NoTriton, match="comes with PyTorch's builds for Linux"):
        run(copy_kernel, torch.zeros(2), torch.zeros(2))
    ex = on_the_gpu.log_sum_exp_kernel
    assert inspect_answer(ex).status == "not attempted"
    answers.save_answer(
        ex, "@answer(on_the_gpu.log_sum_exp_kernel)\ndef log_sum_exp_kernel(x, out):\n    tl.load(x)"
    )
    report = inspect_answer(ex)
    assert report.status == "cannot be checked" and "Linux or Colab" in report.message


def test_where_the_language_is_missing_kernels_can_be_written():
    """What a kernel's `def` needs of it: annotations."""
    stand_in = kernels._Language("triton.language")
    space = {"tl": stand_in}
    exec("def f(x: tl.pointer_type, BLOCK: tl.constexpr):\n    return tl.load(x)", space)
    assert space["f"].__annotations__.keys() == {"x", "BLOCK"}
    assert not hasattr(stand_in, "__wrapped__")


def test_sizes():
    assert [kernels.power_of_two(n) for n in (0, 1, 2, 3, 10, 16, 17)] == [1, 1, 2, 4, 16, 16, 32]
    assert [kernels.blocks(n, 16) for n in (0, 1, 16, 17)] == [0, 1, 1, 2]
    assert kernels.bytes_of(torch.empty(3, 4), torch.empty(5, dtype=torch.float64)) == 88
