"""The site's sources, made from the README, the notebooks, references.bib and book/: each text has one place, and this is none."""

from __future__ import annotations

import html
import json
import re
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path

from course_lib.book.reference import write_reference
from course_lib.catalogue import LESSONS, Lesson, exercises, find
from course_lib.exercise.answers import find_solution
from course_lib.exercise.contract import Exercise
from course_lib.exercise.key import find_key
from course_lib.plots import picture_html
from course_lib.release import COLAB, ROOT, WHEEL, fill_in, sections

LIVE = "application/vnd.jupyter.widget-view+json"
LINK = re.compile(r'\[([^\]]+)\]\((https?://[^\s)]+)(?:\s+"([^"]+)")?\)')
UNPREDICTED = re.compile(r"<span>Predicted:</span><pre[^>]*>no prediction was made</pre>\n?")
STILL = "The picture moves with sliders in JupyterLab or Colab; this is its first position."
ASKED = "In JupyterLab or Colab you record your prediction here, before the result below is shown."
READING = (
    "You read a run on a reference solution. What you would write is left open here as it is in the notebook; "
    "hints unfold below each check."
)


def slug(title: str) -> str:
    """The anchor of a heading: lower case, words joined by hyphens."""
    return "-".join(re.findall(r"\w+", title.lower()))


def write_pages(folder: Path, instructor: bool, repository: str) -> None:
    """All sources of the site into `folder`, for `run_sphinx`."""
    folder.mkdir(parents=True)
    readme = sections((ROOT / "README.md").read_text(encoding="utf-8"))
    bibliography = read_bibliography()
    shutil.copytree(ROOT / "notebooks/images", folder / "images")
    shutil.copy(ROOT / "LICENSE", folder / "LICENSE.txt")
    pages = {
        "index": start_page(readme, instructor),
        "slides": slides_page(readme),
        "symbols": symbols_page(),
        "references": references_page(bibliography),
        "real_files": f"# Bring the real files\n\n{readme['Bring the real files']}",
    }
    if instructor:
        pages |= teaching_pages(readme)
    for name, text in pages.items():
        page = folder / f"{name}.md"
        page.parent.mkdir(exist_ok=True)
        page.write_text(cite(text, bibliography), encoding="utf-8")
    for path in chapters():
        document = notebook_page(path, instructor, repository)
        for cell in document["cells"]:
            if cell["cell_type"] == "markdown":
                cell["source"] = cite("".join(cell["source"]), bibliography)
        (folder / path.name).write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
    write_reference(folder, bibliography, instructor)


def write_downloads(folder: Path) -> None:
    """The notebooks as students get them, without outputs, to download."""
    folder.mkdir()
    for path in chapters():
        fill_in(Path(shutil.copy(path, folder)), "", "", outputs=False)


def chapters() -> list[Path]:
    """The notebooks that are pages, in order: the lessons, then the challenges."""
    found = [ROOT / f"notebooks/{lesson.notebook}.ipynb" for lesson in LESSONS]
    return [*found, *sorted(ROOT.glob("notebooks/challenges.ipynb"))]


# ---------------------------------------------------------------- pages from the README


