"""A class of submissions, honest and hostile, on three exercises: what is handed in, and the rows it must get.

Most answers to gaussian_kl are the odd ones; reparameterise before it and traverse after it are right and must
keep their points whatever happens in between.
"""

from __future__ import annotations

import io
import json
import os
import textwrap
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from course_lib.exercise.answers import find_solution
from course_lib.grading.helpers import solution_source
from course_lib.lessons import elbo
from tests.helpers import ROOT

MANIFEST = [elbo.reparameterise, elbo.gaussian_kl, elbo.traverse]
KL = "(0.5 * (mean.square() + log_var.exp() - log_var - 1).sum(1))"
PASS, FAIL, NONE = "passed", "failed", "not attempted"
NO_POINT = ("failed", "crashed", "timed out", "out of memory", "tampered")


def answer(name: str, body: str, above: str = "") -> str:
    """A cell that answers an exercise of lesson elbo."""
    arguments = {"reparameterise": "mean, log_var, noise", "gaussian_kl": "mean, log_var"}
    head = f"def {name}({arguments.get(name, 'decode, z, latent, values')}):"
    return (
        f"{above}\n\n@answer(elbo.{name})\n{head}\n{textwrap.indent(textwrap.dedent(body).strip(), '    ')}\n"
    )


RIGHT = {ex.name: answer(ex.name, textwrap.dedent("\n".join(solution_source(ex)[1]))) for ex in MANIFEST}


def notebook(*cells: str, **more) -> str:
    """A notebook's text."""
    made = [dict(cell_type="code", source=c, metadata={}, outputs=[], execution_count=1) for c in cells]
    return json.dumps({"cells": made, "metadata": {}, "nbformat": 4, "nbformat_minor": 0} | more)


def with_kl(cell: str) -> str:
    """A notebook with this answer's cell between two that are right."""
    return notebook(RIGHT["reparameterise"], cell, RIGHT["traverse"])


@dataclass
class Case:
    """A submission: the rows it must get (one status, or several that are fine), and how it is put into the folder."""

    name: str
    rows: tuple
    write: Callable[[Path], None]
    says: str = ""  # in the feedback


CASES: list[Case] = []


def add(name: str, text: str | bytes, *rows, suffix: str = ".ipynb", **more) -> None:
    """A submission of one file."""
    data = text.encode() if isinstance(text, str) else text
    CASES.append(Case(name, rows, lambda folder: (folder / f"{name}{suffix}").write_bytes(data), **more))


def kl(name: str, body: str, status="failed", above: str = "", **more) -> None:
    """A submission whose answer to gaussian_kl is odd."""
    add(name, with_kl(answer("gaussian_kl", body, above)), PASS, status, PASS, **more)


# ---------------------------------------------------------------- honest

add("perfect", notebook(*RIGHT.values()), PASS, PASS, PASS, says="5 of 5 points")
add("empty", notebook(), NONE, NONE, NONE)
add("stubs", notebook(*(answer(ex.name, "raise NotImplementedError") for ex in MANIFEST)), NONE, NONE, NONE)
add("half done", notebook(RIGHT["gaussian_kl"]), NONE, PASS, NONE)
for i in range(3):
    mistakes = [find_solution(ex).mistakes[i] for ex in MANIFEST]
    cells = [
        answer(ex.name, body)
        for ex, body in zip(
            MANIFEST,
            [
                (
                    "return mean + log_var.exp() * noise",
                    "return mean + log_var * noise",
                    "return mean + (0.5 * log_var).exp()",
                )[i],
                (f"return {KL} / mean.shape[1]", f"return 2 * {KL}", f"return -{KL}")[i],
                (
                    "codes = z.repeat(len(values), 1)\ncodes[:, latent] += values\nreturn decode(codes)",
                    "return torch.cat([decode(z.index_fill(0, torch.tensor([latent]), v)[None]) for v in values.tolist()])",
                    "codes = z.new_zeros(len(values), len(z))\ncodes[:, latent] = values\nreturn decode(codes)",
                )[i],
            ],
            strict=True,
        )
    ]
    add(f"mistake {i}", notebook(*cells), FAIL, FAIL, FAIL, says=mistakes[1].sentence.split("½")[0][:40])
