"""Mutants: every solution, wrong in one small way. A check must reject each of them.

    python -m tests.mutants [LESSON | EXERCISE ...]     the score of each exercise, and the mutants that pass

A mutant is a change of one place of the solution's syntax tree: a sign, an axis, a constant, a term, an operand, a
keyword, a statement. Its name is the statement as it stands after the change. Mutants that no check can reject because
they compute the same are listed, with the reason, in equivalent_mutants.toml.
"""

from __future__ import annotations

import ast
import copy
import inspect
import linecache
import sys
import textwrap
import tomllib
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from course_lib.catalogue import exercises, find
from course_lib.exercise.answers import find_solution
from course_lib.exercise.check import inspect_answer
from course_lib.exercise.contract import Exercise, copy_inputs, run
from course_lib.exercise.key import find_key, solutions_only
from course_lib.exercise.solution import Solution

FOLDER = Path(__file__).parent
Variant = ast.AST | None  # what a node becomes; None: it is taken out

# ---------------------------------------------------------------- the text that is changed


@dataclass
class Unit:
    """A solution's function, and what it uses of its file: one module, whose nodes are numbered."""

    solution: Solution
    tree: ast.Module
    facts: dict[int, set]  # by an expression's number: the kinds of value that it had on the cases

    def nodes(self) -> Iterator[ast.AST]:
        return (node for node in ast.walk(self.tree) if hasattr(node, "number"))


def read_unit(ex: Exercise) -> Unit:
    """The unit of an exercise's solution, its expressions observed on all cases."""
    solution = find_solution(ex)
    module = ast.parse(inspect.getsource(inspect.getmodule(solution.function)))
    definitions = {}
    for node in module.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not getattr(node, "decorator_list", []):
            definitions[node.name] = node
    function = ast.parse(textwrap.dedent(inspect.getsource(solution.function))).body[0]
    function.decorator_list = []
    body, wanted = [function], [function]
    while wanted:
        used = {x.id for x in ast.walk(wanted.pop()) if isinstance(x, ast.Name)}
        found = [
            definitions[name] for name in sorted(used & definitions.keys()) if definitions[name] not in body
        ]
        body, wanted = found + body, wanted + found
    tree = ast.Module(body, [])
    for number, node in enumerate(_editable(tree)):
        node.number = number
    for node in ast.walk(tree):
        for child in ast.iter_child_nodes(node):
            child.parent = weakref.ref(node)  # no copy of a node copies what stands around it
    unit = Unit(solution, tree, {})
    _observe(unit)
    return unit


def _editable(node: ast.AST) -> Iterator[ast.AST]:
    """Statements and expressions, without docstrings, decorators, annotations and the targets of assignments."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return
    if isinstance(node, ast.stmt | ast.expr | ast.Slice):
        yield node
    for name, value in ast.iter_fields(node):
        if name in ("decorator_list", "annotation", "returns", "targets", "target", "bases"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _editable(child)


def compile_unit(unit: Unit, tree: ast.Module, **more: object) -> Callable:
    """The function that a tree of the unit defines, in a copy of the solutions' namespace."""
    namespace = dict(vars(inspect.getmodule(unit.solution.function))) | more
    file = f"<mutant of {unit.solution.exercise.id}>"
    code = ast.fix_missing_locations(tree)
    if unit.solution.exercise.kernel and not more:  # its compiler reads the source
        code = ast.unparse(code)
        file = f"{file[:-1]}, {abs(hash(code))}>"
        linecache.cache[file] = len(code), None, code.splitlines(keepends=True), file
    exec(compile(code, file, "exec"), namespace)
    return namespace[unit.solution.function.__name__]


class _Instrument(ast.NodeTransformer):
    """Hands the value of every numbered expression to `see`."""

    def visit(self, node: ast.AST) -> ast.AST:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            node.func.value = self.visit(node.func.value)
            node.args = [self.visit(x) for x in node.args]
            node.keywords = [self.visit(x) for x in node.keywords]
        elif isinstance(node, ast.Call):
            node.args = [self.visit(x) for x in node.args]
            node.keywords = [self.visit(x) for x in node.keywords]
        elif not isinstance(node, ast.JoinedStr):
            self.generic_visit(node)
        plain = isinstance(node, ast.Starred | ast.Slice | ast.JoinedStr)
        if not hasattr(node, "number") or not isinstance(node, ast.expr) or plain:
            return node
        return ast.Call(ast.Name("see_value", ast.Load()), [ast.Constant(node.number), node], [])


