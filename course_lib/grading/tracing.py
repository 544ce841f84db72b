"""An answer as a program: the tensor operations that it runs on one input, run again on another.

A `Recorder` notes every operation that torch dispatches below autograd (the backward pass too) as JSON. `replay`
runs such a program on other inputs of the same shapes, on any generator's seed. What an answer takes from its
inputs by other means than operations (`.item()`, `.tolist()`, NumPy) stands in its program as a constant, so the
program is right on the recorded input alone. Steps are [operation, arguments, named arguments, number of results]; a
tensor is known by its number.
"""

from __future__ import annotations

import gc
import inspect
import sys
from collections.abc import Callable
from types import FunctionType, ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from course_lib.grading.wire import DTYPES, Unreadable, decode, encode

LONGEST = 20_000  # steps
NAMED = (torch.dtype, torch.device, torch.layout, torch.memory_format)
FREE = ("alias", "as_strided", "detach", "lift_fresh")  # bookkeeping, which launches nothing
WORDS = DTYPES | {"cpu": torch.device("cpu"), "meta": torch.device("meta"), "strided": torch.strided}
WORDS |= {
    name: getattr(torch, name) for name in ("complex64", "complex128", "contiguous_format", "preserve_format")
}
WORDS |= {name: getattr(torch, name) for name in ("channels_last", "channels_last_3d")}
REFUSED = ("from_file", "set_", "_local_scalar_dense")  # never a part of a formula


