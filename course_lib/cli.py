"""The command line: for students (check), instructors (grade, solve, release, book) and authors (keys, pretrain, challenges)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

from course_lib.catalogue import LESSONS, Lesson, exercises, find
from course_lib.exercise.compare import close
from course_lib.exercise.contract import Exercise
from course_lib.exercise.key import Key, read_keys, record, write_keys
from course_lib.files import data_folder

app = typer.Typer(no_args_is_help=True, add_completion=False)


@app.callback()
def main() -> None:
    """An Introduction to Disentanglement."""


@app.command()
def keys(
    lesson: Annotated[str, typer.Argument(help="Only this lesson's: 02, 02_elbo or elbo.")] = "",
    check: Annotated[bool, typer.Option(help="Write nothing; fail where a key is stale.")] = False,
) -> None:
    """Record the answer keys of all lessons, or of one, from their solutions."""
    stale = []
    for x in [_find(lesson, Lesson)] if lesson else LESSONS:
        contracts = {ex.name: ex for ex in exercises(x)}
        path = data_folder() / "answer_keys" / f"{x.module}.safetensors"
        fresh = {name: record(ex) for name, ex in contracts.items()}
        if check:
            stale += [f"{x.module}.{name}" for name in stale_keys(path, contracts, fresh)]
        elif fresh:
            write_keys(path, fresh)
            typer.echo(f"{x.module}: {len(fresh)} keys, {path.stat().st_size / 1000:.0f} kB")
    if stale:
        typer.echo(f"Stale: {', '.join(stale)}. Run `course keys`.", err=True)
        raise typer.Exit(1)


@app.command()
def pretrain(
    names: Annotated[list[str] | None, typer.Argument(help="Only these, such as vae factor_vae.")] = None,
    sweep: Annotated[bool, typer.Option("--sweep", help="Train the sweep of lesson 04 instead.")] = False,
    scenes: Annotated[
        bool, typer.Option("--scenes", help="Train the comparison on scenes in colour instead.")
    ] = False,
    pairs: Annotated[
        bool, typer.Option("--pairs", help="Train the comparison of lesson 09 instead.")
    ] = False,
    correlated: Annotated[
        bool, typer.Option("--correlated", help="Train the comparison of lesson 07 instead.")
    ] = False,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Training steps of each model; the recipe's if not given.")
    ] = None,
    state: Annotated[Path, typer.Option(help="Where unfinished training is kept.")] = Path("pretraining"),
    out: Annotated[
        Path | None, typer.Option(help="Where the results go; data/checkpoints or data/sweeps by default.")
    ] = None,
) -> None:
    """Train the checkpoints of lessons 03, 04 and 06, or one comparison, from where an interrupted run left it (Ctrl-C).

    Scenes in colour (scenes_outlines, scenes_vae, scenes_beta_tcvae, scenes_factor_vae) are trained where they are named.
    """
    from course_lib import checkpoints
    from course_lib.exercise.key import solutions_only
    from course_lib.experiments import correlated_factors, pretraining, what_it_takes
    from course_lib.training import pick_device

    usual = [*pretraining.RECIPES, "ufdn"]
    known = [*usual, *pretraining.SCENES]
    if unknown := set(names or ()) - set(known):
        raise typer.BadParameter(f"expected some of {', '.join(known)}; got {', '.join(unknown)}.")
    if sweep + scenes + pairs + correlated + bool(names) > 1:
        options = "--sweep, --scenes, --pairs and --correlated"
        raise typer.BadParameter(f"expected names, or one of {options}; got several.")
    comparison = sweep or scenes or pairs or correlated
    folder, device = out or data_folder() / ("sweeps" if comparison else "checkpoints"), pick_device()
    try:
        with solutions_only():
            if sweep:
                table = folder / "sprites.csv"
                pretraining.sweep(steps or pretraining.SWEEP_STEPS, state / "sweep", table, device)
            elif scenes:
                table, recipes = folder / "scenes.csv", pretraining.scenes_recipes()
                steps = steps or pretraining.SCENES_STEPS
                pretraining.sweep(steps, state / "scenes", table, device, recipes)
            elif pairs:
                what_it_takes.compare_long(folder, out or data_folder() / "checkpoints", steps, device)
            elif correlated:
                correlated_factors.compare_positions(
                    folder, steps or correlated_factors.POSITION_STEPS, device
                )
                correlated_factors.compare_long(folder, steps or correlated_factors.LONG_STEPS, device)
            else:
                pretraining.pretrain(names or usual, steps, state, folder, device)
    except KeyboardInterrupt:
        anew = "UFDN, or the run of --pairs or --correlated, starts anew"
        typer.echo(f"Interrupted. The same command goes on where it stopped; {anew}.", err=True)
        raise typer.Exit(1) from None
    except (FloatingPointError, ValueError) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None
    typer.echo(f"{folder} is written.")
    if not comparison and {*(names or usual)} & {*checkpoints.VAES}:
        typer.echo(f"{checkpoints.table(folder)}\n\nThe table belongs into data/README.md.")


@app.command()
def challenges(
    names: Annotated[list[str] | None, typer.Argument(help="Only these, such as fair_decision.")] = None,
) -> None:
    """Measure the baseline and the solution of the challenges at three seeds, into data/challenges.json."""
    import json

    from course_lib.challenges import contest, tasks
    from course_lib.files import replace
    from solutions.challenges import SOLUTIONS

    known = {task.name: task for task in tasks.all_tasks()}
    if unknown := set(names or ()) - known.keys():
        raise typer.BadParameter(f"expected some of {', '.join(known)}; got {', '.join(unknown)}.")
    found = {name: dict(scores) for name, scores in contest.measured().items() if name in known}
    for name in names or known:
        both = {"the baseline": known[name]._baseline, "a solution": SOLUTIONS[name]}
        found[name] = {
            author: [round(score, 4) for score in contest.measure(known[name], function)]
            for author, function in both.items()
        }
        typer.echo(
            f"{name}: " + ", ".join(f"{author} {contest.spread(s)}" for author, s in found[name].items())
        )
    replace(
        data_folder() / contest.MEASURED,
        json.dumps({n: found[n] for n in known if n in found}, indent=1) + "\n",
    )


@app.command()
def grade(
    submissions: Annotated[
        list[Path] | None, typer.Argument(help="Notebooks, folders or zips; or one folder or zip of a class.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Where gradebook, results and feedback go.")
    ] = None,
    only_list: Annotated[
        bool, typer.Option("--list", help="Say who handed in what, and grade nothing.")
    ] = False,
    lessons: Annotated[str, typer.Option(help="Only these: 02,03.")] = "",
    assignment: Annotated[
        Path | None, typer.Option(help="A TOML file: lessons, exclude, points, due, timezone, late.")
    ] = None,
    roster: Annotated[
        Path | None, typer.Option(help="A CSV of the class: the platform's own, or id, email, name.")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Grade this exercise anew for everybody, and none besides.")
    ] = None,
    similar: Annotated[
        bool, typer.Option("--similar", help="Say whose answers are the same up to names.")
    ] = False,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, help="Submissions at a time.")] = 1,
    seed: Annotated[
        int | None, typer.Option(help="Of the hidden inputs; secret and recorded if not given.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=1, help="The time that one exercise may take.")] = 20,
    unsafe: Annotated[bool, typer.Option("--unsafe", help="Run students' code without a sandbox.")] = False,
) -> None:
    """Grade submissions. An interrupted run goes on where it stopped; the same seed gives the same grades.

    Without submissions: put overrides.csv, assignment.toml and roster.csv of the folder into force, and grade nobody.
    """
    from course_lib.grading.assignment import BadFile, install
    from course_lib.grading.gradebook import Gradebook
    from course_lib.grading.sandbox import Limits, NoSandbox
    from course_lib.grading.submission import plan, table
    from course_lib.grading.supervisor import grade

    again, failed = [_find(name, Exercise).id for name in only or []], {}
    if not submissions and (only_list or again):
        raise typer.BadParameter("expected submissions, notebooks, folders or zips, to look at.")
    if out is None and not only_list:
        raise typer.BadParameter("expected -o GRADES, a folder for the grades, or --list.")
    if unsafe:
        typer.echo(
            "UNSAFE: students' code can read and change all that you can, solutions and grades too.", err=True
        )
    try:
        if only_list:
            typer.echo(table(*plan(submissions)))
            return
        if not submissions and not (out / "records").is_dir():
            raise FileNotFoundError(f"{out} holds no grades yet: expected submissions.")
        install(out, assignment, lessons, roster)
        book = Gradebook(out)
        if strange := [name for name in again if name not in book.assignment.points]:
            raise BadFile(f"--only: {', '.join(strange)} is not in the assignment.")
        if submissions:
            failed = grade(submissions, out, jobs, seed, unsafe, Limits(seconds=seconds), only=again)
        else:
            for sentence in book.finish():
                typer.echo(sentence)
        if similar:
            typer.echo("\n".join(book.similar()) or "No two submissions have answers of the same form.")
            typer.echo("Alike is a reason to look, and proves nothing: short formulas have few right ways.")
    except (NoSandbox, FileNotFoundError, BadFile) as error:
        hint = " --unsafe grades without a sandbox." if isinstance(error, NoSandbox) else ""
        typer.echo(f"{error}{hint}", err=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        typer.echo("Interrupted. What is graded is kept; the same command goes on.", err=True)
        raise typer.Exit(130) from None
    for name, reason in failed.items():
        typer.echo(f"not graded: {name}: {reason}", err=True)
    typer.echo(
        f"{out / 'gradebook.csv'} and report.html are written; so are results/ and feedback/ for each student."
    )
    raise typer.Exit(bool(failed))


@app.command()
def check(
    name: Annotated[
        str, typer.Argument(help="Only this lesson's (02, 02_elbo or elbo), or one: elbo.gaussian_kl.")
    ] = "",
) -> None:
    """Check your own answers in a fresh process, as they are saved."""
    from course_lib.grading.helpers import own_answers, self_check

    found = _find(name) if name else None
    chosen = [found] if isinstance(found, Exercise) else exercises(found)
    answers = own_answers(Path.cwd())
    typer.echo(f"Answers in {answers}")
    panels = [panel for _, panel in self_check(chosen, answers)]
    for panel in panels:
        lines = panel.lines()
        typer.echo("\n    ".join(lines[:1] if panel.title == "not attempted" else lines))
    raise typer.Exit(any(panel.kind != "passed" for panel in panels))


@app.command()
def solve(
    notebook: Annotated[Path, typer.Argument(exists=True, dir_okay=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where the solved notebook goes.")],
) -> None:
    """Write a notebook with the solutions in its answer cells (for instructors)."""
    from course_lib.grading.helpers import solve

    typer.echo(f"{out}: solved {', '.join(solve(notebook, out)) or 'nothing'}.")


@app.command()
def release(
    out: Annotated[Path, typer.Option("--out", "-o", help="Where the zip and the wheel go.")],
    reveal: Annotated[str, typer.Option(help="Solutions to include: none, all, or lessons: 01,02.")] = "none",
    url: Annotated[str, typer.Option(help="The address of the folder where the wheel will lie.")] = "",
    repository: Annotated[str, typer.Option(help="owner/name on GitHub, for the badges.")] = "",
    outputs: Annotated[
        bool, typer.Option("--outputs", help="Keep the notebooks' outputs: for readers, not for students.")
    ] = False,
) -> None:
    """Build what students get: a zip, and a wheel for Colab, with the revealed solutions only (for instructors)."""
    from course_lib import release

    try:
        made = release.release(out, reveal, url, repository, outputs)
    except (ValueError, FileNotFoundError, ModuleNotFoundError) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None
    for path in made:
        typer.echo(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


@app.command()
def book(
    out: Annotated[Path, typer.Option("--out", "-o", help="Where the site goes.")],
    instructor: Annotated[
        bool, typer.Option("--instructor", help="With teacher's notes, solutions and common mistakes.")
    ] = False,
    repository: Annotated[
        str, typer.Option(help="owner/name on GitHub, for the buttons to Colab and to download.")
    ] = "",
) -> None:
    """Build the site of the course from its notebooks as they are stored: to read, offline, in any browser."""
    from course_lib.book import book

    try:
        start = book(out, instructor, repository)
    except (ValueError, FileNotFoundError, ModuleNotFoundError, RuntimeError) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None
    typer.echo(f"{start} is the start page.")


@app.command()
def gradescope(
    out: Annotated[Path, typer.Option("--out", "-o", help="Where the zip goes.")] = Path("autograder.zip"),
    lessons: Annotated[str, typer.Option(help="Only these: 02,03.")] = "",
    assignment: Annotated[Path | None, typer.Option(help="As for `course grade`.")] = None,
) -> None:
    """Write the autograder that Gradescope runs. It holds the solutions: give it to no student (for instructors)."""
    from course_lib.grading import assignment as asked
    from course_lib.grading.platforms import autograder

    try:
        text = asked.given(assignment, lessons)
        files = autograder(out, text)
    except (asked.BadFile, FileNotFoundError) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None
    typer.echo(f"{out}: {len(files)} files, {out.stat().st_size / 1e6:.1f} MB. It holds the solutions.")


@app.command()
def classroom(
    repository: Annotated[
        Path, typer.Argument(help="The student's edition, unpacked: a template repository.")
    ],
    lessons: Annotated[str, typer.Option(help="Only these: 02,03.")] = "",
) -> None:
    """Write a GitHub Actions workflow that runs the student's own `course check` on every push (for instructors)."""
    from course_lib.grading.platforms import classroom

    chosen = [_find(name.strip(), Lesson) for name in lessons.split(",")] if lessons else list(LESSONS)
    typer.echo(f"{classroom(repository, chosen)} checks {', '.join(x.number for x in chosen)}.")