def _observe(unit: Unit) -> None:
    """Run the solution on all cases and note of every expression what it was."""

    def see(number: int, value: object) -> object:
        unit.facts.setdefault(number, set()).add(
            (value.ndim, value.requires_grad, value.dtype.is_floating_point)
            if isinstance(value, Tensor)
            else type(value).__name__
        )
        return value

    function = compile_unit(unit, _Instrument().visit(copy.deepcopy(unit.tree)), see_value=see)
    ex = unit.solution.exercise
    with solutions_only(), torch.random.fork_rng(devices=[]):
        for case in find_key(ex).cases:
            inputs = copy_inputs(case)
            for value in inputs.values():
                if ex.gradients and isinstance(value, Tensor) and value.is_floating_point():
                    value.requires_grad_()
            run(ex, function, inputs)


# ---------------------------------------------------------------- what one node may become

_OPPOSITE = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mod,
    ast.Mod: ast.FloorDiv, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip
_COMPARE = {
    ast.Lt: (ast.LtE, ast.Gt), ast.LtE: (ast.Lt, ast.GtE), ast.Gt: (ast.GtE, ast.Lt), ast.GtE: (ast.Gt, ast.LtE),
    ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,),
}  # fmt: skip
_CALLED = {
    "sum": "mean", "mean": "sum", "amax": "amin", "amin": "amax", "max": "min", "min": "max", "argmax": "argmin",
    "argmin": "argmax", "minimum": "maximum", "maximum": "minimum", "any": "all", "all": "any", "zeros": "ones",
    "ones": "zeros", "zeros_like": "ones_like", "ones_like": "zeros_like", "rand": "randn", "randn": "rand",
    "square": "abs", "abs": "square", "exp": "expm1", "log": "log1p", "sqrt": "square", "rsqrt": "reciprocal",
    "logsumexp": "amax", "softplus": "relu", "solve_ex": "solve", "inv_ex": "inv", "cholesky_ex": "cholesky",
    "entr": "square", "index_add": "index_copy", "index_add_": "index_copy_", "expand": "repeat",
    "eval": "train", "deepcopy": "copy", "float": "double", "var": "std", "cumsum": "cumprod",
}  # fmt: skip
_REDUCTIONS = {
    "sum",
    "mean",
    "amax",
    "amin",
    "max",
    "min",
    "var",
    "std",
    "norm",
    "any",
    "all",
    "argmax",
    "argmin",
}
_COMMUTATIVE = {"minimum", "maximum", "logaddexp"}
_GLOBAL_MAXIMUM = "(({0} - {0}.max()).exp().sum({1}).log() + {0}.max())"
_REWRITTEN = {  # the same by the book; in float32 an overflow, a logarithm of 0, or one moved by a constant
    "softplus": ["torch.log(1 + torch.exp({0}))"],
    "logsigmoid": ["torch.log(torch.sigmoid({0}))"],
    "log_softmax": ["torch.log(torch.softmax({0}, {1}))"],
    "logsumexp": ["{0}.exp().sum({1}).log()", _GLOBAL_MAXIMUM],
    "entr": ["(-{0} * {0}.log())"],
    "logaddexp": ["({0}.exp() + {1}.exp()).log()"],
    "log": ["({0} + 1e-6).log()", "{0}.clamp(min=1e-6).log()"],
    "cross_entropy": ["F.nll_loss({0}.softmax(1).log(), {1})"],
    "binary_cross_entropy_with_logits": ["F.binary_cross_entropy({0}.sigmoid(), {1}, reduction='none')"],
}