def start_page(readme: dict[str, str], instructor: bool) -> str:
    """The README's head, its lessons as links, how to begin, and the table of contents."""
    text = readme[""].replace("notebooks/images/", "images/")
    for lesson in LESSONS:
        text = text.replace(f"| `{lesson.notebook}` |", f"| [{lesson.title}]({lesson.notebook}.ipynb) |")
    text = text.replace("\n| Lesson |", "\n{.stacked}\n| Lesson |")
    for title in ("If you are a student", "If you learn alone"):
        text += f"\n## {title}\n\n{readme[title]}\n"
    licence = readme["References"].splitlines()[-1].replace("(LICENSE)", "(LICENSE.txt)")
    text += f"\n## Licence\n\n{licence}\n"
    contents = [("Lessons", [path.stem for path in chapters()])]
    contents.append(("Look it up", ["slides", "symbols", "references", "reference/index", "real_files"]))
    if instructor:
        contents.insert(1, ("Teaching", ["teaching/index", *(f"teaching/{x.notebook}" for x in taught())]))
    for caption, names in contents:
        text += f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n" + "\n".join(names) + "\n```\n"
    return text


def slides_page(readme: dict[str, str]) -> str:
    """The README's map from slides to sections, with links."""
    title = "From the lecture's slides to the notebooks"
    rows = []
    for row in readme[title].splitlines():
        before, slide, places, after = row.split("|")
        if not places.strip("- ") or places.strip() == "Section":
            rows.append(row)
            continue
        linked = [_linked(place.strip()) for place in places.split(";")]
        rows.append("|".join([before, slide, f" {'; '.join(linked)} ", after]))
    return f"# {title}\n\n" + "\n".join(rows)


def _linked(place: str) -> str:
    """`03, *One weight on the KL*` with a link on the lesson and on each section."""
    notebook = f"{find(place[:2]).notebook}.ipynb"
    parts = re.sub(r"\*(.+?)\*", lambda m: f"[*{m[1]}*]({notebook}#{slug(m[1])})", place[2:])
    return f"[{place[:2]}]({notebook}){parts}"


# ---------------------------------------------------------------- symbols and papers


def read_symbols() -> list[dict[str, str]]:
    """book/symbols.toml: tex, meaning, lesson, section, and `found`, the text in the section that introduces it."""
    return tomllib.loads((ROOT / "book/symbols.toml").read_text(encoding="utf-8"))["symbol"]


def symbols_page() -> str:
    """The table of symbols, each with a link to the section that introduces it."""
    rows = ["# Symbols\n", "| Symbol | Meaning | Introduced in |", "|---|---|---|"]
    for x in read_symbols():
        notebook = find(x["lesson"]).notebook
        place = f"[{x['lesson']}, *{x['section']}*]({notebook}.ipynb#{slug(x['section'])})"
        tex = x["tex"].replace("|", r"\mid ")  # a bar would end the cell
        rows.append(f"| ${tex}$ | {x['meaning']} | {place} |")
    return "\n".join(rows)


def read_bibliography():
    """references.bib, parsed: entries by key."""
    from pybtex.database import parse_file

    return parse_file(str(ROOT / "references.bib"), "bibtex")


def references_page(bibliography) -> str:
    """Every paper with its key, and the notebooks that cite it."""
    from pybtex.backends.markdown import Backend
    from pybtex.plugin import find_plugin

    cited = {path: set(cited_keys(path, bibliography)) for path in chapters()}
    style = find_plugin("pybtex.style.formatting", "plain")()
    lines = ["# References\n"]
    for entry in sorted(style.format_entries(bibliography.entries.values()), key=_by_author(bibliography)):
        text = entry.text.render(Backend("utf-8"))
        places = [f"[{p.stem[:2]}]({p.name})" for p, keys in cited.items() if entry.key in keys]
        where = f" Cited in {', '.join(places)}." if places else ""
        lines.append(f"(cite-{entry.key})=\n{text} `{entry.key}`{where}\n")
    return "\n".join(lines)


def _by_author(bibliography):
    def order(entry) -> tuple[str, str]:
        found = bibliography.entries[entry.key]
        return " ".join(found.persons["author"][0].last_names).lower(), found.fields.get("year", "")

    return order


def cited_keys(notebook: Path, bibliography) -> Iterator[str]:
    """The keys of the papers that a notebook links to."""
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "markdown":
            for _, address, key in LINK.findall("".join(cell["source"])):
                if found := key_of(address, key, bibliography):
                    yield found


def key_of(address: str, key: str, bibliography) -> str | None:
    """The key of the entry that a link means, by its title or its address. A ValueError for a key that is none."""
    by_address = {e.fields["url"]: k for k, e in bibliography.entries.items() if "url" in e.fields}
    if key and by_address.get(address) != key:
        raise ValueError(f"{address} is cited as {key!r}; references.bib has {by_address.get(address)!r}.")
    return by_address.get(address)


def cite(text: str, bibliography) -> str:
    """Links to papers lead to the bibliography, which has the papers' addresses."""

    def linked(found: re.Match) -> str:
        key = key_of(found[2], found[3] or "", bibliography)
        return f"[{found[1]}](#cite-{key})" if key else found[0]

    return text if text.startswith("# References") else LINK.sub(linked, text)


# ---------------------------------------------------------------- notebooks


def notebook_page(path: Path, instructor: bool, repository: str) -> dict:
    """A notebook as a page: its cells and stored outputs, hints below the checks; for instructors solutions, too."""
    document = json.loads(path.read_text(encoding="utf-8"))
    cells = []
    for number, cell in enumerate(document["cells"]):
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            cells.append(cell)
            if number == 0:
                cells.append(_markdown(_head(path, instructor, repository)))
        elif WHEEL not in source and source.strip() != "progress()":
            where = f"{path.name}, cell {number}"
            cell |= {"source": source.replace("# NBVAL_CHECK_OUTPUT\n", ""), "metadata": {}}
            live = any(LIVE in output.get("data", {}) for output in cell["outputs"])
            cell["outputs"] = [_still(output, where) for output in cell["outputs"]]
            cells.append(cell)
            if live and ("explore(" in source or "predict(" in source):
                cells.append(_markdown(_note(STILL if "explore(" in source else ASKED)))
            if found := re.search(r"^check\((\w+\.\w+)\)", source, re.MULTILINE):
                cells.append(_markdown(_help(find(found[1]), instructor)))
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    return document | {"cells": cells}


def _markdown(text: str) -> dict:
    return {"cell_type": "markdown", "metadata": {}, "source": text}


def _note(text: str) -> str:
    return f'<p class="note">{html.escape(text)}</p>'


def _head(path: Path, instructor: bool, repository: str) -> str:
    """What stands below a notebook's title: buttons, and how to read the page."""
    links = []
    if repository:
        address = COLAB.format(repository=repository, notebook=path.name)
        links.append(f'<a class="button" href="{address}">Open in Colab</a>')
        links.append(f'<a class="button" href="downloads/{path.name}" download>Download the notebook</a>')
    if instructor and path.stem in {x.notebook for x in taught()}:
        links.append(f'<a class="button" href="teaching/{path.stem}.html">Teacher\'s notes</a>')
    buttons = f'<p class="buttons">{" ".join(links)}</p>\n' if links else ""
    return buttons + (_note(READING) if path.stem != "challenges" else "")


def _still(output: dict, where: str) -> dict:
    """An output as it is without a kernel: every picture as HTML, with its alternative text."""
    if "data" not in output:
        return output
    data = {kind: x for kind, x in output["data"].items() if kind != LIVE}
    if "image/png" in data:
        words = output["metadata"].get("image/png", {}).get("alt")
        if not words:
            raise ValueError(f"{where}: a picture without an alternative text")
        data = {"text/html": _picture("".join(data["image/png"]), words)}
    if "text/html" in data:
        data = {"text/html": UNPREDICTED.sub("", "".join(data["text/html"]))}
    return output | {"data": data, "metadata": {}}


def _picture(png: str, words: str) -> str:
    import base64

    return picture_html(base64.b64decode(png), words)


def _help(ex: Exercise, instructor: bool) -> str:
    """Hints that unfold one by one; for instructors the solution and the common mistakes."""
    hints = find_key(ex).hints
    text = "\n".join(
        f'<details class="hint"><summary>Hint {i} of {len(hints)}</summary><p>{in_html(hint)}</p></details>'
        for i, hint in enumerate(hints, 1)
    )
    if instructor:
        solution = find_solution(ex)
        text += f"\n\n<details><summary>Solution of {ex.id}, {_points(ex)}</summary>\n\n"
        text += f"```python\n{solution.source}\n```\n\n</details>\n\n"
        text += f"<details><summary>Common mistakes</summary>\n{mistakes(ex)}\n</details>\n"
    return text


def _points(ex: Exercise) -> str:
    return f"{ex.points} point{'s' if ex.points > 1 else ''}"


def mistakes(ex: Exercise) -> str:
    """The named mistakes of an exercise's solution: what is said to who makes them, once each."""
    sentences = dict.fromkeys(mistake.sentence for mistake in find_solution(ex).mistakes)
    return "<ul>" + "".join(f"<li>{in_html(sentence)}</li>" for sentence in sentences) + "</ul>"


def in_html(text: str) -> str:
    """Plain text with `code` as HTML."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))


# ---------------------------------------------------------------- for the teacher


def notes_of(lesson: Lesson) -> Path:
    return ROOT / f"book/teaching/{lesson.notebook}.md"


def taught() -> list[Lesson]:
    """The lessons that have a teacher's notes."""
    return [lesson for lesson in LESSONS if notes_of(lesson).exists()]


def teaching_pages(readme: dict[str, str]) -> dict[str, str]:
    """The notes of each lesson with its common mistakes, and a start page with the plans and how to grade."""
    plans = linked_plans((ROOT / "book/teaching/plans.md").read_text(encoding="utf-8"))
    rows = [f"| [{x.title}]({x.notebook}.md) | {x.minutes} | {_exercises(x)} |" for x in taught()]
    table = "\n".join(["| Notes | Minutes | Exercises |", "|---|---|---|", *rows])
    contributing = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    pages = {
        "teaching/index": f"{plans}\n\n## Notes of the lessons\n\n{table}\n\n"
        f"## Editions and grading\n\n{readme['If you teach']}\n\n"
        "```{toctree}\n:hidden:\n\ncontributing\n```\n",
        "teaching/contributing": contributing,
    }
    for lesson in taught():
        text = notes_of(lesson).read_text(encoding="utf-8")
        text = re.sub(r"\*\*(.+?)\*\* \|", rf"[\1](../{lesson.notebook}.ipynb#SLUG<\1>) |", text)
        text = re.sub(r"SLUG<(.+?)>", lambda m: slug(m[1]), text)
        listed = "\n\n".join(f"### `{ex.name}`\n\n{mistakes(ex)}" for ex in exercises(lesson))
        pages[f"teaching/{lesson.notebook}"] = (
            f"{text}\n\n## Common mistakes\n\n"
            f"What the checks say to who makes them, from the solutions.\n\n{listed}\n"
        )
    return pages


def linked_plans(text: str) -> str:
    """Every *section* and *challenge* of the plans as a link, by the lesson that stands before it in its line."""
    challenges = _headings(ROOT / "notebooks/challenges.ipynb")
    known = {path.stem: _headings(path) for path in chapters()}

    def linked(line: str) -> str:
        def link(found: re.Match) -> str:
            lesson = (re.findall(r"\b0\d\b", line[: found.start()]) or [""])[-1]
            for stem, titles in known.items():
                for title in titles if lesson and stem.startswith(lesson) else ():
                    if title.startswith(found[1]):
                        return f"[{found[0]}](../{stem}.ipynb#{slug(title)})"
            for title in challenges:
                if title.partition(" · ")[2].startswith(found[1]):
                    return f"[{found[0]}](../challenges.ipynb#{slug(title)})"
            return found[0]

        return re.sub(r"(?<!\*)\*([A-Z][^*]+)\*(?!\*)", link, line)

    return "\n".join(linked(line) if line.startswith("|") else line for line in text.splitlines())


def _headings(path: Path) -> list[str]:
    """The titles of a notebook's sections."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    texts = ("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    return [title for text in texts for title in re.findall(r"^## (.+)$", text, re.MULTILINE)]


def _exercises(lesson: Lesson) -> str:
    found = exercises(lesson)
    return f"{len(found)}, {sum(ex.points for ex in found)} points"