wrong = answer("gaussian_kl", "return mean.sum(1)")
two = notebook(RIGHT["reparameterise"], wrong, RIGHT["gaussian_kl"], RIGHT["traverse"])
add("two answers", two, PASS, PASS, PASS, says="the last counts")
add(
    "two answers, the last is wrong",
    with_kl(RIGHT["gaussian_kl"] + wrong),
    PASS,
    FAIL,
    PASS,
    says="the last counts",
)
add("stub after the answer", with_kl(RIGHT["gaussian_kl"] + answer("gaussian_kl", "...")), PASS, PASS, PASS)
add("renamed", with_kl(RIGHT["gaussian_kl"].replace("def gaussian_kl(", "def my_own(")), PASS, PASS, PASS)
shuffled = [*reversed(RIGHT.values()), RIGHT["traverse"], "import torch"]
add("reordered and duplicated", notebook(*shuffled), PASS, PASS, PASS)
retyped = json.loads(notebook(*RIGHT.values()))
for cell, kind in zip(retyped["cells"], ("raw", "markdown", "code"), strict=True):
    cell["cell_type"] = kind
add("retyped", json.dumps(retyped), PASS, PASS, PASS)
colab = json.loads(notebook("!pip install x\n%matplotlib inline", *("%%time\n" + c for c in RIGHT.values())))
colab["metadata"] = {"colab": {"provenance": []}, "accelerator": "GPU"}
for cell in colab["cells"]:
    cell["source"] = cell["source"].splitlines(keepends=True)
    cell["metadata"] = {"id": "x"}
add("colab", "\ufeff" + json.dumps(colab), PASS, PASS, PASS)
old = [{"cell_type": "code", "language": "python", "input": c, "outputs": []} for c in RIGHT.values()]
add("nbformat 3", json.dumps({"nbformat": 3, "worksheets": [{"cells": old}]}), PASS, PASS, PASS)
saved = json.loads(with_kl(wrong))
mime = "application/vnd.course.answer+json"
claims = {"text/plain": "elbo.gaussian_kl: passed", mime: {"status": "passed"}}
for cell in saved["cells"]:
    cell["outputs"] = [{"output_type": "display_data", "metadata": {}, "data": claims}]
add("saved wrong outputs", json.dumps(saved), PASS, FAIL, PASS)
kl("nbval markers", f'"""\n# NBVAL_SKIP\n# NBVAL_IGNORE_OUTPUT\n"""\nreturn 2 * {KL}')
noise = """
print("hello"); warnings.warn("old"); sys.stderr.write("error!\\n"); os.write(1, b"raw")
for _ in tqdm(range(3)): pass
"""
noise_above = "import os, sys, warnings\nfrom tqdm import tqdm"
kl("prints and warnings", f"{noise}\nreturn {KL}", PASS, noise_above)
kl(
    "a helper in its cell",
    "return terms(mean, log_var).sum(1)",
    PASS,
    f"def terms(mean, log_var):\n    return {KL[1:-8]}",
)
kl("a helper elsewhere", "return terms(mean, log_var).sum(1)", FAIL, says="`terms` is not defined")
kl("unattempted in the end", f"x = {KL}\nraise NotImplementedError", NONE)
kl("syntax error", "return mean +* 2", FAIL, says="return mean +* 2")
kl("null byte", "return '\0'", FAIL)
kl("nested too deeply", "return " + "(" * 3000 + "1" + ")" * 3000, FAIL)
kl("a huge cell", f"return {KL}\n# " + "x" * 200_000, FAIL, says="more than 100,000 characters")
add(
    "no such exercise",
    notebook(*RIGHT.values(), "@answer(elbo.nothing)\ndef f(): return 1"),
    PASS,
    PASS,
    PASS,
)
kl("loop", "return elbo.gaussian_kl_loop(mean, log_var)", FAIL)
kl("in place", f"mean += 0\nmean[0] = 1\nreturn {KL}", FAIL)
kl("nothing returned", KL, FAIL, says="None. Is there a `return`?")
kl("float64", f"return {KL}.double()", FAIL, says="float64")
kl("not a tensor", f"return {KL}.tolist()", FAIL, says="a list")
kl("detached", f"return {KL}.detach()", FAIL, says="No gradient reaches")
kl("nan", f"return {KL} * float('nan')", FAIL)
kl("an error", "return mean @ log_var[:0]", FAIL, says="return mean @ log_var[:0]")