def variants(node: ast.AST, unit: Unit, parameters: dict[str, object]) -> Iterator[Variant]:
    """All that the node may become by one small change."""
    kinds = unit.facts.get(getattr(node, "number", -1), set())
    match node:
        case ast.BinOp(left, op, right):
            yield from _of_operation(node, left, op, right)
        case ast.UnaryOp(ast.USub(), ast.Constant()) if isinstance(node.operand.value, int):
            yield from (ast.Constant(-node.operand.value + d) for d in (1, -1))
        case ast.UnaryOp(op, operand) if not (isinstance(op, ast.USub) and _made_even(node)):
            yield operand
        case ast.Constant(bool() as value):
            if getattr(node.parent(), "arg", "") != "strict":
                yield ast.Constant(not value)
        case ast.Constant(int() | float() as value):
            yield from (ast.Constant(value + d) for d in (1, -1))
        case ast.Compare(left, [op], [right]):
            yield from (ast.Compare(left, [new()], [right]) for new in _COMPARE.get(type(op), ()))
        case ast.BoolOp(op, values):
            yield from (*values, ast.BoolOp(_OPPOSITE[type(op)](), values))
        case ast.IfExp(_, body, orelse):
            yield from (body, orelse)
        case ast.Call():
            yield from _of_call(node, unit)
        case ast.Attribute(value, "T" | "mT"):
            yield value
        case ast.Attribute(value, "float64" | "int64" as name):
            yield ast.Attribute(value, name.replace("64", "32"), ast.Load())
        case ast.Tuple(elements) | ast.List(elements) if isinstance(node.ctx, ast.Load):
            yield from _of_sequence(node, elements)
        case ast.Slice(lower, upper):
            yield from _of_slice(lower, upper)
        case ast.Dict(keys, values):
            for i in range(len(values) - 1):
                yield ast.Dict(keys, _swapped(values, i))
        case ast.Name(name, ast.Load()) if name in parameters:
            yield ast.Constant(parameters[name])
        case ast.stmt():
            yield from _of_statement(node)
    if isinstance(node, ast.Name | ast.Call) and any(k[1] is True for k in kinds if isinstance(k, tuple)):
        if not _only_measured(node) and not _detached(node):
            yield _call(node, "detach")
    if isinstance(node, ast.expr) and not isinstance(node, ast.Constant | ast.UnaryOp | ast.BinOp | ast.Name):
        if (
            kinds
            and all(isinstance(k, tuple) and k[2] for k in kinds)
            and not (_made_even(node) or _only_measured(node))
        ):
            yield ast.UnaryOp(ast.USub(), node)


def _only_measured(node: ast.expr) -> bool:
    """Whether only the shape, dtype or device of the value is read."""
    match node.parent():
        case ast.Attribute(_, "shape" | "ndim" | "dtype" | "device") | ast.Call(ast.Name("len")):
            return True
        case ast.Call(ast.Attribute(_, name), [first, *_]):
            return name.endswith("_like") and first is node
    return False


def _detached(node: ast.expr) -> bool:
    """Whether the value is detached already, or right afterwards, or belongs to no graph."""
    own = isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "detach"
    return own or getattr(node.parent(), "attr", "") == "detach" or _in_autograd_function(node)


def _in_autograd_function(node: ast.AST) -> bool:
    """Whether the place is in forward or backward of a torch.autograd.Function, where no graph is recorded."""
    while not isinstance(node, ast.FunctionDef | ast.Module):
        node = node.parent()
    return isinstance(node, ast.FunctionDef) and "ctx" in (x.arg for x in node.args.args)


def _made_even(node: ast.expr) -> bool:
    """Whether the sign of the value is lost right afterwards."""
    match node.parent():
        case ast.Attribute(_, "square" | "abs") | ast.BinOp(_, ast.Pow(), ast.Constant(2)):
            return True
    return False


def _of_operation(node: ast.BinOp, left: ast.expr, op: ast.operator, right: ast.expr) -> Iterator[Variant]:
    if type(op) in _OPPOSITE:
        yield ast.BinOp(left, _OPPOSITE[type(op)](), right)
    yield left
    if isinstance(op, ast.Add | ast.Mult | ast.BitAnd | ast.BitOr):
        yield right
    if isinstance(op, ast.Sub):
        yield ast.UnaryOp(ast.USub(), right)
    if isinstance(op, ast.Sub | ast.Div | ast.MatMult | ast.FloorDiv | ast.Mod):
        if not (isinstance(op, ast.Sub) and _made_even(node)):
            yield ast.BinOp(right, op, left)


