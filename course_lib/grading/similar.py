"""Answers that are the same up to names: a hint to a human, never a verdict. Short formulas have few right ways."""

from __future__ import annotations

import ast
import hashlib
from collections import defaultdict
from collections.abc import Iterable

SMALLEST = 25  # nodes of a syntax tree: shorter answers are alike without copying
USUAL = 3  # a shape of more than one in three answers is the usual one, and no sign of copying


def shape(text: str) -> str:
    """An answer's size and a digest of its syntax tree up to names, comments, annotations and docstrings; "" for none."""
    try:
        tree = _Bare(text).visit(ast.parse(text))
        size = sum(1 for _ in ast.walk(tree))
        return f"{size}-{hashlib.sha256(ast.dump(tree).encode()).hexdigest()[:16]}" if text else ""
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ""


class _Bare(ast.NodeTransformer):
    """Gives the names that an answer binds numbers, in the order in which they appear, and imported ones their full names."""

    def __init__(self, text: str):
        self.known: dict[str, str] = {}
        bound, own = set(), {}
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import | ast.ImportFrom):
                module = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
                own |= {x.asname or x.name: f"{module}{x.name}" for x in node.names}
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                bound.add(node.id)
            elif isinstance(node, ast.arg):
                bound.add(node.arg)
            elif isinstance(node, ast.FunctionDef | ast.ClassDef):
                bound.add(node.name)
        self.bound, self.imported = bound - own.keys(), own

    def _new(self, name: str) -> str:
        if name in self.bound:
            return self.known.setdefault(name, f"n{len(self.known)}")
        return self.imported.get(name, name)

    def visit_Import(self, node: ast.AST) -> None:
        return None

    visit_ImportFrom = visit_Import

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        return None if isinstance(node.value, ast.Constant) else self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.name, node.decorator_list, node.returns = self._new(node.name), [], None
        return self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        plain = ast.Assign([node.target], node.value, lineno=node.lineno) if node.value else None
        return plain and self.generic_visit(plain)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        return ast.arg(self._new(node.arg))

    def visit_keyword(self, node: ast.keyword) -> ast.AST:
        node.arg = self.known.get(node.arg, node.arg)
        return self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return ast.Name(self._new(node.id), node.ctx)


def groups(rows: Iterable[tuple[str, dict]]) -> list[tuple[tuple[str, ...], list[tuple[str, str]]]]:
    """Students whose answers have one shape, by how many they share: (students, [(exercise, status)]).

    rows: (student, row of the record). What more than one in USUAL of those who answered an exercise have written is
    left out, where these are more than two, and so is what is shorter than SMALLEST.
    """
    by_shape: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    answered: dict[str, int] = defaultdict(int)
    for student, row in rows:
        if found := row.get("shape"):
            answered[row["exercise"]] += 1
            by_shape[row["exercise"], found].append((student, row["status"]))
    shared: dict[tuple[str, ...], list[tuple[str, str]]] = defaultdict(list)
    for (exercise, found), authors in by_shape.items():
        usual = len(authors) > max(2, answered[exercise] / USUAL)
        if len(authors) > 1 and not usual and int(found.partition("-")[0]) >= SMALLEST:
            shared[tuple(sorted(name for name, _ in authors))].append((exercise, authors[0][1]))
    return sorted(shared.items(), key=lambda x: (-len(x[1]), x[0]))
