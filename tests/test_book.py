"""The site: every link and picture, what it fetches, what is in each edition; read in headless Chromium on a desk and a phone."""

from __future__ import annotations

import html
import json
import os
import re
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest
from typer.testing import CliRunner

from course_lib import cli
from course_lib.catalogue import LESSONS, exercises
from course_lib.challenges import tasks
from course_lib.exercise.key import find_key
from course_lib.release import copy_course, sections
from tests.helpers import ROOT, lab
from tests.helpers.leaks import public, secrets

if not os.environ.get("CI"):
    pytest.importorskip("furo", reason="needs what builds the site: pip install '.[book]'")
from course_lib import book
from course_lib.book import pages, reference

BUILT = [pytest.mark.book, pytest.mark.slow, pytest.mark.xdist_group("book")]
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::PendingDeprecationWarning")


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    """The students' site, with a repository."""
    return book.book(tmp_path_factory.mktemp("student") / "site", repository="me/course").parent


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """The instructor's site, without a repository."""
    return book.book(tmp_path_factory.mktemp("teacher") / "site", instructor=True).parent


class Page(HTMLParser):
    """What a page links to, loads and shows."""

    def __init__(self, path: Path):
        super().__init__()
        self.links, self.loaded, self.ids, self.alts = [], [], set(), []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.ids |= {found[name] for name in ("id", "name") if found.get(name)}
        if tag == "a" and found.get("href"):
            self.links.append(found["href"])
        if tag in ("img", "script", "link", "iframe", "source", "video"):
            self.loaded += [found[name] for name in ("src", "href") if found.get(name)]
        if tag == "img":
            self.alts.append(found.get("alt"))


@cache
def read(site: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in sorted(site.rglob("*.html"))}


def text_of(path: Path) -> str:
    """A page's words as they are read, highlighted code included."""
    return html.unescape(re.sub(r"<[^>]+>", "", path.read_text(encoding="utf-8")))


def dead_links(site: Path) -> list[str]:
    """Internal links of a site that lead to no file, or to no place in it."""
    found, dead = {os.path.abspath(path): page for path, page in read(site).items()}, []
    for path, page in found.items():
        for link in {*page.links, *page.loaded}:
            if re.match(r"(https?|mailto|data|javascript):", link):
                continue
            address, anchor = urldefrag(unquote(link))
            address = address.partition("?")[0]
            target = os.path.normpath(os.path.join(os.path.dirname(path), address)) if address else path
            missing = anchor and target in found and anchor not in found[target].ids | {"top"}
            if missing or not os.path.exists(target):
                dead.append(f"{os.path.relpath(path, site)}: {link}")
    return dead


@pytest.fixture(params=["student", "teacher"])
def site(request):
    return request.getfixturevalue(request.param)