def _of_call(node: ast.Call, unit: Unit) -> Iterator[Variant]:
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    method = isinstance(node.func, ast.Attribute) and node.func.value.number in unit.facts
    first = node.func.value if method else (node.args or [None])[0]
    rest = node.args if method else node.args[1:]
    for i, keyword in enumerate(node.keywords):
        if keyword.arg != "strict":  # zip's lengths are equal: that only guards
            yield ast.Call(node.func, node.args, node.keywords[:i] + node.keywords[i + 1 :])
    if name not in _COMMUTATIVE:
        for i in range(len(node.args) - 1):
            yield ast.Call(node.func, _swapped(node.args, i), node.keywords)
    if name in _CALLED:
        yield ast.Call(_renamed(node.func, _CALLED[name]), node.args, node.keywords)
    if name in _REDUCTIONS and rest:
        yield ast.Call(node.func, node.args[:-1] if not method else [], [])  # over all axes
    if _tensor(unit, node) and first is not None and _tensor(unit, first):
        yield first
    if name in _REWRITTEN and first is not None and _tensor(unit, node):
        texts = [f"({ast.unparse(x)})" for x in (first, *rest, *(k.value for k in node.keywords))]
        for template in _REWRITTEN[name]:
            yield ast.parse(template.format(*texts, "(-1)"), mode="eval").body


def _tensor(unit: Unit, node: ast.AST) -> bool:
    kinds = unit.facts.get(getattr(node, "number", -1), ())
    return bool(kinds) and all(isinstance(k, tuple) for k in kinds)


def _of_sequence(node: ast.Tuple | ast.List, elements: list[ast.expr]) -> Iterator[Variant]:
    if not all(isinstance(x, ast.UnaryOp) for x in elements):  # axes, in no order
        yield from (type(node)(_swapped(elements, i), ast.Load()) for i in range(len(elements) - 1))
    if len(elements) > 1 and all(isinstance(x, ast.Constant | ast.UnaryOp) for x in elements):
        yield from (type(node)(elements[:i] + elements[i + 1 :], ast.Load()) for i in range(len(elements)))


def _of_slice(lower: ast.expr | None, upper: ast.expr | None) -> Iterator[Variant]:
    for op in (ast.Add(), ast.Sub()):
        if lower is not None and not isinstance(lower, ast.Constant):
            yield ast.Slice(ast.BinOp(lower, op, ast.Constant(1)), upper)
        if upper is not None and not isinstance(upper, ast.Constant):
            yield ast.Slice(lower, ast.BinOp(upper, op, ast.Constant(1)))


def _of_statement(node: ast.stmt) -> Iterator[Variant]:
    match node:
        case ast.Expr():
            yield None
        case ast.AugAssign(target, op, value) if type(op) in _OPPOSITE:
            yield ast.AugAssign(target, _OPPOSITE[type(op)](), value)
            yield None
        case ast.Assign([target], value):
            names = {x.id for x in ast.walk(value) if isinstance(x, ast.Name)}
            again = {x.id for x in ast.walk(target) if isinstance(x, ast.Name)} <= names
            if again or not isinstance(target, ast.Name | ast.Tuple):
                yield None
        case ast.With(_, body) | ast.If(_, body, []):
            yield ast.If(ast.Constant(True), body, [])
            if isinstance(node, ast.If):
                yield None


def _swapped(items: list, i: int) -> list:
    return [*items[:i], items[i + 1], items[i], *items[i + 2 :]]


def _renamed(function: ast.expr, name: str) -> ast.expr:
    if isinstance(function, ast.Attribute):
        return ast.Attribute(function.value, name, ast.Load())
    return ast.Name(name, ast.Load())


def _call(value: ast.expr, method: str) -> ast.Call:
    return ast.Call(ast.Attribute(value, method, ast.Load()), [], [])


# ---------------------------------------------------------------- mutants


@dataclass
class Mutant:
    """`name`: the statement after the change; `function`: what stands in for the solution."""

    name: str
    function: Callable


