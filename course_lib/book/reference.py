"""The reference of the library, from its sources: signatures and docstrings as they stand there. Nothing is imported."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from course_lib.catalogue import LESSONS
from course_lib.release import ROOT

LIBRARY = ("datasets/*", "models", "training", "metrics", "plots", "widgets", "checkpoints")
PARTS = {  # caption: the files, in course_lib
    "Lessons: what you write": [f"lessons/{x.module}" for x in LESSONS],
    "Experiments: what is built on it": ["experiments/*"],
    "In every notebook": ["notebook", "exercise/progress", "exercise/predict", "exercise/portable"],
    "The library": LIBRARY,
}
AUTHORS = {
    "For authors": ["exercise/contract", "exercise/solution", "catalogue", "release", "book/*", "grading/*"]
}
NAMED = re.compile(r"^(\S+(?:, \S+)*)  +(\S.*)$")  # a line of a docstring that explains a parameter


def write_reference(folder: Path, bibliography, instructor: bool) -> None:
    """A page for each module, and one that leads to them."""
    addresses = {e.fields["url"]: key for key, e in bibliography.entries.items() if "url" in e.fields}
    text = "# Reference of `course_lib`\n\nFrom the docstrings.\n"
    (folder / "reference").mkdir()
    for caption, patterns in (PARTS | (AUTHORS if instructor else {})).items():
        text += f"\n## {caption}\n\n"
        names = []
        for path in _files(patterns):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            page = module_page(name, path, addresses)
            if page:
                (folder / f"reference/{name}.md").write_text(page, encoding="utf-8")
                names.append(f"{name.removeprefix('course_lib.')} <{name}>")
                text += f"- [`{name}`]({name}.md)\n"
        text += "\n```{toctree}\n:hidden:\n\n" + "\n".join(names) + "\n```\n"
    (folder / "reference/index.md").write_text(text, encoding="utf-8")


def _files(patterns: list[str]) -> Iterator[Path]:
    for pattern in patterns:
        yield from sorted((ROOT / "course_lib").glob(f"{pattern}.py"))


def module_page(name: str, path: Path, addresses: dict[str, str]) -> str:
    """A module's docstring, and its public functions and classes; "" where it has none."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    public = [x for x in tree.body if isinstance(x, ast.FunctionDef | ast.ClassDef) and _is_public(x)]
    if not public:
        return ""
    parts = [f"# `{name}`", prose(ast.get_docstring(tree) or "", addresses), f"```{{py:module}} {name}\n```"]
    return "\n\n".join([*parts, *(entry(x, addresses) for x in public)])


def _is_public(node: ast.FunctionDef | ast.ClassDef) -> bool:
    return not node.name.startswith("_") and bool(ast.get_docstring(node))


def entry(node: ast.FunctionDef | ast.ClassDef, addresses: dict[str, str], fence: str = "``````") -> str:
    """A function, or a class with its public methods, as a directive of Sphinx's Python domain."""
    kind = "class" if isinstance(node, ast.ClassDef) else "function" if fence == "``````" else "method"
    parts = [_exercise_of(node), prose(ast.get_docstring(node), addresses)]
    if isinstance(node, ast.ClassDef):
        methods = [x for x in node.body if isinstance(x, ast.FunctionDef) and _is_public(x)]
        parts += [entry(x, addresses, fence[:-1]) for x in methods]
    inner = "\n\n".join(filter(None, parts))
    return f"{fence}{{py:{kind}}} {node.name}{_signature(node)}\n\n{inner}\n{fence}"


def _signature(node: ast.FunctionDef | ast.ClassDef) -> str:
    """Parameters and what is returned, as in the source; of a class those of its __init__, or its fields."""
    if isinstance(node, ast.FunctionDef):
        returned = f" -> {ast.unparse(node.returns)}" if node.returns else ""
        arguments = node.args
        if arguments.args and arguments.args[0].arg == "self":
            arguments.args = arguments.args[1:]
        return f"({ast.unparse(arguments)}){returned}"
    made = [x for x in node.body if isinstance(x, ast.FunctionDef) and x.name == "__init__"]
    if made:
        return _signature(made[0]).partition(" -> ")[0]
    fields = [ast.unparse(x) for x in node.body if isinstance(x, ast.AnnAssign)]
    return f"({', '.join(fields)})" if any("dataclass" in ast.unparse(d) for d in node.decorator_list) else ""


def _exercise_of(node: ast.FunctionDef | ast.ClassDef) -> str:
    """ "Exercise, 2 points." where the function is one."""
    for decorator in node.decorator_list:
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "exercise":
            points = next((k.value.value for k in decorator.keywords if k.arg == "points"), 1)
            section = ast.literal_eval(decorator.args[0])
            return f"*Exercise of {points} point{'s' if points > 1 else ''}, section “{section}”.*"
    return ""


def prose(docstring: str, addresses: dict[str, str]) -> str:
    """A docstring as MyST: paragraphs, tables of parameters as definition lists, papers as citations."""
    paragraphs = re.split(r"\n\s*\n", docstring.strip())
    return "\n\n".join(_paragraph(text, addresses) for text in paragraphs if text.strip())


def _paragraph(text: str, addresses: dict[str, str]) -> str:
    lines = text.splitlines()
    if all(line.startswith("    ") for line in lines):
        lines = [line[4:] for line in lines]
        if not NAMED.match(lines[0]):
            return "\n".join(["```text", *lines, "```"])
    joined: list[str] = []  # a parameter's lines are one, and so are those of running text
    for line in lines:
        if NAMED.match(line) or not joined or (NAMED.match(joined[-1]) and not line.startswith(" ")):
            joined.append(line)
        else:
            joined[-1] += f" {line.strip()}"
    return "\n".join(_line(line, addresses) for line in joined)


def _line(line: str, addresses: dict[str, str]) -> str:
    if found := NAMED.match(line):
        return f"\n`{found[1]}`\n: {escape(found[2], addresses)}\n"
    return escape(line, addresses)


def escape(text: str, addresses: dict[str, str]) -> str:
    """Plain text in Markdown: `code` stays, what Markdown would read is escaped, addresses are links."""
    parts = re.split(r"(`[^`]+`|https?://[^\s),;]*[^\s),;.])", text)
    return "".join(_part(part, addresses) for part in parts)


def _part(part: str, addresses: dict[str, str]) -> str:
    if part.startswith("`") and len(part) > 1:
        return part
    if part.startswith("http"):
        return f"[`{addresses[part]}`](#cite-{addresses[part]})" if part in addresses else f"<{part}>"
    return re.sub(r"([\\*_<>\[\]$#|{}`~^=+-])", r"\\\1", part)