class TestBuilt:
    pytestmark = BUILT

    def test_every_internal_link_leads_somewhere(self, site):
        assert sum(len(page.links) for page in read(site).values()) > 1000
        assert not dead_links(site)

    def test_a_dead_link_would_be_found(self, student, tmp_path):
        (tmp_path / "a.html").write_text(
            '<a href="b.html">b</a><a href="#c">c</a><a href="a.html#d">d</a><p id="d">'
        )
        assert sorted(dead_links(tmp_path)) == ["a.html: #c", "a.html: b.html"]

    def test_every_picture_has_an_alternative_text(self, site):
        alts = [(path.name, alt) for path, page in read(site).items() for alt in page.alts]
        assert len(alts) > 60 and not [name for name, alt in alts if not (alt or "").strip()]

    def test_nothing_is_loaded_from_another_host(self, site):
        loaded = [x for page in read(site).values() for x in page.loaded]
        assert loaded and not [x for x in loaded if re.match(r"(https?:)?//", x)]

    def test_stubs_stay_stubs_and_hints_fold(self, student):
        for lesson in LESSONS:
            page = (student / f"{lesson.notebook}.html").read_text(encoding="utf-8")
            said = text_of(student / f"{lesson.notebook}.html")
            found = exercises(lesson)
            assert said.count("raise NotImplementedError") >= len(found)
            for ex in found:
                assert re.search(rf"@answer\({lesson.module}\.{ex.name}\)", said)
            folded = re.findall(r"<details class=\"hint\">", page)
            assert len(folded) >= 2 * len(found) and "<details open" not in page

    def test_a_slider_shows_its_picture_and_says_where_it_moves(self, student):
        for lesson in LESSONS:
            cells = json.loads((ROOT / f"notebooks/{lesson.notebook}.ipynb").read_text())["cells"]
            sliders = [
                c
                for c in cells
                if "explore(" in "".join(c["source"]) and pages.LIVE in json.dumps(c.get("outputs"))
            ]
            said = text_of(student / f"{lesson.notebook}.html")
            assert said.count(pages.STILL) == len(sliders)

    def test_buttons_where_the_repository_is_known(self, student, teacher):
        for lesson in LESSONS:
            links = read(student)[student / f"{lesson.notebook}.html"].links
            address = (
                f"colab.research.google.com/github/me/course/blob/main/notebooks/{lesson.notebook}.ipynb"
            )
            assert [x for x in links if address in x] and f"downloads/{lesson.notebook}.ipynb" in links
            download = json.loads((student / f"downloads/{lesson.notebook}.ipynb").read_text())
            assert not any(cell.get("outputs") for cell in download["cells"])
        assert not (teacher / "downloads").exists()
        assert "colab.research" not in (teacher / "02_elbo.html").read_text()

    def test_nothing_of_the_teachers_is_on_the_students_site(self, student, teacher):
        """No page of theirs, no line of a solution, no mistake's sentence, in any file; on the teacher's all are."""
        files = {p: p.read_text(encoding="utf-8") for p in student.rglob("*") if p.suffix in (".html", ".js", ".inv")
                 and p.suffix != ".inv"}  # fmt: skip
        plain = "\n".join(html.unescape(re.sub(r"<[^>]+>", "", text)) for text in files.values())
        theirs = "\n".join(text_of(p) for p in teacher.rglob("*.html"))
        assert not [p for p in student.rglob("*") if "teaching" in p.name]
        hints = [hint for ex in exercises() for hint in find_key(ex).hints]  # a last hint may quote a line
        known, lines, sentences = "\n".join([public("none"), *hints]), 0, 0
        for lesson in LESSONS:
            for line in secrets(lesson.module):
                if len(line) >= 32 and line not in known and not line.startswith(("#", '"""')):
                    assert line not in plain, line
                    lines += line in theirs
            for ex in exercises(lesson):
                for mistake in pages.find_solution(ex).mistakes:
                    sentence = mistake.sentence.replace("`", "")
                    assert sentence not in plain
                    assert sentence in theirs, sentence
                    sentences += 1
        assert lines > 100 and sentences > 100
        for name in ("Discussion", "On the projector"):
            assert name not in plain and name in theirs

    def test_the_teacher_finds_the_solution_beside_the_exercise(self, teacher):
        for lesson in LESSONS:
            said = text_of(teacher / f"{lesson.notebook}.html")
            for ex in exercises(lesson):
                stub, solution = said.index(f"check({ex.id})"), said.index(f"Solution of {ex.id}")
                assert stub < solution and pages.find_solution(ex).source in said
        assert all((teacher / f"teaching/{lesson.notebook}.html").exists() for lesson in pages.taught())

    def test_every_paper_of_a_lesson_leads_to_the_bibliography(self, student):
        bibliography = pages.read_bibliography()
        references = read(student)[student / "references.html"]
        assert {f"cite-{key}" for key in bibliography.entries} <= references.ids
        for lesson in LESSONS:
            keys = set(pages.cited_keys(ROOT / f"notebooks/{lesson.notebook}.ipynb", bibliography))
            links = read(student)[student / f"{lesson.notebook}.html"].links
            assert keys and {f"references.html#cite-{key}" for key in keys} <= set(links)

    def test_the_reference_has_every_public_docstring_of_a_lesson(self, student):
        for lesson in LESSONS:
            page = read(student)[student / f"reference/course_lib.lessons.{lesson.module}.html"]
            assert {f"course_lib.lessons.{ex.id}" for ex in exercises(lesson)} <= page.ids

    def test_a_site_takes_the_place_of_an_older_one_and_of_nothing_else(self, student, tmp_path):
        (tmp_path / "thesis.tex").write_text("years of work")
        with pytest.raises(ValueError, match="holds other files"):
            book.book(tmp_path)
        assert (tmp_path / "thesis.tex").exists()