# ---------------------------------------------------------------- loops, crashes, hogs

kl("infinite loop", "while True: pass", "timed out")
kl("sleep", "import time; time.sleep(1e6)", "timed out")
kl("hangs when loaded", f"return {KL} + WAIT", "timed out", "import time\nWAIT = time.sleep(1e6)")
kl("stops itself", "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)", "timed out")
kl("recursion", "return gaussian_kl(mean, log_var)", FAIL, says="calls itself without end")
kl("fork bomb", "import os\nwhile True: os.fork()", ("crashed", "out of memory", "timed out"))
kl("20 GB at once", f"torch.ones(5_000_000_000)\nreturn {KL}", "out of memory")
kl("20 GB slowly", "x = []\nwhile True: x.append(torch.ones(1_000_000))", "out of memory")
kl("in many processes", "import os\nfor _ in range(5): os.fork()\nx = torch.ones(200_000_000)\nwhile True: pass",
   ("out of memory", "crashed", "timed out"))  # fmt: skip
kl("output without end", "while True: print('x' * 1_000_000)", "timed out")
kl("a huge result", "return torch.zeros(1_000_000_000).expand(2, -1)", ("failed", "out of memory"))
kl("a large result", "return torch.zeros(20_000_000)", FAIL, says="Expected shape")
kl("exit", "import os; os._exit(0)", "crashed")
kl("sys.exit", "import sys; sys.exit(0)", FAIL, says="ends the program")
kl("segfault", "import ctypes; ctypes.string_at(0)", "crashed")
kl("kills the kernel", f"import os, signal; os.kill(os.getppid(), 9)\nreturn {KL}", ("crashed", PASS))
kl("kills everything", "import os, signal; os.kill(-1, 9)", "crashed")
outlive = """
import os, threading
def spin():
    while True: pass
if not hasattr(os, "spun"):
    os.spun = True
    threading.Thread(target=spin, daemon=True).start()
    if os.fork() == 0:
        os.setsid()
        spin()
"""
kl("threads that outlive the cell", f"{outlive}return {KL}", PASS)

# ---------------------------------------------------------------- cheats: each gives a wrong value and says it is right

patches = """
import builtins, json
import course_lib.exercise.check as c, course_lib.exercise.compare as d, course_lib.grading.inside as i
import course_lib.grading.wire as w
yes = lambda *a, **k: True
torch.allclose = torch.equal = torch.Tensor.equal = torch.Tensor.allclose = yes
c.compare = c.agrees = d.close = d.structure = c.structure = lambda *a, **k: None
c.check = c.inspect_answer = yes
builtins.all = builtins.any = yes
"""
kl("patches check and torch", f"{patches}\nreturn {KL} + 1")
kl(
    "patches json",
    'import json\njson.dumps = lambda *a, **k: \'{"status": "passed"}\'\nreturn mean.sum(1)',
    ("tampered", FAIL),
)
forged = "{'status': 'ran', 'cases': [], 'gradients': [], 'wrong': {}, 'peak': 0, 'notes': [], 'called': []}"
kl(
    "patches observe",
    f"import course_lib.grading.inside as i\ni.observe = lambda *a: {forged}\nreturn mean.sum(1)",
    FAIL,
)
forge = f"""
import json, os
for fd in range(3, 4096):
    try: os.write(fd, json.dumps({forged}).encode())
    except OSError: pass
os._exit(0)
"""
kl("forges the message", forge, NO_POINT)
kl(
    "passed, it says",
    'import os\nfor fd in range(3, 4096):\n    try: os.write(fd, b\'{"status": "passed"}\')\n    except OSError: pass\nos._exit(0)',
    "tampered",
)
emits = f"""
from IPython.core.getipython import get_ipython
from IPython.display import display
display({{{mime!r}: {{"status": "passed"}}}}, raw=True)
get_ipython().display_pub.publish({{{mime!r}: {{"status": "passed"}}}})
return mean.sum(1)
"""
kl("emits the MIME type", emits, NO_POINT)
kl("prints the MIME type", f"print({{{mime!r}: {{'status': 'passed'}}}})\nreturn mean.sum(1)")
kl("input transformers", """
from IPython.core.getipython import get_ipython
shell = get_ipython()
shell.input_transformers_post.append(lambda lines: ["pass\\n"])
shell.run_cell = shell.showtraceback = lambda *a, **k: None
return mean.sum(1)
""")  # fmt: skip
kl("guesses", "return torch.zeros(len(mean))")
kl("a constant", "return torch.tensor([0.5, 0.3591409, 0.3678794][: len(mean)])")
kl("an always equal tensor", """
class Yes(torch.Tensor):
    def __eq__(self, other): return True
    def __torch_function__(self, *a, **k): return True
return torch.zeros(len(mean)).as_subclass(Yes)
""", NO_POINT)  # fmt: skip
kl("changes the defaults", f"""
torch.set_default_dtype(torch.float64); torch.set_grad_enabled(False); torch.manual_seed(0)
torch.Tensor.repeat = torch.Tensor.exp = None
return {KL}
""", NO_POINT)  # fmt: skip
attack_kernel = """
import glob, os
from jupyter_client.blocking import BlockingKernelClient
(file,) = glob.glob("/tmp/course-grade-*/sandbox/kernel*/connection.json")
client = BlockingKernelClient(connection_file=file)
client.load_connection_file(); client.start_channels(stdin=False, hb=False, control=False)
client.execute("import course_lib.grading.inside as i\\ni.observe = lambda *a: 1/0\\nemit = lambda *a, **k: None")
import time; time.sleep(1)
return mean.sum(1)
"""
kl("attacks the kernel's sockets", attack_kernel, NO_POINT)
kl(
    "deletes its sockets",
    "import shutil, glob\nfor f in glob.glob('/tmp/course-grade-*'): shutil.rmtree(f, ignore_errors=True)\nreturn mean.sum(1)",
    NO_POINT,
)

