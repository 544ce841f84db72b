"""Editions: what is in them, what is not, and that they work where students have them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
import zipfile
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from typer.testing import CliRunner

from course_lib import cli, release
from course_lib.catalogue import LESSONS
from tests.helpers import ROOT, lab, run_in
from tests.helpers.cells import code_cells
from tests.helpers.leaks import public, secrets

ADDRESS = "https://example.org/course/"


@pytest.fixture(scope="module")
def editions(tmp_path_factory):
    """The paths (zip, wheel) of an edition, by what it reveals; each is built once."""
    folder, made = tmp_path_factory.mktemp("editions"), {}

    def edition(reveal: str) -> tuple[Path, Path]:
        if reveal not in made:
            made[reveal] = release.release(folder / reveal, reveal, (folder / reveal).as_uri(), "me/course")
        return made[reveal]

    return edition


def contents(*archives: Path) -> dict[str, bytes]:
    """Every file of some archives, by name."""
    found = {}
    for archive in archives:
        with zipfile.ZipFile(archive) as file:
            found |= {f"{archive.suffix}/{name}": file.read(name) for name in file.namelist()}
    return found


# ---------------------------------------------------------------- what is not in them


@pytest.mark.parametrize("reveal", ["none", "01,02"])
def test_nothing_of_an_unrevealed_solution_is_in_an_edition(reveal, editions):
    """Helpers' names and distinctive lines are searched for in all bytes: keys, notebooks, sources."""
    everything, known = contents(*editions(reveal)), public(reveal)
    searched = 0
    for lesson in LESSONS:
        if lesson.notebook[:2] in reveal:
            continue
        for text in secrets(lesson.module):
            if (
                len(text) < (8 if text.isidentifier() else 32)
                or text in known
                or text.startswith(("#", '"""'))
            ):
                continue
            searched += 1
            found = {name: data for name, data in everything.items() if text.encode() in data}
            if found and text.isidentifier():  # part of a longer name, perhaps
                found = [name for name, data in found.items() if re.search(rf"\b{text}\b".encode(), data)]
            assert not found, text
    assert searched > 100
    names = [name for name in everything if re.search(r"\bsolutions\b|\btests\b|\.pyc|answers/", name)]
    wanted = [] if reveal == "none" else ["__init__", "elbo", "mutual_information"]
    assert {Path(name).stem for name in names} == set(wanted)


def test_the_search_would_find_a_leak(editions):
    """The same lines are there where they are revealed, so the search is not blind."""
    everything = b"\n".join(contents(*editions("01,02")).values())
    lines = [text for text in secrets("elbo") if len(text) >= 32]
    assert lines and all(line.encode() in everything for line in lines)


# ---------------------------------------------------------------- what is in them


def test_a_students_folder_is_complete(editions):
    archive, wheel = editions("none")
    names = set(zipfile.ZipFile(archive).namelist())
    for path in ["Makefile", "README.md", "LICENSE", "environment.yml", "pyproject.toml", "data/README.md"]:
        assert f"{release.NAME}/{path}" in names
    for lesson in LESSONS:
        for path in (f"notebooks/{lesson.notebook}.ipynb", f"data/answer_keys/{lesson.module}.safetensors"):
            assert f"{release.NAME}/{path}" in names
        assert f".whl/course_lib/data/answer_keys/{lesson.module}.safetensors" in contents(wheel)
    assert sum(len(data) for data in contents(archive, wheel).values()) < 60e6
    assert not [name for name in names if "/." in name], "such as locks"


def test_first_cell_and_badge_are_filled_in(editions):
    archive, wheel = editions("none")
    for lesson in LESSONS:
        with zipfile.ZipFile(archive) as file:
            notebook = json.loads(file.read(f"{release.NAME}/notebooks/{lesson.notebook}.ipynb"))
        title, first = ("".join(cell["source"]) for cell in notebook["cells"][:2])
        assert f'WHEEL = "{wheel.as_uri()}"' in first
        link = (
            f"https://colab.research.google.com/github/me/course/blob/main/notebooks/{lesson.notebook}.ipynb"
        )
        assert title.startswith(f"[![Open in Colab]({release.BADGE})]({link})\n\n# {lesson.notebook[:2]} · ")


def outputs(archive: Path) -> dict[str, list]:
    """By notebook of an edition's zip, what its code cells hold of a run: outputs and counts."""
    found = {}
    for name, data in contents(archive).items():
        if name.endswith(".ipynb"):
            code = [cell for cell in json.loads(data)["cells"] if cell["cell_type"] == "code"]
            found[Path(name).name] = [
                x for cell in code for x in (*cell["outputs"], cell["execution_count"]) if x
            ]
    return found


