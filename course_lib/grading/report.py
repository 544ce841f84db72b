"""The class at a glance: what was solved, which named mistake was made how often, and what to teach again.

One page without a request, a script or a student's name, so that it can be shown to the class; and the same as CSV.
"""

from __future__ import annotations

import csv
import html
import io
from collections import Counter, defaultdict
from statistics import median

from course_lib.catalogue import LESSONS, find
from course_lib.grading.assignment import Assignment, Mark

BINS = 10  # of the distribution of points
MOST = 5  # named mistakes that are shown of an exercise
SOLVED = 0.75  # an exercise that fewer of those who tried have solved is to be taught again
ENDINGS = ("timed out", "out of memory", "crashed", "tampered", "not checked", "not graded")


class Report:
    """Counts of a class, taken in one student at a time."""

    def __init__(self, assignment: Assignment):
        self.assignment = assignment
        self.students = self.graded = self.late = 0
        self.totals: list[float] = []
        self.statuses: dict[str, Counter] = defaultdict(Counter)
        self.mistakes: dict[str, Counter] = defaultdict(Counter)  # by exercise: names
        self.others: dict[str, Counter] = defaultdict(Counter)  # what failed by no named mistake: sentences
        self.sentences: dict[tuple[str, str], str] = {}
        self.blocks: dict[str, Counter] = defaultdict(Counter)  # by exercise: those that it blocks

    def add(self, mark: Mark) -> None:
        self.students += 1
        if not mark.rows:
            return
        self.graded += 1
        self.late += bool(mark.taken_off or mark.fields.get("late"))
        self.totals.append(mark.total)
        passed = {row["exercise"] for row in mark.rows if row["status"] == "passed"}
        for row in mark.rows:
            exercise = row["exercise"]
            self.statuses[exercise][row["status"]] += 1
            if row["mistake"]:
                self.mistakes[exercise][row["mistake"]] += 1
                self.sentences[exercise, row["mistake"]] = row["diagnosis"]
            elif row["status"] == "failed":
                self.others[exercise][row["diagnosis"] or row["message"]] += 1
            missing = set(row["calls"]) - passed if exercise not in passed else ()
            for earlier in {*row["served"], *missing} & self.assignment.points.keys():
                self.blocks[earlier][exercise] += 1

    def tried(self, exercise: str) -> int:
        found = self.statuses[exercise]
        return found.total() - found["not attempted"] - found["not graded"]

    def to_teach(self, module: str) -> list[tuple[str, list[tuple[str, int]]]]:
        """The exercises of a lesson that were solved least, at most five, and the one or two mistakes made most often."""
        found = []
        for exercise in self.assignment.points:
            if exercise.startswith(f"{module}.") and (tried := self.tried(exercise)):
                share = self.statuses[exercise]["passed"] / tried
                if share < SOLVED:
                    most = self.mistakes[exercise].most_common(2)
                    said = [(self.sentences[exercise, m], n) for m, n in most]
                    found.append((share, exercise, said))
        return [(exercise, said) for _, exercise, said in sorted(found, key=lambda x: x[0])][:5]

    # ------------------------------------------------------------ CSV

    def as_csv(self) -> str:
        """One line a number: lesson, exercise, kind (status, mistake, other, blocks), what, students, of, sentence."""
        text = io.StringIO()
        table = csv.writer(text)
        table.writerow(["lesson", "exercise", "kind", "what", "students", "of", "sentence"])
        for exercise in self.assignment.points:
            lesson = find(exercise).notebook[:2]
            groups = {"status": self.statuses, "mistake": self.mistakes, "other": self.others}
            for kind, counts in (groups | {"blocks": self.blocks}).items():
                for name, count in counts[exercise].most_common():
                    sentence = name if kind == "other" else self.sentences.get((exercise, name), "")
                    name = "" if kind == "other" else name
                    table.writerow([lesson, exercise, kind, name, count, self.graded, sentence])
        return text.getvalue()

    # ------------------------------------------------------------ the page

    def as_html(self) -> str:
        modules = {exercise.partition(".")[0] for exercise in self.assignment.points}
        lessons = [x for x in LESSONS if x.module in modules]
        links = "".join(f'<li><a href="#{x.module}">{html.escape(x.title)}</a></li>' for x in lessons)
        return PAGE.format(
            title=html.escape(self.assignment.title),
            summary=self._summary(),
            points=self._points(),
            links=links,
            lessons="\n".join(self._lesson(x) for x in lessons),
        )

    def _summary(self) -> str:
        said = [f"{self.graded} of {self.students} submissions graded"]
        said += [f"{self.late} late"] * bool(self.late)
        if self.totals:
            low, high = min(self.totals), max(self.totals)
            said.append(
                f"points: median {median(self.totals):g}, from {low:g} to {high:g}, of {self.assignment.of:g}"
            )
        return html.escape("; ".join(said)) + "."

    def _points(self) -> str:
        """The distribution of points, as bars and in words."""
        counts, of = (
            Counter(min(BINS - 1, int(BINS * t / self.assignment.of)) for t in self.totals),
            self.assignment.of,
        )
        most = max(counts.values(), default=1)
        bars, said = [], []
        for i in range(BINS):
            low, high = of * i / BINS, of * (i + 1) / BINS
            height, x = 90 * counts[i] / most, 40 * i
            bars.append(f'<rect x="{x + 3}" y="{100 - height:.1f}" width="34" height="{height:.1f}"/>')
            if counts[i]:
                bars.append(f'<text x="{x + 20}" y="{95 - height:.1f}">{counts[i]}</text>')
                said.append(f"{counts[i]} from {low:g} to {high:g}")
            bars.append(f'<text x="{x}" y="116">{low:.3g}</text>')
        bars.append(f'<text x="{40 * BINS}" y="116">{of:.3g}</text>')
        label = html.escape("Submissions by points: " + ("; ".join(said) or "none"))
        return f'<svg role="img" aria-label="{label}" viewBox="-12 -12 {40 * BINS + 24} 132">{"".join(bars)}</svg>'

    def _lesson(self, lesson) -> str:
        chosen = [x for x in self.assignment.points if x.startswith(f"{lesson.module}.")]
        rows = "\n".join(self._exercise(x) for x in chosen)
        return LESSON.format(
            id=lesson.module, title=html.escape(lesson.title), teach=self._teach(lesson), rows=rows
        )

    def _teach(self, lesson) -> str:
        found = self.to_teach(lesson.module)
        if not found:
            return (
                f"<p>Nothing: {SOLVED:.0%} or more of those who tried have solved each of its exercises.</p>"
            )
        items = []
        for exercise, said in found:
            ex = find(exercise)
            solved = (
                f"{self.statuses[exercise]['passed']} of the {self.tried(exercise)} who tried have solved it"
            )
            words = "".join(f" <q>{html.escape(x)}</q> ({n} of {self.graded})" for x, n in said)
            items.append(
                f"<li><b>{html.escape(ex.section)}</b> (<code>{exercise}</code>): {solved}.{words}</li>"
            )
        return f"<ol>{''.join(items)}</ol>"

    def _exercise(self, exercise: str) -> str:
        found, of = self.statuses[exercise], max(1, self.graded)
        passed, none = found["passed"], found["not attempted"]
        wrong = found.total() - passed - none
        parts = "".join(
            f'<i class="{kind}" style="width:{100 * n / of:.2f}%"></i>'
            for kind, n in (("passed", passed), ("wrong", wrong))
        )
        items = [
            f"<li><b>{n} of {of}</b> {html.escape(self.sentences[exercise, m])} <small>{html.escape(m)}</small></li>"
            for m, n in self.mistakes[exercise].most_common(MOST)
        ]
        if (rest := len(self.mistakes[exercise]) - MOST) > 0:
            items.append(f"<li>and {rest} other named mistakes, each less often: see report.csv</li>")
        items += [
            f"<li><b>{n} of {of}</b> by no named mistake: {html.escape(text)}</li>"
            for text, n in self.others[exercise].most_common(3)
        ]
        if rest := self.others[exercise].total() - sum(n for _, n in self.others[exercise].most_common(3)):
            items.append(f"<li><b>{rest} of {of}</b> in other ways</li>")
        items += [f"<li><b>{found[x]} of {of}</b> {x}</li>" for x in ENDINGS if found[x]]
        if blocked := self.blocks[exercise]:
            words = ", ".join(f"<code>{x}</code> ({n})" for x, n in blocked.most_common())
            items.append(f"<li>Missing or wrong, it stood in the way of {words}</li>")
        label = f"{passed} passed, {wrong} did not, {none} have not tried"
        cells = f'<td>{passed} of {of}<span class="bar" role="img" aria-label="{label}">{parts}</span></td>'
        mistakes = f"<ul>{''.join(items)}</ul>" if items else "–"
        return f"<tr><th scope=row><code>{exercise}</code></th>{cells}<td>{none or '–'}</td><td>{mistakes}</td></tr>"


