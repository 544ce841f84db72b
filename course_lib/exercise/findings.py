"""What a check finds, as data: a code with its fields. Sentences are made of it only where somebody reads them.

    finding = Finding("shape", {"entry": "", "expected": [2], "got": [2, 1]})
    finding.status      "wrong shape": two words; what progress.json and a gradebook keep
    finding.sentence    what its author reads in the notebook
    finding.public      the same without a number or a text of the case, the inputs or an exception: what may be
                        shown where the inputs are hidden
    finding.as_data()   plain JSON; Finding.from_data(…) reads it back, whoever wrote it, or raises ValueError

A code is a key of KINDS, and its fields are those that the sentence names. A step of a check that fails raises
`Wrong(code, **fields)`. Nothing recognises a finding by its sentence.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

QUIET = (
    "not attempted",
    "not run",
    "waiting",
    "interrupted",
    "cannot be checked",
)  # no step of the answer's failed


class Kind(NamedTuple):
    """Status and sentence of a code, {fields} to be filled in; `public` where that is another sentence."""

    status: str
    sentence: str
    public: str | None = None


_ANSWER_IN_PLACE = (
    "Your answer changes its input in place (+=, an operation that ends in _, or assigning to x[…]). The caller "
    "still needs that tensor: make a new one."
)
_NOT_DEFINED = "`{name}` is not defined: everything an answer uses, imports too, belongs into its cell."
_SEE_CHECK = "check({exercise}) in the notebook shows what it says."

KINDS = {
    # ------------------------------------------------ before it can be judged
    "not written": Kind(
        "not attempted",
        "Write it in section “{section}” of notebook {notebook}, run its cell, then this one again.",
        "Section “{section}” of notebook {notebook}.",
    ),
    "cell did not run": Kind(
        "not run",
        "The cell of this answer, as it is now, did not run: {text}. What is saved is the version before. Correct the cell, "
        "run it, then this one again.",
        "The cell of this answer did not run.",
    ),
    "decorator forgotten": Kind(
        "not run",
        "A cell defines `{name}` without @answer({exercise}) above it, so it was not saved. Write that line, run the cell, "
        "then this one again.",
    ),
    "stub restored": Kind(
        "not run",
        "The cell of this answer holds the stub again, and what is saved is the version before. Write the answer and run "
        "its cell, then this one again.",
    ),
    "timed out": Kind(
        "timed out", "Your answer did not finish in {seconds:g} seconds. Is there a loop that does not end?"
    ),
    "stub": Kind("not attempted", "Your answer still raises NotImplementedError."),
    "waiting": Kind(
        "waiting",
        "Your answer calls {exercise}, which has no answer yet. Write it first: notebook {notebook}, section "
        "“{section}”.",
        "Your answer calls {exercise}, which has no answer.",
    ),
    "interrupted": Kind("interrupted", "The check was interrupted. Is there a loop that does not end?"),
    "no solution": Kind("cannot be checked", "This edition does not contain the solution of {exercise}."),
    "no key": Kind("cannot be checked", "{text}", "There is no answer key."),
    "check failed": Kind(
        "cannot be checked",
        "The check failed on this answer: {text}",
        "Your answer returned something that cannot be compared.",
    ),
    # ------------------------------------------------ running
    "raised": Kind("raised", "{text}", f"Your answer raised {{error}}. {_SEE_CHECK}"),
    "no memory": Kind("raised", "{text}", "Your answer took more memory than there is."),
    "recursion": Kind("raised", "Your answer calls itself without end (RecursionError)."),
    "exit": Kind("raised", "Your answer ends the program: take exit() or sys.exit() out."),
    "unknown name": Kind(
        "raised",
        "{text}. An answer must stand on its own: everything it uses, imports too, belongs into its cell.",
        _NOT_DEFINED,
    ),
    "name of another cell": Kind(
        "raised",
        "`{name}` lives in another cell of the notebook. An answer must stand on its own: move what it uses, imports "
        "too, into the answer's cell.",
        _NOT_DEFINED,
    ),
    "name of another answer": Kind(
        "raised", "`{name}` is another exercise's answer: call it as {exercise}.", _NOT_DEFINED
    ),
    "overwritten": Kind(
        "raised",
        "An in-place operation (+=, an operation that ends in _, or assigning to x[…]) overwrites a value that the "
        "backward pass needs. Make a new tensor.",
    ),
    "used up": Kind(
        "raised",
        "A second backward pass runs through a graph that the first has used up: a tensor that both losses share is not "
        "detached for one of them.",
    ),
    "no graph": Kind(
        "raised",
        "backward() starts from a value without a graph: it, or what it is made of, was detached or computed under "
        "no_grad.",
    ),
    "not contiguous": Kind(
        "raised",
        "`.view` needs a tensor that is contiguous in memory. A transposed or an expanded one is not, and an input may be "
        "one. Take .reshape or .flatten.",
    ),
    "expanded": Kind(
        "raised",
        "You write into an expanded tensor, whose rows are one and the same memory: .clone() it first.",
    ),
    "in place": Kind("changed input", _ANSWER_IN_PLACE),
    "input changed": Kind("changed input", f"{_ANSWER_IN_PLACE} It changed `{{name}}`.", _ANSWER_IN_PLACE),
    # ------------------------------------------------ type, shape, dtype, device
    "no module": Kind("wrong type", "Expected an nn.Module; your answer returned {got}."),
    "report": Kind("wrong type", "Expected a dict with the entries {expected}; your step returned {got}."),
    "report graph": Kind(
        "wrong report",
        "{entry} in the report still has its graph, which stays in memory as long as the report does: detach it.",
    ),
    "unusable": Kind(
        "wrong type",
        "Your answer returned {got}, which cannot be used: {text}",
        "Your answer returned something that cannot be used.",
    ),
    "outputs": Kind("wrong type", "Expected {expected}; your answer returned {got}."),
    "nothing": Kind(
        "wrong type",
        "Expected a torch.Tensor{entry:in}; your answer returned None. Is there a `return`?",
    ),
    "no tensor": Kind("wrong type", "Expected a torch.Tensor{entry:in}; your answer returned {got}."),
    "shape": Kind(
        "wrong shape", "Expected {expected:shape}{entry:in}; your answer returned shape {got:tuple}."
    ),
    "axis of length 1": Kind(
        "wrong shape",
        "Expected {expected:shape}{entry:in}; your answer returned shape {got:tuple}. An axis of length 1 too many or "
        "too few (keepdim, [:, None], squeeze)?",
    ),
    "device": Kind(
        "wrong device", "Expected a tensor on {expected}{entry:in}; your answer returned one on {got}."
    ),
    "dtype": Kind("wrong dtype", "Expected {expected}{entry:in}; your answer returned {got}."),
    # ------------------------------------------------ values and gradients; step is "value" or "gradient"
    "value": Kind(
        "wrong {step}",
        "{cases:differ}The largest error here is {error:.3g}{entry:brackets}{index:at}. A case that differs:",
        "{cases:of}",
    ),
    "not so": Kind("wrong {step}", "{cases:differ}This should be so, and is not: {entry}."),
    "so": Kind("wrong {step}", "{cases:differ}This should not be so, and is: {entry}."),
    "NaN": Kind(
        "wrong {step}",
        "{cases:differ}Your result has NaN where a number is expected{entry:brackets}: 0 / 0, 0 · log 0 or ∞ − ∞.",
    ),
    "overflow": Kind(
        "wrong {step}",
        "{cases:differ}Your result is infinite{entry:brackets}: a division by 0, the logarithm of 0, or an overflow.",
    ),
    "no gradient": Kind(
        "wrong {step}",
        "{cases:differ}No gradient reaches `{entry}`: is there a .detach(), .data or no_grad on the way?",
    ),
    "gradient not wanted": Kind(
        "wrong {step}", "{cases:differ}A gradient reaches `{entry}`, which should get none: detach it."
    ),
    # ------------------------------------------------ GPU and memory
    "only with values": Kind(
        "not GPU-ready",
        "Run without values, on shapes alone, your answer raised {text}",
        f"Your answer raised {{error}}, run without values, on shapes alone. {_SEE_CHECK}",
    ),
    "NumPy": Kind(
        "not GPU-ready",
        "Your answer turns a tensor into a NumPy array: a GPU tensor cannot be one, and no gradient passes it. Stay in "
        "torch.",
    ),
    "copy to CPU": Kind(
        "not GPU-ready",
        "Your answer copies a tensor to the CPU (.cpu(), .tolist(), .to('cpu'), assigning to a CPU tensor): a GPU "
        "stalls there.",
    ),
    "CPU tensor": Kind(
        "not GPU-ready",
        "Your answer mixes a CPU tensor into {operation}: a GPU crashes or stalls there. Make new tensors on the "
        "input's device: device=x.device, torch.zeros_like(x), x.new_zeros(…).",
        "Your answer mixes a CPU tensor into a GPU operation: a GPU crashes or stalls there. Make new tensors on the "
        "input's device: device=x.device, torch.zeros_like(x), x.new_zeros(…).",
    ),
    "result on the CPU": Kind(
        "not GPU-ready",
        "Your answer returns a tensor that it made on the CPU, whatever device its input is on. Make new tensors on the "
        "input's device: device=x.device, torch.zeros_like(x), x.new_zeros(…).",
    ),
    "made on the CPU": Kind(
        "not GPU-ready",
        "Your answer makes a tensor on the CPU, from NumPy or a Python list perhaps, and copies it to the input's device: a GPU "
        "waits for it. Make it there: device=x.device, torch.zeros_like(x), x.new_zeros(…).",
    ),
    "CPU draw": Kind(
        "not GPU-ready",
        "Your answer draws random numbers on the CPU, and `generator` may be on a GPU: it then fails. Draw where the "
        "generator is: device=generator.device.",
    ),
    "many operations": Kind(
        "not GPU-ready",
        "Your answer launches more than {operations:,} operations, one after the other: is there a Python loop over "
        "the batch? A GPU takes about as long for an operation on one example as on all of them. Write each step for "
        "the whole batch at once.",
    ),
    "mask as index": Kind(
        "not GPU-ready",
        "Your answer makes a tensor whose size depends on values (a boolean mask used as an index, nonzero): a GPU "
        "stalls to learn that size. Multiply by the mask or use torch.where.",
    ),
    "size of values": Kind(
        "not GPU-ready",
        "Your answer makes a tensor whose size depends on values: a GPU stalls to learn that size.",
    ),
    "host read": Kind(
        "not GPU-ready",
        "Your answer reads a value on the host: .item(), float(), bool(), a Python `if` or `for` over a tensor (argument "
        "validation in torch.distributions does it too; validate_args=False turns it off). A GPU stalls there. Stay in "
        "tensor operations such as torch.where.",
    ),
    "bincount": Kind(
        "not GPU-ready",
        "Your answer calls bincount, whose size depends on the largest value: a GPU stalls to learn it. Add into a "
        "tensor of known size with index_add_ or scatter_add_.",
    ),
    "linear algebra": Kind(
        "not GPU-ready",
        "Your answer calls a linear-algebra routine that reports failure on the host (cholesky, solve, inv, eigh, svd): "
        "a GPU stalls there. torch.linalg.cholesky_ex, solve_ex, inv_ex and slogdet do not.",
    ),
    "host comparison": Kind(
        "not GPU-ready",
        "Your answer calls torch.equal or torch.allclose, which answer on the host: a GPU stalls there. Compare with == "
        "instead.",
    ),
    "CUDA waits": Kind(
        "not GPU-ready",
        "Your answer makes the processor wait for the GPU: a value read on the host, a size that depends on values, or "
        "numbers copied to the device (torch.full and torch.arange make them there).",
    ),
    "CUDA device": Kind("wrong device", "Given CUDA tensors, your answer returned one on the CPU."),
    "CUDA value": Kind("wrong value", "On the GPU your answer gives other values."),
    "memory": Kind(
        "too much memory",
        "At size {size:,} your answer would hold {peak:bytes} at once; {bound:bytes} is enough. Which intermediate "
        "tensor has more axes than it needs?",
    ),
    "memory of one tensor": Kind(
        "too much memory",
        "At size {size:,} your answer would hold {peak:bytes} at once; {bound:bytes} is enough. A broadcast makes a tensor of "
        "shape {shape:tuple}, {largest:bytes} by itself: which of its axes need not be there?",
    ),
    "memory of the backward pass": Kind(
        "too much memory",
        "At size {size:,} your answer would hold {peak:bytes} at once, {bound:bytes} is enough, and {forward:bytes} would "
        "do without gradients: autograd keeps what every block computes until the backward pass. Compute it again there "
        "instead (torch.utils.checkpoint).",
    ),
    "memory of float64": Kind(
        "too much memory",
        "At size {size:,} your answer would hold {peak:bytes} at once; {bound:bytes} is enough. Most of it is float64, "
        "which takes twice the room: stay in the dtype of the inputs.",
    ),
    # ------------------------------------------------ kernels
    "no Triton": Kind(
        "cannot be checked", "{missing}", "This exercise needs Triton, which is not installed here."
    ),
    "out of bounds": Kind(
        "out of bounds",
        "Program {program} {verb} {count} number(s) {place} `{name}`. Is a mask missing, or a stride another tensor's?",
        "A program of your kernel touches numbers outside a tensor. Is a mask missing, or a stride another tensor's?",
    ),
    "race": Kind(
        "race",
        "Programs {other} and {program} both touch a number of `{name}` that one of them writes. On a GPU they run at the "
        "same time, in no order: give every number one program that writes it, or add with tl.atomic_add.",
        "Two programs of your kernel touch a number that one of them writes. On a GPU they run at the same time, in no "
        "order: give every number one program that writes it, or add with tl.atomic_add.",
    ),
    "lanes": Kind(
        "race",
        "Program {program} stores different numbers to one place of `{name}`, in one tl.store. On a GPU chance decides which of "
        "them stays.",
        "A program of your kernel stores different numbers to one place, in one tl.store. On a GPU chance decides which of "
        "them stays.",
    ),
    "kernel traffic": Kind(
        "too much traffic",
        "Your kernel moves {moved:,} bytes between the chip and its memory; {least:,} is the least possible. What is "
        "loaded twice, or stored in between?",
        "Your kernel moves more bytes between the chip and its memory than it must. What is loaded twice, or stored in "
        "between?",
    ),
    "not compiled": Kind(
        "not GPU-ready",
        "Triton's compiler refuses your kernel for a GPU: {said}",
        "Triton's compiler refuses your kernel for a GPU. Its check in the notebook shows what it says.",
    ),
    # ------------------------------------------------ in grading alone
    "plain loop": Kind(
        "wrong value",
        "Your answer calls {name}, the plain loop that is given: it is there to be read and compared with. Write the "
        "same for the whole batch at once.",
    ),
    "no program": Kind(
        "wrong value",
        "Your answer's values do not follow from its inputs by operations on tensors: it takes numbers out of them "
        "(.item(), .tolist(), NumPy), or gives other values where it thinks that they do not count. Work on the "
        "tensors themselves.",
    ),
    # ------------------------------------------------ notes beside a verdict
    "global generator": Kind(
        "",
        "Your answer draws from torch's global random generator. Take the noise or the generator that it is given: a "
        "run can then be repeated.",
    ),
    "answered twice": Kind("", "There are two answers to this exercise: the last counts."),
    "calls a failing answer": Kind("", "Your answer calls {exercise}, which has not passed its own check."),
    "progress not saved": Kind(
        "", "Your progress could not be saved: {text}", "Your progress could not be saved."
    ),
}


@dataclass(frozen=True)
class Finding:
    """One thing that a check found."""

    code: str
    fields: dict[str, Any] = field(default_factory=dict)
    mistake: str = ""  # the name of the named mistake that explains it
    diagnosis: str = ""  # and that mistake's sentence

    @property
    def status(self) -> str:
        return _WORDS.format(KINDS[self.code].status, **self.fields)

    @property
    def sentence(self) -> str:
        return _WORDS.format(KINDS[self.code].sentence, **self.fields)

    @property
    def public(self) -> str:
        kind = KINDS[self.code]
        return _WORDS.format(kind.sentence if kind.public is None else kind.public, **self.fields).strip()

    as_data = asdict

    @classmethod
    def from_data(cls, data: Any) -> Finding:
        """Read what `as_data` gave, from any JSON whatsoever; a ValueError if it is something else.

        That its code exists and its sentences can be made of its fields is made sure of; that they are true is not.
        """
        try:
            found = cls(data["code"], dict(data["fields"]), str(data["mistake"]), str(data["diagnosis"]))
            _ = found.status, found.sentence, found.public
        except Exception as error:  # any JSON: a missing entry, a text where a number belongs, …
            raise ValueError(f"Not a finding: {type(error).__name__}") from None
        return found


class Wrong(Exception):
    """Ends a check: the finding, and what its report shows besides."""

    def __init__(
        self,
        finding: Finding | str,
        /,
        *,
        details: Sequence[tuple[str, str]] = (),
        picture: str = "",
        **fields: Any,
    ):
        self.finding = Finding(finding, fields) if isinstance(finding, str) else finding
        self.details = list(details)  # (caption, preformatted text)
        self.picture = picture  # SVG
        super().__init__(self.finding.code)


class NoTriton(NotImplementedError):
    """Raised where a kernel is to run and Triton is not installed; a notebook shows it as a panel."""

    def __init__(self):
        super().__init__(
            "This part needs Triton, which comes with PyTorch's builds for Linux. It is not installed here: read on without "
            "it, or open the notebook on Linux or Colab."
        )


# ---------------------------------------------------------------- fields in words


def megabytes(size: int) -> str:
    """A size in bytes, as GB or MB."""
    return f"{size / 1024**3:.1f} GB" if size >= 1024**3 else f"{max(size / 1024**2, 0.1):.1f} MB"


def error_text(error: BaseException) -> str:
    """What an exception says, in one text that is not too long."""
    try:
        text = f"{type(error).__name__}: {error}".strip().removesuffix(":")
    except Exception:  # an exception of the student's may fail to say what it is
        text = type(error).__name__
    return text if len(text) <= 600 else text[:600] + " …"


class _Words(string.Formatter):
    """`str.format` with the ways in which findings write their fields."""

    def format_field(self, value: Any, spec: str) -> str:
        writer = _WRITERS.get(spec)
        return writer(value) if writer else super().format_field(value, spec)


def _shape(value: Sequence[int]) -> str:
    return f"shape {tuple(value)}" if value else "a scalar, shape ()"


_WRITERS = {
    "bytes": megabytes,
    "tuple": lambda value: str(tuple(value)),
    "shape": _shape,
    "in": lambda entry: f" in {entry}" if entry else "",
    "brackets": lambda entry: f" ({entry})" if entry else "",
    "at": lambda index: f", at {list(index)}" if index else "",
    "differ": lambda cases: f"{cases[0]} of {cases[1]} cases differ. " if cases[1] > 1 else "",
    "of": lambda cases: f"{cases[0]} of {cases[1]} cases differ.",
}
_WORDS = _Words()