# ---------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def chromium():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright: pip install '.[test]'")
    if lab.chromium() is None and not os.environ.get("CI"):
        pytest.skip("needs Chromium (apt-get install chromium)")
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=lab.chromium(), args=["--no-sandbox"])
        yield browser
        browser.close()


def visit(context, path: Path):
    """An open page, and what went wrong in it: errors in the console, requests to elsewhere."""
    page, problems = context.new_page(), []
    page.set_default_timeout(120_000)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda m: problems.append(m.text) if m.type in ("error", "warning") else None)
    page.on("request", lambda r: None if r.url.startswith(("file:", "data:")) else problems.append(r.url))
    page.on("requestfailed", lambda r: problems.append(f"failed: {r.url}"))
    load(page, path)
    return page, problems


def load(page, path: Path) -> None:
    """Go to a page of the site, and wait for its mathematics."""
    page.goto(path.as_uri())
    if "mathjax/tex-chtml.js" in path.read_text(encoding="utf-8"):
        page.wait_for_function("window.MathJax && MathJax.startup && MathJax.startup.promise")
        page.evaluate("MathJax.startup.promise.then(() => true)")


@pytest.mark.browser
class TestRead:
    pytestmark = BUILT

    def test_every_page_without_an_error_a_request_elsewhere_or_a_scroll_sideways(self, site, chromium):
        """Each page is opened once, on a desk, made as narrow as a phone and wide again; some are seen in the dark as well."""
        lab.ARTEFACTS.mkdir(exist_ok=True)
        wrong = {}
        context = chromium.new_context(viewport={"width": 1300, "height": 900}, color_scheme="light")
        page, problems = visit(context, site / "index.html")
        for path in read(site):
            problems.clear()
            load(page, path)
            if page.locator("mjx-merror").count():
                problems.append("mathematics that cannot be read")
            for width in (390, 1300):
                page.set_viewport_size({"width": width, "height": 900})
                wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
                if wide > 0:
                    problems.append(f"{wide} pixels too wide at {width}")
                for scheme in ("dark", "light") if path.stem in ("index", "03_beta_vae") else ():
                    page.emulate_media(color_scheme=scheme)
                    name = f"book-{site.parent.name[:7]}-{path.parent.name}-{path.stem}-{width}-{scheme}"
                    page.screenshot(path=lab.ARTEFACTS / f"{name}.png")
            if problems:
                wrong[path.name] = [*problems]
        context.close()
        assert not wrong

    def test_mathematics_is_set(self, student, chromium):
        context = chromium.new_context()
        page, _ = visit(context, student / "02_elbo.html")
        assert page.locator("mjx-container").count() > 20
        assert page.locator("mjx-assistive-mml math").count() > 20  # for those who listen
        context.close()

    def test_the_search_finds_a_word_of_a_lesson(self, student, chromium):
        context = chromium.new_context()
        page, _ = visit(context, student / "search.html")
        page.goto(f"{(student / 'search.html').as_uri()}?q=eigenvalues")
        page.locator("#search-results li a[href*='03_beta_vae']").first.wait_for()
        context.close()

    def test_a_hint_unfolds_by_the_keyboard(self, student, chromium):
        context = chromium.new_context()
        page, _ = visit(context, student / "02_elbo.html")
        hint = page.locator("details.hint").first
        assert not hint.locator("p").is_visible()
        hint.locator("summary").focus()
        page.keyboard.press("Enter")
        hint.locator("p").wait_for()
        context.close()

    def test_paper_has_the_text_alone(self, student, chromium):
        context = chromium.new_context()
        page, _ = visit(context, student / "02_elbo.html")
        page.emulate_media(media="print")
        assert not page.locator(".sidebar-drawer").is_visible() and not page.locator("p.buttons").is_visible()
        assert page.locator("h1").is_visible()
        context.close()