LESSON = """<section id="{id}" aria-labelledby="{id}-title">
<h2 id="{id}-title">{title}</h2>
<h3>What to teach again</h3>
{teach}
<div class="table" tabindex="0" role="region" aria-labelledby="{id}-title">
<table>
<thead><tr><th scope=col>Exercise</th><th scope=col>Passed</th><th scope=col>Not tried</th><th scope=col>What went wrong</th></tr></thead>
<tbody>
{rows}
</tbody></table></div>
</section>"""

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}: the class at a glance</title>
<style>
:root {{ color-scheme: light dark; --ink: #1b1b1b; --paper: #fff; --line: #d5d5d5; --rest: #e4e4e4;
  --passed: #009e73; --wrong: #d55e00; --link: #00609a }}
@media (prefers-color-scheme: dark) {{
  :root {{ --ink: #e8e8e8; --paper: #16181b; --line: #3d4147; --rest: #33373d; --passed: #1fbf92; --wrong: #f0803c; --link: #6cb8ee }}
}}
@media print {{ :root {{ --ink: #000; --paper: #fff; --line: #999; --rest: #e4e4e4; --passed: #009e73; --wrong: #d55e00; --link: #000 }}
  nav, .skip {{ display: none }} tr, li {{ break-inside: avoid }} h2, h3 {{ break-after: avoid }} .table {{ overflow: visible }} }}
body {{ font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 72em; margin: 2em auto; padding: 0 1em }}
a {{ color: var(--link) }}
:focus-visible {{ outline: 3px solid var(--link); outline-offset: 2px }}
.skip {{ position: absolute; left: -99em }} .skip:focus {{ left: 1em }}
nav ul {{ display: flex; flex-wrap: wrap; gap: .2em 1.5em; list-style: none; padding: 0 }}
svg {{ max-width: 36em; width: 100%; fill: var(--ink); font-size: 11px; text-anchor: middle }} svg rect {{ fill: var(--passed) }}
h2 {{ border-top: 1px solid var(--line); padding-top: .8em; margin-top: 1.6em }} h3 {{ margin-bottom: .3em }}
ol {{ margin-top: .3em }} .table {{ overflow-x: auto }}
table {{ border-collapse: collapse; width: 100% }} thead th {{ text-align: left; white-space: nowrap }}
th, td {{ vertical-align: top; padding: .45em .7em; border-bottom: 1px solid var(--line) }} tbody th {{ text-align: left; font-weight: normal }}
td:last-child {{ width: 60% }} td ul {{ margin: 0; padding-left: 1.1em }} small {{ opacity: .75 }} td:nth-child(2) {{ min-width: 7em; white-space: nowrap }}
.bar {{ display: flex; height: .55em; background: var(--rest); margin-top: .3em }}
.bar, .bar i, svg rect {{ print-color-adjust: exact; -webkit-print-color-adjust: exact }}
.passed {{ background: var(--passed) }} .wrong {{ background: var(--wrong) }}
</style></head>
<body>
<a class="skip" href="#lessons">To the lessons</a>
<h1>{title}: the class at a glance</h1>
<p>{summary}</p>
{points}
<p>Bars: <span style="color:var(--passed)">■</span> passed, <span style="color:var(--wrong)">■</span> tried and did not pass,
the rest not tried. Points are what the assignment counts, with decisions and lateness; bars are what the answers did.</p>
<nav aria-label="Lessons"><ul>{links}</ul></nav>
<main id="lessons">
{lessons}
</main>
</body></html>
"""