def _find(name: str, kind: type = object) -> Lesson | Exercise:
    """What `catalogue.find` finds, if it is of this kind; else a usage error."""
    try:
        found = find(name)
    except LookupError as error:
        raise typer.BadParameter(str(error)) from None
    if not isinstance(found, kind):
        wanted = (
            "an exercise, such as elbo.gaussian_kl"
            if kind is Exercise
            else "a lesson, such as 02, 02_elbo or elbo"
        )
        raise typer.BadParameter(f"expected {wanted}; got {name!r}.")
    return found


def stale_keys(path: Path, contracts: dict[str, Exercise], fresh: dict[str, Key]) -> list[str]:
    """Names of the exercises whose stored key is not what their solution gives now."""
    stored = read_keys(path, path.stat().st_mtime) if path.exists() else {}
    names = sorted(stored.keys() | fresh.keys())
    return [
        n for n in names if n not in stored or n not in fresh or not _same(contracts[n], stored[n], fresh[n])
    ]


def _same(ex: Exercise, a: Key, b: Key) -> bool:
    if any(getattr(a, x) != getattr(b, x) for x in ("hints", "sentences", "raises", "reasons")):
        return False
    if len(a.cases) != len(b.cases):
        return False
    groups = [(a.cases, b.cases), (a.outcomes, b.outcomes)]
    groups += [(a.mistakes[m], b.mistakes[m]) for m in b.mistakes]
    return all(
        x.keys() == y.keys()
        and all(
            close(x[k], y[k], ex, n.get(k, 0.0)) if isinstance(y[k], torch.Tensor) else x[k] == y[k]
            for k in y
        )
        for left, right in groups
        for x, y, n in zip(left, right, b.noise, strict=True)
    )