# ---------------------------------------------------------------- what the pages are made of: quick


def section_text(lesson: str, title: str) -> str:
    """The Markdown of a notebook's section."""
    (path,) = (ROOT / "notebooks").glob(f"{lesson}_*.ipynb")
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    text = "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, f"{path.name} has no section {title!r}"
    return found[1]


@pytest.mark.parametrize("symbol", pages.read_symbols(), ids=lambda x: x["tex"])
def test_a_symbol_is_in_the_section_that_introduces_it(symbol):
    assert symbol["found"] in section_text(symbol["lesson"], symbol["section"])


def test_a_citation_has_the_key_of_its_address():
    bibliography = pages.read_bibliography()
    cited = pages.cite('[MINE](https://arxiv.org/abs/1801.04062 "belghazi2018")', bibliography)
    assert cited == "[MINE](#cite-belghazi2018)"
    assert pages.cite("[MINE](https://arxiv.org/abs/1801.04062)", bibliography) == cited
    assert "example.org" in pages.cite("[a page](https://example.org)", bibliography)
    with pytest.raises(ValueError, match="cited as 'mine2018'"):
        pages.cite('[MINE](https://arxiv.org/abs/1801.04062 "mine2018")', bibliography)


def test_every_key_that_is_cited_exists():
    bibliography = pages.read_bibliography()
    addresses = [e.fields["url"] for e in bibliography.entries.values() if "url" in e.fields]
    texts = [ROOT / "README.md", *ROOT.glob("notebooks/*.ipynb"), *ROOT.glob("book/teaching/*.md")]
    for path in texts:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".ipynb":
            text = "\n".join(
                "".join(c["source"]) for c in json.loads(text)["cells"] if c["cell_type"] == "markdown"
            )
        pages.cite(text, bibliography)  # raises for a key that is none, or is another paper's
        keyless = [found for found in pages.LINK.findall(text) if not found[2] and found[1] in addresses]
        assert not keyless, f"{path.name}: write the key as the link's title"
        assert set(re.findall(r"`([a-z]+(?:19|20)\d\d)`", text)) <= bibliography.entries.keys(), path.name
    assert len(set(addresses)) == len(addresses) > 25


def test_a_picture_without_words_is_refused():
    output = {"data": {"image/png": "iVBORw0KGgo="}, "metadata": {}, "output_type": "display_data"}
    with pytest.raises(ValueError, match=r"02_elbo\.ipynb, cell 7: a picture without"):
        pages._still(output, "02_elbo.ipynb, cell 7")


def test_a_docstring_is_text_and_not_markup():
    said = reference.prose("x_i and `log_var` < 3.\n\nn   the *size*,\n    or 0", {})
    assert said.split("\n\n")[0] == r"x\_i and `log_var` \< 3."
    assert "`n`\n: the \\*size\\*, or 0" in said
    assert reference.prose("a\nb `c\nd`\ne", {}) == "a b `c d` e"


def test_sphinx_can_read_every_signature(tmp_path):
    from sphinx.util.inspect import signature_from_str

    reference.write_reference(tmp_path, pages.read_bibliography(), instructor=True)
    texts = [path.read_text(encoding="utf-8") for path in (tmp_path / "reference").glob("*.md")]
    found = [line for text in texts for line in re.findall(r"^`+\{py:\w+\} \w+(\(.*)$", text, re.M)]
    assert len(found) > 200
    for line in found:
        signature_from_str(line)  # it raises where a default is a loop, say


def test_wrong_options_are_explained(tmp_path):
    options = ["book", "-o", str(tmp_path / "site"), "--repository", "https://github.com/me/course"]
    done = CliRunner().invoke(cli.app, options)
    assert done.exit_code == 1 and "expected owner/name" in done.output


