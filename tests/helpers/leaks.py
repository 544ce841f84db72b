"""What an edition must not say, and what it may: the solutions' own lines, and all that is public."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator

from course_lib.catalogue import LESSONS
from tests.helpers import ROOT


def secrets(lesson: str) -> Iterator[str]:
    """The names of a solution's helpers, and the lines of code of solutions and helpers."""
    text = (ROOT / f"solutions/{lesson}.py").read_text(encoding="utf-8")
    lines = text.splitlines()
    for node in ast.parse(text).body:
        if not isinstance(node, ast.FunctionDef | ast.ClassDef):
            continue
        decorators = " ".join(ast.unparse(d) for d in node.decorator_list)
        if ".mistake(" in decorators or ".cases" in decorators:
            continue
        if not decorators:
            yield node.name
        for line in lines[node.body[0].lineno - 1 : node.end_lineno]:
            yield re.sub(r"^\s*(return |[\w, ]+ = )?", "", line)


def public(reveal: str) -> str:
    """What an edition may say: the library's sources, notebooks but for answers and outputs, the revealed solutions."""
    texts = [p.read_text(encoding="utf-8") for p in ROOT.glob("course_lib/**/*.py")]
    texts += [(ROOT / f"solutions/{x.module}.py").read_text() for x in LESSONS if x.notebook[:2] in reveal]
    for notebook in ROOT.glob("notebooks/*.ipynb"):
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        texts += [text for c in cells if "@answer(" not in (text := "".join(c["source"]))]
    return "\n".join(texts)
