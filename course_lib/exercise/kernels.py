"""Triton kernels, run on a CPU and watched: the one place that knows the private parts of Triton's interpreter.

`launch` runs a kernel, a plain function written in `triton.language`, where its tensors are:

    CUDA   compiled and launched
    CPU    interpreted, program by program; the `Trace` says what each of them touched
    meta   compiled to Triton's intermediate code for a GPU, which takes none, and not run

The interpreter hands every load and store to a builder's method. While a kernel runs, ours stand in their place. A tensor
begins at an address that no memory has, its number times 2⁴⁸, so an address says which tensor it belongs to, however far past
its end it is, and nothing is read there. Tried on the versions that tests/test_kernels.py names; where
one has moved its parts, that test says which.

A KernelError ends the run of a kernel that touches what it must not, or is refused by the compiler; NoTriton where Triton is missing.

Why not triton-viz: it draws and finds accesses out of bounds, too, and brings a package, a server and versions of Triton of its
own; what a check needs of it stands here in a few hundred lines.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib.util
import inspect
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from course_lib.exercise import answers
from course_lib.exercise.contract import Exercise
from course_lib.exercise.findings import NoTriton, Wrong

HAS_TRITON = importlib.util.find_spec("triton") is not None
SECTOR = 32  # bytes: the least that a GPU of NVIDIA's fetches from its memory
NOWHERE, ATOMIC = -1, -2  # in the place of a program's number
_APART = 1 << 48  # bytes between the addresses of two tensors
_SPECIAL = (
    "exp",
    "exp2",
    "log",
    "log2",
    "sqrt",
    "sin",
    "cos",
)  # of NumPy: a GPU has units of their own for them
_TARGET = ("cuda", 80, 32)  # what is compiled for where no GPU is: an A100


class KernelError(Wrong):
    """What a kernel does wrong, in words."""

    def __init__(self, code: str, **fields: Any):
        super().__init__(code, **fields)
        text = f"{type(self).__name__}: {self}"  # as a key keeps what a mistake raises
        super().__init__(code, **fields, text=text)

    def __str__(self) -> str:
        return self.finding.sentence


class _Language(types.ModuleType):
    """Stands in for `triton.language` where it is missing: kernels can be written, and not run."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return object()


if HAS_TRITON:
    import triton
    import triton.language as tl

    if triton.__version__.startswith("3.2."):  # of PyTorch 2.6
        _range = tl.range.__init__

        def _fetch_nothing_ahead(self, *args: Any, num_stages: Any = None, **more: Any) -> None:
            """That Triton ends Python where a loop fetches blocks of three dimensions ahead: there no loop fetches any."""
            _range(self, *args, **more)

        tl.range.__init__ = _fetch_nothing_ahead
else:
    tl = _Language("triton.language")


# ---------------------------------------------------------------- what a run did


@dataclass
class Trace:
    """What the programs of one launch did.

    loaded, stored   bytes; an atomic operation counts as both
    sectors          bytes of the sectors of 32 that these accesses touch, each access for itself
    largest          how many numbers the largest load or store asks for, masked ones included
    operations       arithmetic on floating-point numbers, one for each number that comes out (a reduction: goes in)
    specials         exponentials, logarithms and roots, one for each number; they are not among the operations
    readers, writers by tensor, an array of its shape: the last program that touched each number, or NOWHERE
    reads            by tensor: how often each number was loaded
    """

    programs: int = 0
    loaded: int = 0
    stored: int = 0
    sectors: int = 0
    largest: int = 0
    operations: int = 0
    specials: int = 0
    readers: dict[str, Tensor] = field(default_factory=dict)
    writers: dict[str, Tensor] = field(default_factory=dict)
    reads: dict[str, Tensor] = field(default_factory=dict)

    @property
    def moved(self) -> int:
        return self.loaded + self.stored

    @property
    def coalesced(self) -> float:
        """The share of the fetched bytes that was asked for: 1 where neighbours are read together, 1/8 at the worst."""
        return self.moved / self.sectors if self.sectors else 1.0


def bytes_of(*tensors: Tensor) -> int:
    """The bytes of all numbers of some tensors."""
    return sum(x.numel() * x.element_size() for x in tensors)