def test_a_students_notebooks_answer_no_question_before_it_is_asked(editions, tmp_path):
    archive, _ = editions("none")
    stripped = outputs(archive)
    assert len(stripped) == len(LESSONS) + 2 and not any(stripped.values())
    options = ["release", "-o", str(tmp_path), "--outputs"]
    assert CliRunner().invoke(cli.app, options).exit_code == 0
    kept = outputs(tmp_path / archive.name)
    assert kept.keys() == stripped.keys() and all(kept.values())
    for notebook in ROOT.glob("notebooks/*.ipynb"):  # the committed ones are for readers
        assert any(cell["outputs"] for cell in code_cells(notebook))


def test_the_same_course_gives_the_same_bytes(editions, tmp_path):
    before = editions("01,02")
    again = release.release(tmp_path, "01,02", before[1].parent.as_uri(), "me/course")
    assert [p.read_bytes() for p in again] == [p.read_bytes() for p in before]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--reveal", "1"], "expected none, all, or some of 00,01"),
        (["--reveal", "elb,02"], "got 'elb'"),
        (["--repository", "https://github.com/me/course"], "expected owner/name"),
    ],
)
def test_wrong_options_are_explained(options, said, tmp_path):
    done = CliRunner().invoke(cli.app, ["release", "-o", str(tmp_path / "dist"), *options])
    assert done.exit_code == 1 and said in done.output
    assert not (tmp_path / "dist").exists()


# ---------------------------------------------------------------- how they behave


def in_edition(folder: Path, archive: Path, code: str) -> str:
    """What a script prints in an unpacked edition: nothing of this checkout can be imported there."""
    if not folder.exists():
        with zipfile.ZipFile(archive) as file:
            file.extractall(folder)
    tree = folder / release.NAME
    start = "from course_lib import answer, check, reveal\nfrom course_lib.lessons import beta_vae, elbo\n"
    return run_in(tree, start + textwrap.dedent(code), tree / "notebooks")


LOSS = """
import torch
x, z = torch.ones(2, 1, 4, 4), torch.zeros(2, 3)
print(elbo.gaussian_kl(z + 1, z).tolist())
try: print("loss", beta_vae.beta_vae_loss(x, 0 * x, z + 1, z, beta=2.0).item())
except NotImplementedError as error: print(error)
"""


@pytest.mark.slow
def test_later_lessons_run_on_revealed_solutions(editions, tmp_path):
    said = in_edition(tmp_path / "two", editions("01,02")[0], LOSS)
    assert "[1.5, 1.5]" in said and "beta_vae.beta_vae_loss" in said
    said = in_edition(tmp_path / "all", editions("all")[0], LOSS)
    assert "loss 14.09" in said  # 16 log 2 + 2 · 1.5


@pytest.mark.slow
def test_a_students_own_answer_comes_before_a_revealed_one(editions, tmp_path):
    save = """
    from pathlib import Path
    Path("answers/elbo").mkdir(parents=True)
    Path("answers/elbo/gaussian_kl.py").write_text(
        "from course_lib import answer\\nfrom course_lib.lessons import elbo\\n"
        "@answer(elbo.gaussian_kl)\\ndef f(mean, log_var):\\n    return mean.sum(1)\\n")
    """
    said = in_edition(tmp_path / "all", editions("all")[0], textwrap.dedent(save) + LOSS)
    assert "[3.0, 3.0]" in said
    said = in_edition(tmp_path / "all", editions("all")[0], "print(repr(reveal(elbo.gaussian_kl)))\n"
                      "check(elbo.gaussian_kl)\nprint(repr(reveal(elbo.gaussian_kl)))")  # fmt: skip
    assert said.index("Try first") < said.index("A solution of elbo.gaussian_kl")
    said = in_edition(tmp_path / "none", editions("none")[0], "print(repr(reveal(elbo.gaussian_kl)))")
    assert "does not contain the solution" in said


# ---------------------------------------------------------------- in a fresh environment


PYTORCH = re.compile(r"torch|torchvision|triton|(nvidia|cuda)[-_.].+")  # wheels of several gigabytes


def required(requirement: Requirement, found: dict[Requirement, Distribution]) -> None:
    """Add to `found` what meets a requirement, and all that it requires."""
    if requirement not in found:
        found[requirement] = distribution(requirement.name)
        for further in map(Requirement, found[requirement].requires or ()):
            extras = ({"extra": extra} for extra in ("", *requirement.extras))
            if further.marker is None or any(map(further.marker.evaluate, extras)):
                required(further, found)