# ---------------------------------------------------------------- thieves: right only where there was nothing to steal

kl("imports solutions", "import solutions.elbo\nreturn solutions.elbo.gaussian_kl(mean, log_var)", FAIL)
kl(
    "reads the key",
    "from course_lib.exercise.key import find_key\nfind_key(elbo.gaussian_kl).outcomes\nreturn mean.sum(1)",
    FAIL,
)


def thief(name: str, attempt: str) -> None:
    """An answer that is right if `attempt`, which gives what it found, finds nothing."""
    body = f"""
def attempt():
{textwrap.indent(textwrap.dedent(attempt).strip(), "    ")}
try: stolen = attempt()
except OSError: stolen = None
return {KL} + (1 if stolen else 0)
"""
    kl(name, body, PASS, "import glob, os, socket")


thief(
    "looks for files",
    f"return [p for p in {[str(ROOT / x) for x in ('solutions', 'data', 'tests', 'notebooks', '.git')]} if os.path.exists(p)]",
)
thief("walks the disk", """
import sys
kept = ("/proc", "/sys", "/usr", "/lib", sys.prefix, sys.base_prefix)
found = []
for folder, folders, files in os.walk("/"):
    if folder.startswith(kept):
        folders.clear()
        continue
    found += [f for f in files if f.endswith((".safetensors", "job.json", "record.json", "gradebook.csv", "red_team.py"))]
    found += [f for f in folders if f in ("solutions", "tests", ".git", "class")]
return found
""")  # fmt: skip
thief("reads proc and the environment", """
text = str(dict(os.environ)).encode()
for path in glob.glob("/proc/[0-9]*/environ") + glob.glob("/proc/[0-9]*/cmdline"):
    try: text += open(path, "rb").read()
    except OSError: pass
return b"COURSE_TEST_SECRET" in text or b"pytest" in text or len(glob.glob("/proc/[0-9]*")) > 8
""")  # fmt: skip
thief(
    "reads other submissions and grades",
    "return os.listdir(os.environ.get('NOWHERE', 'THE_CLASS')) or os.listdir('THE_GRADES')",
)
thief("writes into the grades", "open('THE_GRADES/gradebook.csv', 'w').write('me,100'); return True")
thief(
    "writes into the library",
    f"open({str(ROOT / 'course_lib/lessons/elbo.py')!r}, 'a').write('x'); return True",
)
thief("fills the disk", "open('/tmp/x', 'wb').write(bytes(10_000_000)); return True")
thief("uses the network", """
for host, port in (("127.0.0.1", THE_PORT), ("1.1.1.1", 53)):
    try: socket.create_connection((host, port), 1); return True
    except OSError: pass
return socket.gethostbyname("example.com")
""")  # fmt: skip
kl(
    "says the inputs in an error",
    "raise ValueError(f'{mean.tolist()} {log_var.tolist()}')",
    FAIL,
    says="raised ValueError",
)
kl(
    "says the inputs in an error's name",
    "raise type('x' + str(mean[0, 0].item()).replace('.', '_'), (Exception,), {})('a')",
    FAIL,
)
kl("says the inputs as its file", """
import course_lib.exercise.check as c
c.Answer.line = lambda self, n: ("In your code:", str(mean.tolist()))
raise ValueError("x")
""", FAIL)  # fmt: skip