class Recorder(TorchDispatchMode):
    """Writes the program of what runs within it; `inputs` are the tensors that it may be given anew."""

    def __init__(self, inputs: dict[str, Any]):
        super().__init__()
        self.steps: list[list] = []
        self.seeds: list[int] = []  # of the generators, in the order in which they were used
        self._generators: list[torch.Generator] = []
        self._known: dict[
            int, tuple[int, Tensor, int]
        ] = {}  # by id: number, tensor (kept alive), its storage
        self._storages: dict[int, tuple[int, Tensor]] = {}
        self._count = 0
        for name, value in inputs.items():
            if isinstance(value, Tensor):
                self.emit("input", [name], [value])

    def emit(self, operation: str, args: list, results: list[Tensor], kwargs: dict | None = None) -> None:
        """Note a step and give numbers to the tensors that come out of it."""
        if len(self.steps) < 2 * LONGEST:  # the judge refuses it then
            self.steps.append([operation, args, kwargs or {}, len(results)])
        for x in results:
            storage = x.untyped_storage()._cdata
            known = self._known.get(id(x))
            if operation in ("refer", "vjp") or not (known and known[2] == storage):
                new = storage not in self._storages or operation in ("refer", "vjp")
                self._storages |= {storage: (self._count, x)} if new else {}
            self._known[id(x)] = self._count, x, storage
            self._count += 1

    def number(self, x: Tensor) -> int:
        """The number of a tensor. One that no operation made is a view of a storage that is known, or a constant."""
        storage = x.untyped_storage()._cdata
        known = self._known.get(id(x))
        if not (known and known[1] is x and known[2] == storage):
            base = self._storages.get(storage)
            if base and base[1].dtype == x.dtype:
                place = [{"t": base[0]}, list(x.size()), list(x.stride()), x.storage_offset()]
                self.emit("as_strided.default", place, [x])
            else:
                self.emit("const", [encode(x)], [x])
        return self._known[id(x)][0]

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if not any("Tensor" in str(x.type) for x in func._schema.returns):
            return func(*args, **kwargs)
        noted = self._noted(args), {k: self._noted(v) for k, v in kwargs.items()}
        result = func(*args, **kwargs)
        if outs := [x for x in tree_leaves(result) if isinstance(x, Tensor)]:
            name = f"{func.overloadpacket.__name__}.{func._overloadname}"
            name = name if func.namespace == "aten" else f"{func.namespace}::{name}"
            self.emit(name, noted[0], outs, noted[1])
        return result

    def _noted(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return {"t": self.number(value)}
        if isinstance(value, torch.Generator):
            if not any(value is g for g in self._generators):
                self._generators.append(value)
                self.seeds.append(value.initial_seed())
            return {"g": next(i for i, g in enumerate(self._generators) if g is value)}
        if isinstance(value, NAMED):
            return {"torch": str(value).removeprefix("torch.")}
        if isinstance(value, complex):
            return {"complex": [value.real, value.imag]}
        if isinstance(value, (list, tuple)):
            return [self._noted(x) for x in value]
        return value if isinstance(value, (int, float, str, bool)) else None

    def program(self, results: dict[str, Any]) -> dict:
        """What was recorded, with the numbers of these results; a result that is no tensor stands as it is."""
        outs = {}
        for name, x in results.items():
            outs[str(name)[:100]] = {"t": self.number(x)} if isinstance(x, Tensor) else encode(x)
        return {"steps": self.steps, "seeds": self.seeds, "results": outs}


class Copies(TorchFunctionMode):
    """Has copy.deepcopy of a tensor, which copies bytes, copy by an operation."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is Tensor.__deepcopy__ and type(args[0]) is Tensor and args[0].is_leaf:
            x, memo = args
            if id(x) not in memo:
                memo[id(x)] = x.detach().clone().requires_grad_(x.requires_grad)
            return memo[id(x)]
        return func(*args, **(kwargs or {}))


def without_compiler() -> None:
    """Have torch call what it keeps its compiler from as it is: nothing is compiled here, and importing it takes a second.

    Modes, optimisers, checkpoints and some operations are wrapped by torch so that their first call imports torch._dynamo,
    which then wraps them again; what it would give is kept as an attribute, and set here. Only an optimiser's step still
    imports it; torch 2.6 then imports torch.distributed's remote modules too, which writes a file, and nothing here may.
    """
    remote = ModuleType("torch.distributed.nn.api.remote_module")
    remote.RemoteModule = None
    sys.modules.setdefault(remote.__name__, remote)
    wrapper = torch._disable_dynamo(lambda: None).__code__
    for function in gc.get_objects():
        if type(function) is FunctionType and function.__code__ is wrapper:
            wrapped = inspect.getclosurevars(function).nonlocals["fn"]
            setattr(wrapped, "__dynamo_disable", wrapped)


# ---------------------------------------------------------------- run again


def launches(program: dict) -> int:
    """The operations on tensors that a program launches."""
    return sum(
        _has_tensor(args) and name.partition(".")[0] not in (*FREE, "input", "const", "refer", "vjp")
        for name, args, _, _ in program["steps"]
    )


def _has_tensor(args: Any) -> bool:
    return any((isinstance(x, dict) and "t" in x) or (isinstance(x, list) and _has_tensor(x)) for x in args)


def replay(program: dict, inputs: dict[str, Any], draw: int, reference: Callable) -> dict[str, Any]:
    """The results of a program on other inputs. `draw` chooses the seeds: each that was used stands for another.

    `reference(step, name, arguments, tensors)` gives the results of the steps refer and vjp. Unreadable, or whatever
    torch raises, for a program that is none.
    """
    machine = _Machine(program["seeds"], draw)
    torch.default_generator.manual_seed(draw)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(draw)
        for operation, args, kwargs, count in program["steps"]:
            if operation == "input":
                made = [inputs[args[0]].clone()]
            elif operation == "const":
                made = [decode(args[0])]
            elif operation in ("refer", "vjp"):
                made = reference(operation, args[0], args[1], [machine.value(x) for x in args[2]])
            else:
                made = machine.run(operation, args, kwargs)
            if len(made) != count:
                raise Unreadable("Another number of results than was recorded")
            machine.values += made
        return {name: machine.value(x) if "t" in x else decode(x) for name, x in program["results"].items()}


class _Machine:
    """The tensors and generators of one run of a program."""

    def __init__(self, seeds: list[int], draw: int):
        self.values: list[Tensor] = []
        self.generators = [torch.Generator().manual_seed(hash((seed, draw)) % 2**62) for seed in seeds]

    def run(self, operation: str, args: list, kwargs: dict) -> list[Tensor]:
        name, _, overload = operation.partition(".")
        if "::" in name or name in REFUSED:
            raise Unreadable(f"{name[:60]} is no operation of a formula")
        function = getattr(getattr(torch.ops.aten, name), overload)
        result = function(*map(self.value, args), **{k: self.value(v) for k, v in kwargs.items()})
        return [x for x in tree_leaves(result) if isinstance(x, Tensor)]

    def value(self, x: Any) -> Any:
        if isinstance(x, list):
            return [self.value(y) for y in x]
        if not isinstance(x, dict):
            return x
        if "t" in x:
            return self.values[x["t"]]
        if "g" in x:
            return self.generators[x["g"]]
        if "complex" in x:
            return complex(*x["complex"])
        if x["torch"] not in WORDS:
            raise Unreadable("No word of an operation")
        return WORDS[x["torch"]]