def link_packages(site: Path) -> None:
    """Put packages that lie here into another environment's site-packages, so that pip need not install them again.

    Of what the course requires, and of nothing else: PyTorch, and what has neither commands nor files elsewhere.
    """
    found: dict[Requirement, Distribution] = {}
    required(Requirement("disentanglement-course"), found)
    packages = {package.name: package for package in found.values()}
    del packages["disentanglement-course"]
    linked, rest = {}, set()
    for name, package in packages.items():
        tops = {Path(file).parts[0] for file in package.files}
        only_here = ".." not in tops or PYTORCH.fullmatch(name.lower())
        tops.discard("..")
        if only_here and not any((site / top).exists() for top in tops):  # setuptools, by Python 3.11
            linked |= {top: package.locate_file(top) for top in tops}
        else:
            rest |= tops
    for name in linked.keys() - rest:
        (site / name).symlink_to(linked[name])


@pytest.fixture(scope="module")
def student(editions, tmp_path_factory):
    """A student's folder, unpacked, and the environment variables of someone who never saw this checkout.

    Its environment has been made, and holds no package with a command: pip installs those.
    """
    folder = tmp_path_factory.mktemp("student") / release.NAME
    with zipfile.ZipFile(editions("none")[0]) as file:
        file.extractall(folder.parent)
    dropped = ("COURSE_", "PYTHON", "PYTEST_", "MAKE", "MFLAGS", "VIRTUAL_ENV", "TQDM_")
    clean = {k: v for k, v in os.environ.items() if not k.startswith(dropped)} | {"PIP_NO_COMPILE": "1"}
    make = ["make", ".venv/bin/python", f"PYTHON={sys.executable}"]
    subprocess.run(make, cwd=folder, env=clean, check=True, capture_output=True)
    (site,) = folder.glob(".venv/lib/python*/site-packages")
    link_packages(site)
    return folder, clean


@pytest.mark.browser
def test_make_lab_in_a_students_folder(student, tmp_path):
    """Environment, install, JupyterLab, and a notebook in which nothing is attempted yet."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright: pip install '.[test]'")
    if lab.chromium() is None and not os.environ.get("CI"):
        pytest.skip("needs Chromium (apt-get install chromium)")
    folder, clean = student
    port = lab.free_port()
    settings = {"JUPYTER_PORT": str(port), "JUPYTER_TOKEN": "course", "BROWSER": "true"}
    env = clean | lab.settings(tmp_path / "home") | settings
    with lab.running(["make", "lab"], port, tmp_path / "log", 900, env=env, cwd=folder) as address:
        with playwright.sync_playwright() as p:
            chromium = p.chromium.launch(executable_path=lab.chromium(), args=["--no-sandbox"])
            page = chromium.new_page(viewport={"width": 1300, "height": 1000})
            page.set_default_timeout(120_000)
            notebook = lab.Notebook(page, address, "02_elbo.ipynb")
            notebook.run_all()
            panels = page.locator(".jp-OutputArea-output [role=status]").filter(has_text="not attempted")
            playwright.expect(panels).to_have_count(7, timeout=120_000)
            notebook.picture("students-edition")
            chromium.close()


@pytest.mark.slow
def test_a_notebook_alone_on_colab(student, editions, tmp_path):
    """Only one notebook in an empty folder: its first cell installs the wheel, and all run. Checks have no stored output to differ from."""
    folder, clean = student
    python = folder / ".venv/bin/python"
    if not python.exists():
        subprocess.run(["make", ".venv/installed"], cwd=folder, env=clean, check=True, capture_output=True)
    subprocess.run([python, "-m", "pip", "uninstall", "-qy", "disentanglement-course"], check=True)
    archive, _ = editions("none")
    notebook = tmp_path / "00_why_disentangle.ipynb"
    with zipfile.ZipFile(archive) as file:
        notebook.write_bytes(file.read(f"{release.NAME}/notebooks/{notebook.name}"))
    startup = tmp_path / "ipython/profile_default/startup"
    startup.mkdir(parents=True)
    (startup / "colab.py").write_text(
        "import sys, types\nsys.modules['google.colab'] = types.ModuleType('colab')\n"
    )
    command = [
        python,
        "-m",
        "pytest",
        "--nbval-lax",
        "--nbval-current-env",
        "--junitxml=report.xml",
        notebook.name,
    ]
    env = clean | {"IPYTHONDIR": str(tmp_path / "ipython"), "TQDM_DISABLE": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f" {len(code_cells(notebook))} passed" in done.stdout
    found = subprocess.run(
        [python, "-c", "import course_lib; print(course_lib.__file__)"],
        cwd=tmp_path,
        env=clean,
        capture_output=True,
        text=True,
    )
    assert "site-packages" in found.stdout
