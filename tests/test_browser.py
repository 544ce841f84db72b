"""A student's first quarter of an hour, in real JupyterLab."""

from __future__ import annotations

import json
import os
import re

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from course_lib.catalogue import LESSONS, exercises
from tests.helpers import lab

playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright: pip install '.[test]'")
if lab.chromium() is None and not os.environ.get("CI"):
    pytest.skip("needs Chromium (apt-get install chromium)", allow_module_level=True)
pytestmark = pytest.mark.browser
expect = playwright.expect
expect.set_options(timeout=120_000)

WRONG = """@answer(elbo.gaussian_kl)
def gaussian_kl(mean: Tensor, log_var: Tensor) -> Tensor:
    return 0.5 * (mean**2 + log_var.exp() - log_var - 1).mean(1)
"""
RIGHT = WRONG.replace(".mean(1)", ".sum(1)")


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as p:
        chromium = p.chromium.launch(executable_path=lab.chromium(), args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser):
    page = browser.new_page(viewport={"width": 1300, "height": 1000})
    page.set_default_timeout(120_000)
    page.problems = []
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("console", lambda m: page.problems.append(m.text) if m.type == "error" else None)
    yield page
    page.close()


@pytest.fixture(scope="module")
def students_lab(tmp_path_factory):
    with lab.server(tmp_path_factory.mktemp("students"), COURSE_ANSWERS="", TQDM_DISABLE="") as address:
        yield address


@pytest.fixture(scope="module")
def solved_lab(tmp_path_factory):
    folder = tmp_path_factory.mktemp("solved")
    with lab.server(folder, startup=SHORT, COURSE_ANSWERS="solutions", TQDM_DISABLE="1") as address:
        for lesson in LESSONS:
            lab.clear_outputs(folder / f"notebooks/{lesson.notebook}.ipynb")
        yield address


@pytest.fixture
def students(students_lab):
    """JupyterLab as a student has it, shared by tests that leave no answers behind."""
    yield students_lab
    lab.end_kernels(students_lab)


@pytest.fixture
def solved(solved_lab):
    """JupyterLab on notebooks without outputs, with the solutions in force and short trainings."""
    yield solved_lab
    lab.end_kernels(solved_lab)


@pytest.fixture
def address(tmp_path):
    """JupyterLab for one test alone."""
    with lab.server(tmp_path, COURSE_ANSWERS="", TQDM_DISABLE="") as address:
        yield address


def test_a_wrong_answer_a_right_one_and_a_slider(page, address):
    notebook = lab.Notebook(page, address, "02_elbo.ipynb")
    notebook.run(notebook.cell("from course_lib.lessons import elbo"))
    stub, check = notebook.cell("@answer(elbo.gaussian_kl)"), notebook.cell("check(elbo.gaussian_kl)")
    slider = notebook.cell("def draw_kl")

    notebook.run(stub)
    output = notebook.run(check)
    assert "not attempted" in output.first.inner_text()
    output = notebook.run(slider)
    assert "Waiting for elbo.gaussian_kl" in output.first.inner_text()

    notebook.write(stub, WRONG)
    notebook.run(stub)
    output = notebook.run(check)
    assert "You averaged over the latent dimensions" in output.first.inner_text()
    notebook.picture("wrong-answer")

    notebook.write(stub, RIGHT)
    notebook.run(stub)
    output = notebook.run(check)
    assert output.first.inner_text().startswith("✓ passed")
    notebook.picture("right-answer")

    output = notebook.run(slider)
    picture = output.locator("img")
    before = picture.get_attribute("src")
    output.locator(".noUi-handle").first.press("ArrowRight")
    expect(picture).not_to_have_attribute("src", before)
    picture.scroll_into_view_if_needed()
    notebook.picture("slider")
    assert not page.problems


SHOWN = "() => [...document.querySelectorAll('.jp-OutputArea-output img')].every(i => i.naturalWidth > 0)"


def error_outputs(page):
    return page.locator(".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.error']")


def verdicts(page, text: str):
    """The panels of checks that say `text`."""
    return page.locator(".jp-OutputArea-output [role=status]").filter(has_text=text)


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda x: x.notebook)
def test_a_lesson_opens_solved_and_runs_with_nothing_filled_in(page, students, lesson):
    notebook = lab.Notebook(page, students, f"{lesson.notebook}.ipynb")
    notebook.picture(f"{lesson.notebook}-opened")
    passed = page.locator(".jp-OutputArea-output").filter(has_text=re.compile(r"^\s*✓ passed"))
    expect(passed).to_have_count(len(exercises(lesson)))  # (an unrun notebook is not trusted: no roles)
    assert error_outputs(page).count() == 0
    pictures = page.locator(".jp-OutputArea-output img")
    assert pictures.count() >= 4
    page.wait_for_function(SHOWN)
    assert "Error" not in page.locator(".jp-Notebook").inner_text().replace("NotImplementedError", "")

    notebook.run_all()
    last = notebook.cells.last
    expect(last.locator(".jp-OutputArea-output").last).to_contain_text(re.compile(r"\b0 of \d+ points"))
    assert error_outputs(page).count() == 0
    expect(verdicts(page, "not attempted")).to_have_count(len(exercises(lesson)))
    notebook.picture(f"{lesson.notebook}-unsolved")
    assert not page.problems