def mutants(ex: Exercise) -> list[Mutant]:
    """Every mutant of an exercise's solution, no two of the same source."""
    unit = read_unit(ex)
    parameters = _numbers(ex)
    seen, found = {ast.unparse(unit.tree)}, []
    for node in list(unit.nodes()):
        for variant in variants(node, unit, parameters):
            tree, statement = _replace(unit.tree, node.number, variant)
            source = ast.unparse(ast.fix_missing_locations(tree))
            if source not in seen and not _same_axis(node, variant, unit):
                seen.add(source)
                found.append(Mutant(statement, compile_unit(unit, tree)))
    return _told_apart(found + list(_reordered(unit))) + list(_loops(ex))


def _reordered(unit: Unit) -> Iterator[Mutant]:
    """Neighbouring statements that are there for their effect, in the other order."""
    for node in ast.walk(unit.tree):
        body = node.body if isinstance(node, ast.FunctionDef) else []
        for i in range(len(body) - 1):
            if isinstance(body[i], ast.Expr) and isinstance(body[i + 1], ast.Expr):
                tree = copy.deepcopy(unit.tree)
                (same,) = (x for x in ast.walk(tree) if getattr(x, "number", None) == node.number)
                same.body = _swapped(same.body, i)
                name = f"{ast.unparse(body[i + 1])} before {ast.unparse(body[i])}"
                yield Mutant(name, compile_unit(unit, tree))


def _numbers(ex: Exercise) -> dict[str, object]:
    """What may stand hard-coded in place of a parameter: its default, or the number of the first case."""
    first = find_key(ex).cases[0]
    found = {k: v for k, v in first.items() if isinstance(v, int | float)}
    for name, parameter in inspect.signature(ex.function).parameters.items():
        if parameter.default is not parameter.empty:
            found[name] = parameter.default
    return found


class _Replace(ast.NodeTransformer):
    def __init__(self, number: int, variant: Variant):
        self.number, self.variant, self.statement = number, variant, ""

    def visit(self, node: ast.AST) -> ast.AST | None:
        if getattr(node, "number", None) == self.number:
            return copy.deepcopy(self.variant)
        return self.generic_visit(node)


def _replace(tree: ast.Module, number: int, variant: Variant) -> tuple[ast.Module, str]:
    """The tree with one node replaced, and the innermost statement that differs."""
    before = [x for x in ast.walk(tree) if isinstance(x, ast.stmt) and _holds(x, number)]
    inner = min(before, key=lambda x: sum(1 for _ in ast.walk(x)))
    after = _Replace(number, variant).visit(copy.deepcopy(inner))
    if after is None:
        name = f"without: {_first_line(inner)}"
    else:
        name = _first_line(ast.fix_missing_locations(after))
    replaced = _Replace(number, variant).visit(copy.deepcopy(tree))
    for node in ast.walk(replaced):
        if isinstance(node, ast.FunctionDef | ast.With | ast.For | ast.If) and not node.body:
            node.body = [ast.Pass()]
    return replaced, name


def _holds(node: ast.AST, number: int) -> bool:
    return any(getattr(x, "number", None) == number for x in ast.walk(node))


def _first_line(node: ast.stmt) -> str:
    lines = ast.unparse(node).splitlines()
    return lines[0] if not isinstance(node, ast.If | ast.With) else " ".join(map(str.strip, lines[:2]))


def _same_axis(node: ast.AST, variant: Variant, unit: Unit) -> bool:
    """Whether the change turns an axis into itself, counted from the other end, on every case."""
    if not isinstance(variant, ast.Constant) or not isinstance(node, ast.Constant | ast.UnaryOp):
        return False
    for call in unit.nodes():
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute):
            axes = [*call.args, *(k.value for k in call.keywords if k.arg == "dim")]
            first = call.func.value if call.func.value.number in unit.facts else (call.args or [None])[0]
            if node in axes and first is not None and _tensor(unit, first):
                change = variant.value - ast.literal_eval(node)
                return all(kind[0] and change % kind[0] == 0 for kind in unit.facts[first.number])
    return False


def _told_apart(found: list[Mutant]) -> list[Mutant]:
    """Mutants of equal names get numbers."""
    count: dict[str, int] = {}
    for mutant in found:
        count[mutant.name] = count.get(mutant.name, 0) + 1
        if count[mutant.name] > 1:
            mutant.name += f"  # {count[mutant.name]}"
    return found