def test_a_students_readme_speaks_to_students(tmp_path):
    copy_course(tmp_path, ())
    readme = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "## If you are a student" in readme and "make lab" in readme
    for words in (
        "course grade",
        "course release",
        "make test",
        "make check",
        "make book",
        "benchmark",
        "pytest",
        "solutions/",
    ):
        assert words not in readme, words
    linked = [p for p in re.findall(r"\]\(([^)# ]+)", readme) if "://" not in p]
    assert linked and not [p for p in linked if not (tmp_path / p).exists()]


# ---------------------------------------------------------------- the teacher's notes


def notebook_sections(lesson) -> list[str]:
    cells = json.loads((ROOT / f"notebooks/{lesson.notebook}.ipynb").read_text(encoding="utf-8"))["cells"]
    text = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    return re.findall(r"^## (.+)$", text, re.MULTILINE)


def test_the_first_eight_lessons_have_notes():
    assert {x.number for x in pages.taught()} >= {f"{i:02}" for i in range(8)}


@pytest.mark.parametrize("lesson", pages.taught(), ids=lambda x: x.notebook)
def test_a_lessons_notes_are_complete(lesson):
    """Every section in order, minutes that add up, every exercise core or optional, three questions with answers."""
    text = pages.notes_of(lesson).read_text(encoding="utf-8")
    parts = sections(text)
    assert [*parts][1:] == ["Objectives", "Minutes, and what to show", "Core and optional", "Discussion"]
    assert len(re.findall(r"^- ", parts["Objectives"], re.MULTILINE)) >= 3
    rows = re.findall(
        r"^\| \*\*(.+?)\*\* \| (\d+) \| (.+) \|$", parts["Minutes, and what to show"], re.MULTILINE
    )
    assert [row[0] for row in rows] == notebook_sections(lesson)
    assert sum(int(row[1]) for row in rows) == lesson.minutes and all(len(row[2]) > 15 for row in rows)
    core, optional = parts["Core and optional"].split("Optional:")
    named = [re.findall(r"`(\w+)`", x) for x in (core, optional)]
    assert all(named) and sorted(named[0] + named[1]) == sorted(ex.name for ex in exercises(lesson))
    questions = re.findall(
        r"^\d\. \*\*(.+?)\*\*(.+?)(?=^\d\. |\Z)", parts["Discussion"], re.MULTILINE | re.DOTALL
    )
    assert len(questions) == 3 and all(len(answer) > 150 for _, answer in questions)
    assert "istakes" not in text  # they come from the solutions


def test_the_plans_name_sections_and_challenges_that_exist():
    text = (ROOT / "book/teaching/plans.md").read_text(encoding="utf-8")
    known = {x for lesson in LESSONS for x in notebook_sections(lesson)} | {
        t.title for t in tasks.all_tasks()
    }
    starts = {re.split(r"[:,?]", title)[0] for title in known}
    named = re.findall(r"(?<!\*)\*([A-Z][^*]+)\*(?!\*)", text)
    allowed = {"Run All", "Common mistakes", "Who ends with the lowest total correlation?"}
    assert len(named) > 20 and not [x for x in named if x not in known | starts | allowed]
    ids = {ex.name for ex in exercises()}
    assert {x for x in re.findall(r"`([a-z]\w+)`", text) if "_" in x} <= ids
    sessions = re.findall(r"\| Minutes \| .*\n\|.*\n((?:\|.*\n)+)", text)
    assert [sum(int(m) for m in re.findall(r"^\| (\d+) \|", s, re.MULTILINE)) for s in sessions] == [90, 90]
    assert re.findall(r"^\| (\d+) \| ", text.split("## Twelve weeks")[1], re.MULTILINE) == [
        str(i) for i in range(1, 13)
    ]


def test_common_mistakes_are_those_of_the_solutions():
    (ex,) = [x for x in exercises() if x.id == "elbo.gaussian_kl"]
    listed = pages.mistakes(ex)
    for mistake in pages.find_solution(ex).mistakes:
        assert pages.in_html(mistake.sentence) in listed
    assert listed.count("<li>") == len({m.sentence for m in pages.find_solution(ex).mistakes})