# Trainings of a few steps: what they give is shown in the browser as the real thing is, which nbval runs.
SHORT = """
from course_lib import training

_fit = training.fit
training.fit = lambda step, steps, *rest, **options: _fit(step, min(steps, 25), *rest, **options)
"""


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda x: x.notebook)
def test_run_all_with_solutions_passes_every_check(page, solved, lesson):
    notebook = lab.Notebook(page, solved, f"{lesson.notebook}.ipynb")
    notebook.run_all()
    expect(verdicts(page, "passed")).to_have_count(len(exercises(lesson)))
    assert error_outputs(page).count() == 0
    slider = page.locator(".noUi-handle")  # predictions are boxes, too, without one
    explored = page.locator(".jp-OutputArea-output .widget-vbox", has=slider)
    expect(explored).to_have_count(sum("widgets.explore(" in source for source in notebook.sources()))
    assert explored.count() > 0 or lesson.module == "adda"  # the one lesson without sliders
    for box in explored.all():  # without a mouse
        before = box.locator("img").get_attribute("src")
        box.locator(".noUi-handle").last.press("ArrowRight")
        expect(box.locator("img")).not_to_have_attribute("src", before)
    pictures = page.locator(".jp-OutputArea-output img")
    assert all(len(alt) > 10 for alt in pictures.evaluate_all("images => images.map(i => i.alt)"))
    notebook.picture(f"{lesson.notebook}-solved")
    assert not page.problems


PREDICTIONS = """from course_lib import predict
which = predict("Which of the two?", choices=["the first", "the second"])
number = predict("How many nats?", unit="nats")"""


def test_a_prediction_is_made_by_keyboard_and_stands_beside_the_result(page, address, tmp_path):
    cells = [PREDICTIONS, 'which.compare("the first", "Because.")', "number.compare(0.7)"]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    asked = new_notebook(cells=[*map(new_code_cell, cells)], metadata=kernel)
    nbformat.write(asked, tmp_path / "notebooks/asked.ipynb")
    notebook = lab.Notebook(page, address, "asked.ipynb")
    notebook.run(notebook.cells.nth(0))
    page.get_by_role("button", name="the first").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    recorded = page.get_by_role("status").filter(has_text="Recorded: the second")
    recorded.wait_for()
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Space")
    page.get_by_role("status").filter(has_text="Recorded: the first").wait_for()
    page.get_by_label("Your number (nats)").focus()
    page.keyboard.type("0.5")
    page.keyboard.press("Enter")
    page.get_by_role("status").filter(has_text="Recorded: 0.5 nats").wait_for()
    notebook.picture("prediction")
    said = notebook.run(notebook.cells.nth(1)).first.inner_text()
    assert all(words in said for words in ("Predicted:", "the first", "The result:", "Because."))
    assert "0.5 nats" in notebook.run(notebook.cells.nth(2)).first.inner_text()
    record = json.loads((tmp_path / "notebooks/answers/predictions.json").read_text())
    assert record["Which of the two?"]["before"] == ["the second", "the first"]
    assert record["How many nats?"]["before"] == [0.5]
    notebook.picture("prediction-and-result")
    assert not page.problems


def test_the_course_opens_with_sliders_that_need_no_answer(page, students):
    """One of them, by keyboard, makes the object red; the others keep their places."""
    notebook = lab.Notebook(page, students, "00_why_disentangle.ipynb")
    notebook.run(notebook.cell("import matplotlib"))
    output = notebook.run(notebook.cell("named ="))
    sliders = output.locator(".widget-hslider")
    expect(sliders).to_have_count(6)
    before = sliders.locator(".widget-readout").all_inner_texts()
    assert len(before) == 6 and before[0] == "0.85"
    for _ in range(8):
        sliders.filter(has_text="object hue").locator(".noUi-handle").press("ArrowLeft")
    expect(output.locator("img")).to_have_attribute("alt", re.compile(r"object hue \(latent 0\) 0\.45,"))
    expect(sliders.locator(".widget-readout")).to_have_text(["0.45", *before[1:]])
    notebook.picture("opening")
    assert not page.problems


def test_the_start_page(page, students):
    notebook = lab.Notebook(page, students, "start.ipynb")
    notebook.run_all()
    assert "Next: why_disentangle.intervene" in page.locator(".jp-Notebook").inner_text()
    assert error_outputs(page).count() == 0
    notebook.picture("start")
    assert not page.problems