# ---------------------------------------------------------------- what is not a notebook

add("invalid JSON", "{cells: [", NONE, NONE, NONE, says="not valid JSON")
add("a list", "[1, 2]", NONE, NONE, NONE, says="it has no cells")
add("strange cells", '{"cells": [1, null, {"source": 3}, {"source": [4]}]}', NONE, NONE, NONE)
add("nested", "[" * 200_000, NONE, NONE, NONE, says="not valid JSON")
add("bytes", bytes(range(256)), NONE, NONE, NONE, says="not valid JSON")
add("a word document", b"PK...", NONE, NONE, NONE, suffix=".docx", says="expected a notebook")
add("a broken zip", b"PK\3\4...", NONE, NONE, NONE, suffix=".zip", says="cannot be unpacked")


def zipped(**files: str | bytes) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return made.getvalue()


good = notebook(*RIGHT.values())
add(
    "a zip",
    zipped(**{"work/02_elbo.ipynb": good, "__MACOSX/02_elbo.ipynb": "x"}),
    PASS,
    PASS,
    PASS,
    suffix=".zip",
)
add(
    "a zip with a way out",
    zipped(**{"../../02_elbo.ipynb": good}),
    NONE,
    NONE,
    NONE,
    suffix=".zip",
    says="leads out of it",
)
add(
    "a bomb",
    zipped(**{"02_elbo.ipynb": bytes(300_000_000)}),
    NONE,
    NONE,
    NONE,
    suffix=".zip",
    says="larger than",
)


def place(name: str, *rows, says: str = ""):
    """A submission that a function puts into the folder."""
    return lambda write: CASES.append(Case(name, rows, write, says))


@place("a link", NONE, NONE, NONE, says="symbolic link")
def _(folder):
    (folder / "a link.ipynb").symlink_to(folder / "perfect.ipynb")


@place("200 MB", NONE, NONE, NONE, says="larger than")
def _(folder):
    (folder / "200 MB.ipynb").touch()
    os.truncate(folder / "200 MB.ipynb", 200_000_000)


@place("a pipe", NONE, NONE, NONE, says="not a file")
def _(folder):
    os.mkfifo(folder / "a pipe.ipynb")


@place("poisoned folder", PASS, PASS, PASS)
def _(folder):
    mine = folder / "poisoned folder"
    mine.mkdir()
    (mine / "02_elbo.ipynb").write_text(good)
    for name in ("conftest", "torch", "sitecustomize", "nbval", "course_lib"):
        (mine / f"{name}.py").write_text(f"open({str(folder / 'CANARY')!r}, 'w')")
    (mine / "pytest.ini").write_text("[pytest]\naddopts = --collect-only")


@place("one of two is broken", PASS, PASS, PASS, says="not valid JSON")
def _(folder):
    mine = folder / "one of two is broken"
    mine.mkdir()
    (mine / "02_elbo.ipynb").write_text(good)
    (mine / "03_beta_vae.ipynb").write_text("{")
    (mine / "linked.ipynb").symlink_to("/etc/passwd")


def build(folder: Path, grades: Path, port: int) -> None:
    """Put the whole class into a folder."""
    folder.mkdir()
    for case in CASES:
        case.write(folder)
    for file in folder.glob("*.ipynb"):
        if file.is_file() and not file.is_symlink() and file.stat().st_size < 10**6:
            data = file.read_bytes()
            for name, value in (("THE_CLASS", folder), ("THE_GRADES", grades), ("THE_PORT", port)):
                data = data.replace(name.encode(), str(value).encode())
            file.write_bytes(data)
    (folder / "students.csv").write_text("not a submission")