def expect_moved(trace: Trace | None, least: int) -> None:
    """KernelError where a kernel moved more bytes than it must."""
    if trace is not None and trace.moved > least:
        raise KernelError("kernel traffic", moved=trace.moved, least=least)


def power_of_two(n: int) -> int:
    """The next power of two, at least 1: the sizes that a block may have."""
    return 1 << max(0, n - 1).bit_length()


def blocks(n: int, size: int) -> int:
    """How many blocks of a size cover n."""
    return -(-n // size)


def launch(kernel: Callable, programs: int, warps: int | None = None, **arguments: Any) -> Trace | None:
    """Run `kernel` with so many programs. Its arguments by name: tensors, numbers, and in capitals the block sizes (constexpr).

    warps: of 32 threads for each program, on a GPU; Triton's choice is 4.
    Gives the Trace on the CPU, else None. Tensors are written to in place.
    """
    if not HAS_TRITON:
        raise NoTriton
    kernel = answers.in_force(kernel) if isinstance(kernel, Exercise) else inspect.unwrap(kernel)
    function = getattr(kernel, "fn", kernel)  # of @triton.jit, who wrote it
    device = next(x.device.type for x in arguments.values() if isinstance(x, Tensor))
    if device == "meta":
        compile_for_gpu(function, arguments)
        return None
    if device == "cuda":
        if programs:
            compiled(function)[(programs,)](**arguments, **({"num_warps": warps} if warps else {}))
        return None
    return _interpret(function, programs, arguments)


# ---------------------------------------------------------------- compiled


@functools.lru_cache(maxsize=256)
def compiled(function: Callable) -> Any:
    """The function as Triton compiles and launches it on a GPU."""
    return triton.jit(function)


def is_constant(function: Callable, name: str) -> bool:
    """Whether an argument is known when the kernel is compiled: by its annotation, as for Triton, or by a long name in capitals."""
    return (name.isupper() and len(name) > 1) or "constexpr" in str(function.__annotations__.get(name, ""))


def signature(function: Callable, arguments: dict[str, Any]) -> tuple[dict[str, str], dict[str, Any]]:
    """The types of a kernel's arguments as Triton writes them, and the values of its constants."""
    from triton.runtime.jit import mangle_type

    constants = {name: value for name, value in arguments.items() if is_constant(function, name)}
    kinds = {name: "constexpr" if name in constants else mangle_type(x) for name, x in arguments.items()}
    return kinds, constants


def compile_for_gpu(function: Callable, arguments: dict[str, Any], target: tuple = _TARGET) -> str:
    """Triton's intermediate code for a kernel; KernelError where its compiler refuses it."""
    from triton._C.libtriton import ir
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, CompilationError
    from triton.compiler.compiler import make_backend

    kinds, constants = signature(function, arguments)
    goal, context = GPUTarget(*target), ir.context()
    backend = make_backend(goal)
    options = backend.parse_options({})
    ir.load_dialects(context)
    backend.load_dialects(context)
    try:
        order = {name: kinds[name] for name in compiled(function).arg_names}
        source = ASTSource(compiled(function), order, constants)
        parts = {
            "target": goal,
            "options": options,
            "context": context,
            "module_map": backend.get_module_map(),
        }
        parts["codegen_fns"] = _called(backend.get_codegen_implementation, parts)
        return str(_called(source.make_ir, parts))
    except CompilationError as error:
        raise KernelError("not compiled", said=_last_words(error)) from None


def _called(function: Callable, given: dict[str, Any]) -> Any:
    """`function` with what it asks for by name: Triton's versions differ in how much."""
    return function(**{name: given[name] for name in inspect.signature(function).parameters})


def _last_words(error: BaseException) -> str:
    """What the compiler says at last: its errors quote the kernel at length, each within another."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = getattr(error, "error_message", None) or str(error)
    return " ".join(text.split())[:300] or type(error).__name__


# ---------------------------------------------------------------- interpreted


class _Programs:
    """Which programs did one thing to each of `size` numbers: the first, and one other if there was one."""

    def __init__(self, size: int):
        import numpy as np

        self.first, self.second = np.full((2, size), NOWHERE, dtype=np.int32)

    def note(self, places: Any, program: int) -> None:
        import numpy as np

        first, second = self.first[places], self.second[places]
        self.second[places] = np.where((first == NOWHERE) | (first == program), second, program)
        self.first[places] = np.where(first == NOWHERE, program, first)

    def other_than(self, program: int, places: Any) -> int:
        """Another program that did it to one of these numbers, or NOWHERE."""
        import numpy as np

        first = self.first[places]
        others = np.where(first == program, self.second[places], first)
        return int(others.max(initial=NOWHERE))


class _Memory:
    """One tensor as kernels see it: its numbers from the first to the last in memory, and who touched them."""

    def __init__(self, name: str, x: Tensor, number: int):
        import numpy as np

        self.name, self.like, self.start = name, x, (number + 1) * _APART
        self.size = 1 + sum((n - 1) * s for n, s in zip(x.shape, x.stride(), strict=True)) if x.numel() else 0
        flat = x.detach().as_strided((self.size,), (1,))
        self.numbers = (flat.view(torch.uint16) if x.dtype == torch.bfloat16 else flat).numpy()
        self.reader, self.writer = np.full((2, self.size), NOWHERE, dtype=np.int32)
        self.reads = np.zeros(self.size, dtype=np.int32)
        self.loaders, self.storers, self.adders = (_Programs(self.size) for _ in range(3))

    def shaped(self, values: Any) -> Tensor:
        """Notes on memory in the tensor's own shape."""
        return torch.from_numpy(values).as_strided(self.like.shape, self.like.stride()).clone()


class _Watch:
    """The builder's methods that stand in while a kernel runs."""

    def __init__(self, memories: list[_Memory], interpreter: Any):
        self.memories, self.room, self.trace, self.program = memories, interpreter, Trace(), 0

    def methods(self) -> dict[str, Callable]:
        names = ("create_masked_load", "create_masked_store", "create_atomic_rmw", "binary_op", "unary_op")
        return {name: getattr(self, name) for name in (*names, "create_dot")}

    def touch(self, addresses: Any, mask: Any, verb: str) -> tuple[_Memory, Any, Any]:
        """The tensor that pointers lead to, which of its numbers, and where the mask says so. KernelError outside it."""
        import numpy as np

        mask = np.broadcast_to(mask, addresses.shape)
        wanted = addresses[mask]
        self.trace.largest = max(self.trace.largest, addresses.size)
        first = int(wanted[0] if len(wanted) else addresses.flat[0])
        number = (first + _APART // 2) // _APART - 1
        if not 0 <= number < len(self.memories):
            raise KernelError(
                "out of bounds",
                program=self.program,
                verb=verb,
                count=len(wanted),
                place="of",
                name="all tensors",
            )
        memory = self.memories[number]
        size = memory.like.element_size()
        places = (addresses.astype(np.int64) - memory.start) // size
        inside = places[mask]
        outside = (inside < 0) | (inside >= memory.size)
        if outside.any():
            place = "past the end of" if (inside >= memory.size).any() else "before the start of"
            raise KernelError(
                "out of bounds",
                program=self.program,
                verb=verb,
                count=int(outside.sum()),
                place=place,
                name=memory.name,
            )
        self.trace.sectors += SECTOR * len(np.unique(wanted // SECTOR))
        return memory, places, mask

    def apart(self, memory: _Memory, places: Any, *before: _Programs) -> None:
        """KernelError where other programs were there `before` at some numbers: on a GPU they may come later."""
        other = max(programs.other_than(self.program, places) for programs in before)
        if other != NOWHERE:
            raise KernelError("race", program=self.program, other=other, name=memory.name)

    def create_masked_load(self, ptrs, mask, other, *_):  # what follows is for caches, and differs by version
        import numpy as np

        memory, places, mask = self.touch(ptrs.data, mask.data, "reads")
        kind = self.room._get_np_dtype(ptrs.get_element_ty())
        # Without `other` a GPU leaves there what it finds. (Of a single number Triton takes other = 0 for none.)
        nothing = np.nan if np.dtype(kind).kind == "f" and ptrs.data.size > 1 else 0
        values = np.broadcast_to(nothing if other is None else other.data, ptrs.data.shape).astype(kind)
        wanted = places[mask]
        self.apart(memory, wanted, memory.storers, memory.adders)
        values[mask] = memory.numbers[wanted]
        memory.reader[wanted] = self.program
        memory.loaders.note(wanted, self.program)
        np.add.at(memory.reads, wanted, 1)
        self.trace.loaded += wanted.size * memory.like.element_size()
        return self.room.TensorHandle(values, ptrs.get_element_ty())

    def create_masked_store(self, ptrs, value, mask, *_):
        import numpy as np

        memory, places, mask = self.touch(ptrs.data, mask.data, "writes")
        wanted = places[mask]
        self.apart(memory, wanted, memory.storers, memory.adders, memory.loaders)
        stored = np.broadcast_to(value.data, ptrs.data.shape)[mask].astype(memory.numbers.dtype)
        memory.numbers[wanted] = stored
        if not np.array_equal(
            memory.numbers[wanted],
            stored,
            equal_nan=memory.like.is_floating_point() and stored.dtype.kind == "f",
        ):
            raise KernelError("lanes", program=self.program, name=memory.name)
        memory.writer[wanted] = self.program
        memory.storers.note(wanted, self.program)
        self.trace.stored += wanted.size * memory.like.element_size()

    def create_atomic_rmw(self, rmwOp, ptr, val, mask, *_):
        import numpy as np

        memory, places, mask = self.touch(ptr.data, mask.data, "adds")
        if not str(rmwOp).endswith("ADD"):
            raise NotImplementedError(
                "Of the atomic operations the course's interpreter knows tl.atomic_add."
            )
        wanted = places[mask]
        self.apart(memory, wanted, memory.storers, memory.loaders)  # two atomic operations may meet
        before = np.zeros(ptr.data.shape, memory.numbers.dtype)
        before[mask] = memory.numbers[wanted]
        np.add.at(memory.numbers, wanted, np.broadcast_to(val.data, ptr.data.shape)[mask])
        memory.writer[wanted] = ATOMIC
        memory.adders.note(wanted, self.program)
        memory.reader[wanted] = self.program
        self.trace.loaded += wanted.size * memory.like.element_size()
        self.trace.stored += wanted.size * memory.like.element_size()
        return self.room.TensorHandle(before, ptr.get_element_ty())

    def binary_op(self, lhs, rhs, op):
        return self._counted(
            type(self.room.interpreter_builder).binary_op(self.room.interpreter_builder, lhs, rhs, op), lhs
        )

    def unary_op(self, arg, op):
        result = type(self.room.interpreter_builder).unary_op(self.room.interpreter_builder, arg, op)
        if getattr(op, "__name__", "") in _SPECIAL:
            self.trace.specials += result.data.size
            return result
        return self._counted(result, arg)

    def create_dot(self, a, b, d, *rest):
        self.trace.operations += 2 * a.data.size * b.data.shape[-1]
        return type(self.room.interpreter_builder).create_dot(self.room.interpreter_builder, a, b, d, *rest)

    def _counted(self, result, first):
        if first.data.dtype.kind == "f":
            self.trace.operations += result.data.size
        return result


class _Device:
    """A function that other kernels call (tl.sum), to be called as plain Python; reductions ask for its `fn`."""

    def __init__(self, function: Callable):
        self.fn = function

    def __call__(self, *args, **kwargs):
        return self.fn(*args, **kwargs)


def _interpret(function: Callable, programs: int, arguments: dict[str, Any]) -> Trace:
    """Run all programs of a launch, one after the other."""
    import numpy as np
    import triton.runtime.interpreter as room

    tensors = {name: x for name, x in arguments.items() if isinstance(x, Tensor)}
    memories = [_Memory(name, x, i) for i, (name, x) in enumerate(tensors.items())]
    watch = _Watch(memories, room)
    pointers = {m.name: _pointer(m, room) for m in memories}
    given = {
        name: pointers.get(name, x if is_constant(function, name) else room._implicit_cvt(x))
        for name, x in arguments.items()
    }
    builder = room.interpreter_builder
    with _patched(function, watch, room), np.errstate(all="ignore"), torch.no_grad():
        builder.set_grid_dim(max(1, programs), 1, 1)
        for program in range(programs):
            watch.program = program
            builder.set_grid_idx(program, 0, 0)
            function(**given)
    trace = watch.trace
    trace.programs = programs
    for m in memories:
        trace.readers[m.name], trace.writers[m.name] = m.shaped(m.reader), m.shaped(m.writer)
        trace.reads[m.name] = m.shaped(m.reads)
    return trace


def _pointer(memory: _Memory, room: Any) -> Any:
    """The tensor as a kernel's argument: a pointer to an address of ours."""
    import numpy as np

    pointer = room._implicit_cvt(memory.like)
    pointer.handle.data = np.array([memory.start], dtype=np.uint64)
    return pointer


@contextlib.contextmanager
def _patched(function: Callable, watch: _Watch, room: Any) -> Iterator[None]:
    """Triton's language interpreted, and watched, in the block; compiled again after it."""
    from triton.runtime.jit import JITFunction

    if tl not in function.__globals__.values():
        raise NameError("name 'tl' is not defined: a kernel needs triton.language under that name", name="tl")
    builder, options, reduced = (
        room.interpreter_builder,
        room.interpreter_builder.options,
        room.ReduceOps.apply_impl,
    )
    places = [tl, tl.core, tl.math, tl.standard, tl.core.tensor, tl.core.dtype]
    places += [
        kind
        for name, kind in vars(tl.core).items()
        if name.startswith("tensor_descriptor") and isinstance(kind, type)
    ]
    before = [(place, dict(vars(place))) for place in dict.fromkeys(places)]

    def reduce(operation, inputs):
        watch.trace.operations += inputs[0].handle.data.size
        return reduced(operation, inputs)

    try:
        device = {}  # one for each function, whatever modules it is in: reductions ask which it is
        for module in (tl, tl.standard):
            for name, member in list(vars(module).items()):
                if isinstance(member, JITFunction):
                    setattr(module, name, device.setdefault(member, _Device(member.fn)))
        room._patch_lang(function)
        room._patch_lang(tl.standard.sum.fn)
        tl.core.tensor.__index__ = lambda x: int(
            x.handle.data.item()
        )  # Triton 3.5's own fails with NumPy 2.4
        room.ReduceOps.apply_impl = reduce
        builder.options = dataclasses.replace(options, sanitize_overflow=False)  # each index computed twice
        for name, method in watch.methods().items():
            setattr(builder, name, method)
        yield
    finally:
        for name in watch.methods():
            builder.__dict__.pop(name, None)
        room.ReduceOps.apply_impl, builder.options = reduced, options
        for place, members in before:
            _put_back(place, members)


def _put_back(place: Any, members: dict[str, Any]) -> None:
    """Have a module or a class the members that it had, and no others."""
    for name, member in list(vars(place).items()):
        if name not in members:
            delattr(place, name)
        elif member is not members[name]:
            setattr(place, name, members[name])


PRIVATE = {  # what is used of each module, for the test that looks whether it is still there
    "triton.runtime.interpreter": (
        *(
            "TensorHandle",
            "interpreter_builder",
            "ReduceOps",
            "_patch_lang",
            "_implicit_cvt",
            "_get_np_dtype",
        ),
        *("InterpreterBuilder.create_masked_load", "InterpreterBuilder.create_masked_store"),
        *(
            "InterpreterBuilder.create_atomic_rmw",
            "InterpreterBuilder.create_dot",
            "InterpreterBuilder.binary_op",
        ),
        *(
            "InterpreterBuilder.unary_op",
            "InterpreterBuilder.set_grid_dim",
            "InterpreterBuilder.set_grid_idx",
        ),
        "ReduceOps.apply_impl",
    ),
    "triton.runtime.jit": ("JITFunction", "mangle_type"),
    "triton.compiler": ("ASTSource", "CompilationError"),
    "triton.compiler.compiler": ("make_backend",),
    "triton.backends.compiler": ("GPUTarget",),
    "triton._C.libtriton": ("ir.context", "ir.load_dialects"),
    "triton.language": ("core.tensor", "core.dtype", "math", "standard.sum.fn"),
}