def _loops(ex: Exercise) -> Iterator[Mutant]:
    """The solution run on one example at a time, where that gives the same: a GPU would crawl."""
    solution, cases = find_solution(ex).function, find_key(ex).cases
    signature = inspect.signature(solution)

    def loop(names: tuple[str, ...], join: Callable) -> Callable:
        def looped(*args, **kwargs):
            given = signature.bind(*args, **kwargs).arguments
            parts = [
                solution(**given | {k: given[k][i : i + 1] for k in names})
                for i in range(len(given[names[0]]))
            ]
            if isinstance(parts[0], tuple):
                return tuple(map(join, zip(*parts, strict=True)))
            return join(parts)

        return looped

    joins = {
        "joined": lambda parts: torch.cat(list(parts)),
        "averaged": lambda parts: torch.stack(list(parts)).mean(0),
        "added": lambda parts: torch.stack(list(parts)).sum(0),
    }
    for names in _batches(signature, cases):
        for how, join in joins.items():
            function = loop(names, join)
            if all(
                _gives_the_same(ex, function, case, outcome)
                for case, outcome in zip(cases, find_key(ex).outcomes, strict=True)
            ):
                yield Mutant(f"one at a time, {how}: {', '.join(names)}", function)


def _batches(signature: inspect.Signature, cases: list[dict]) -> Iterator[tuple[str, ...]]:
    """Sets of parameters whose tensors have the same length in every case."""
    lengths: dict[tuple, list[str]] = {}
    for name in signature.parameters:
        values = [case.get(name) for case in cases]
        if all(isinstance(v, Tensor) and v.ndim for v in values):
            lengths.setdefault(tuple(len(v) for v in values), []).append(name)
    return (tuple(names) for size, names in lengths.items() if max(size) > 1)


def _gives_the_same(ex: Exercise, function: Callable, case: dict, outcome: dict) -> bool:
    try:
        with solutions_only(), torch.random.fork_rng(devices=[]):
            found = run(ex, function, copy_inputs(case))
        return all(torch.allclose(v, outcome[k], 1e-3, 1e-4, equal_nan=True) for k, v in found.items())
    except Exception:  # it cannot run on single examples
        return False


# ---------------------------------------------------------------- the score


@contextmanager
def _in_force(ex: Exercise, function: Callable) -> Iterator[None]:
    """The function in the place of the solution, which answers for the student."""
    solution = find_solution(ex)
    before, solution.function = solution.function, function
    try:
        with solutions_only():
            yield
    finally:
        solution.function = before


def passes(ex: Exercise, mutant: Mutant) -> bool:
    """Whether the check takes the mutant for right."""
    with warnings.catch_warnings(), _in_force(ex, mutant.function):
        warnings.simplefilter("ignore")
        return inspect_answer(ex).passed


def survivors(ex: Exercise) -> tuple[list[str], int]:
    """The names of the mutants that pass, and how many there are in all."""
    made = mutants(ex)
    return [m.name for m in made if passes(ex, m)], len(made)


def listed(file: str) -> dict[str, dict[str, str]]:
    """By exercise, the mutants of a list and what it says of each."""
    return tomllib.loads((FOLDER / file).read_text(encoding="utf-8"))


def main(*names: str) -> None:
    """Print the score of all exercises, or of these lessons and exercises, and the mutants that pass."""
    found = [find(name) for name in names]
    chosen = [ex for x in found for ex in ([x] if isinstance(x, Exercise) else exercises(x))]
    known, total, rejected = listed("equivalent_mutants.toml"), 0, 0
    for ex in chosen or exercises():
        passed, count = survivors(ex)
        wrong = [name for name in passed if name not in known.get(ex.id, {})]
        count -= len(passed) - len(wrong)
        total, rejected = total + count, rejected + count - len(wrong)
        print(
            f"{ex.id:<52} {count - len(wrong):>4} of {count:>4} rejected, {len(passed) - len(wrong)} equivalent"
        )
        for name in wrong:
            print(f"    passes: {name}")
    print(f"{'all':<52} {rejected:>4} of {total:>4} rejected: {rejected / total:.1%}")


if __name__ == "__main__":
    main(*sys.argv[1:])
