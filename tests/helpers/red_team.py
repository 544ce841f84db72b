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
kl("loop", "return elbo.gaussian_kl_loop(mean, log_var)", FAIL, says="the plain loop that is given")
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
kl("fork bomb", "import os\nwhile True: os.fork()", NO_POINT)
kl("20 GB at once", f"torch.ones(5_000_000_000)\nreturn {KL}", "out of memory")
kl("20 GB slowly", "x = []\nwhile True: x.append(torch.ones(1_000_000))", "out of memory")
kl("in many processes", "import os\nfor _ in range(5): os.fork()\nx = torch.ones(200_000_000)\nwhile True: pass",
   NO_POINT)  # fmt: skip
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
forged = "{'status': 'ran', 'cases': [], 'gradients': [], 'programs': [], 'wrong': {}, 'peak': 0, 'notes': [], 'called': []}"
kl(
    "patches observe",
    f"import sys\nsys.modules['__main__'].observe = lambda *a: {forged}\nsys.modules['__main__'].check = lambda *a: {forged}\n"
    "return mean.sum(1)",
    NO_POINT,
)
forge = f"""
import json, os
for fd in range(3, 128):
    try: os.write(fd, json.dumps({{'found': {forged}}}).encode() + b"\\n")
    except OSError: pass
os._exit(0)
"""
kl("forges the message", forge, NO_POINT)
for name, words in (
    ("passed, it says", '{"status": "passed"}'),
    ("a number, it says", "1"),
    ("deep, it says", ""),
):
    said = f"b'{{\"found\": {words}}}\\n'" if words else "b'{\"found\": ' + b'[' * 100_000 + b'\\n'"
    body = f"import os\nfor fd in range(3, 128):\n    try: os.write(fd, {said})\n    except OSError: pass\nos._exit(0)"
    kl(name, body, "tampered")
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
stop = "import os, signal, time\nos.kill(os.getppid(), signal.SIGSTOP)\n"
kl("stops what watches, then hangs", f"{stop}while True: time.sleep(1)", "timed out")
kl(
    "stops what watches, then takes memory",
    f"{stop}x = []\nwhile True: x.append(torch.ones(1_000_000))",
    ("out of memory", "timed out"),
)
kl("memory that is shared", """
import mmap, os, time
for _ in range(6):
    if os.fork() == 0:
        x = mmap.mmap(-1, 500_000_000)
        for _ in range(500): x.write(bytes(1_000_000))
        time.sleep(60)
time.sleep(60)
""", "out of memory")  # fmt: skip
kl(
    "many threads",
    f"import threading, time\nfor _ in range(2000): threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\nreturn {KL}",
    NO_POINT,
)
kl("hangs in the backward pass", f"""
class Slow(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x): return x.clone()
    @staticmethod
    def backward(ctx, g):
        while True: pass
return Slow.apply({KL})
""", "timed out")  # fmt: skip
kl("no memory, many elements", "return torch.zeros(1).expand(10**15)", FAIL, says="Expected shape")
kl("patches the recorder", """
import course_lib.grading.tracing as t, course_lib.grading.wire as w
t.Recorder.number = lambda *a: 0
t.Recorder.__torch_dispatch__ = lambda self, func, types, args=(), kwargs=None: func(*args, **(kwargs or {}))
return mean.sum(1)
""", NO_POINT)  # fmt: skip
kl(
    "solutions in force",
    "import os\nos.environ['COURSE_ANSWERS'] = 'solutions'\nreturn elbo.gaussian_kl(mean, log_var)",
    NO_POINT,
)

# ---------------------------------------------------------------- cheats: the right value where it runs, without the formula

numbers = "[sum(0.5 * (m * m + math.exp(v) - v - 1) for m, v in zip(a, b)) for a, b in zip(mean.tolist(), log_var.tolist())]"
differences = f"""
def loop(mean, log_var):
    mean, log_var = mean.double(), log_var.double()
    return torch.tensor({numbers}, dtype=torch.float64)

class Numbers(torch.autograd.Function):
    @staticmethod
    def forward(ctx, mean, log_var):
        ctx.save_for_backward(mean, log_var)
        return loop(mean, log_var).float()

    @staticmethod
    def backward(ctx, g):
        mean, log_var = (x.double() for x in ctx.saved_tensors)
        found = []
        for x in (mean, log_var):
            d = torch.zeros_like(x)
            for i in range(x.shape[1]):
                e = torch.zeros_like(x)
                e[:, i] = 1e-5
                high = [loop(x + e, log_var) if x is mean else loop(mean, x + e)]
                low = [loop(x - e, log_var) if x is mean else loop(mean, x - e)]
                d[:, i] = (high[0] - low[0]) / 2e-5
            found.append((d * g[:, None]).float())
        return tuple(found)
"""
hidden_loop = "if mean.is_meta: return (mean + log_var).sum(1)\nreturn Numbers.apply(mean, log_var)"
kl(
    "the loop's numbers, differences as gradients",
    hidden_loop,
    FAIL,
    differences,
    says="do not follow from its inputs",
)
kl("NumPy where nobody looks", f"""
if mean.is_meta: return (mean + log_var).sum(1)
m, v = mean.detach().numpy(), log_var.detach().numpy()
return torch.from_numpy(0.5 * (m * m + np.exp(v) - v - 1).sum(1)) + 0 * {KL} if False else {KL} * 0 + torch.from_numpy(0.5 * (m * m + np.exp(v) - v - 1).sum(1))
""", FAIL, "import numpy as np")  # fmt: skip
rows = "torch.stack([(0.5 * (m.square() + v.exp() - v - 1)).sum() for m, v in zip(mean, log_var)])"
kl("a loop over the batch", f"return {rows}", FAIL, says="Python loop over the batch")
kl(
    "a loop over the batch where nobody looks",
    f"if mean.is_meta: return (mean + log_var).sum(1)\nreturn {rows}",
    FAIL,
    says="Python loop over the batch",
)
kl("right for few, made up for many", f"return {KL} if len(mean) < 20 else (mean + log_var).sum(1)", FAIL)
kl("a table of what it has seen", """
key = tuple(mean.flatten().tolist()) if not mean.is_meta else ()
return TABLE.setdefault(key, (0.5 * (mean.square() + log_var.exp() - log_var - 1).sum(1)).detach()) + 0 * mean.sum(1)
""", FAIL, "TABLE = {}")  # fmt: skip
kl("looks at addresses", f"return {KL} + (0 if mean.data_ptr() % 2 == 0 else 1)", (PASS, FAIL))
kl("a conjugated view", f"return torch.complex({KL}, torch.zeros_like(mean[:, 0])).conj().real", PASS)

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
thief("asks for the reference", """
import json
for name in ("elbo.gaussian_kl", "elbo.reparameterise", "elbo.traverse"):
    for step in ("shapes", "refer", "vjp"):
        question = {"step": step, "exercise": name, "inputs": {}, "tensors": [], "arguments": {"names": [], "numbers": {}}}
        os.write(4, json.dumps({"ask": question}).encode() + b"\\n")
        if os.read(3, 5)[:1] != b"a" or os.read(3, 1000) != b"null": return True
""")  # fmt: skip
thief("looks through its process", """
import gc, sys
found = [k for k in gc.get_objects() if type(k).__name__ in ("Key", "Test", "Solution") and getattr(k, "outcomes", 1)]
frame = sys._getframe()
while frame:
    found += [name for name in frame.f_locals if name in ("hidden", "outcomes", "solution", "expected")]
    frame = frame.f_back
return found
""")  # fmt: skip
thief("changes the machine", """
for path in glob.glob("/proc/sys/**", recursive=True):
    if os.path.isfile(path) and os.access(path, os.W_OK): return path
open("/proc/sys/kernel/hostname", "w").write("x")
return True
""")  # fmt: skip
thief("writes somewhere", """
import sys
for folder, folders, files in os.walk("/"):
    if folder.startswith(("/proc", "/sys", "/usr", sys.prefix, sys.base_prefix)): folders.clear()
    elif os.access(folder, os.W_OK): return folder
    for name in files:
        path = os.path.join(folder, name)
        if not folder.startswith(("/proc", "/dev")) and os.access(path, os.W_OK): return path
os.mkdir("/tmp/x")
return True
""")  # fmt: skip
thief(
    "changes rights",
    "os.chmod('/tmp', 0o777); os.symlink('/', '/tmp/x'); os.rename('/tmp', '/other'); return True",
)
thief("reads the memory of what started it", """
for pid in (os.getppid(), 1):
    for what, how in (("mem", "r+b"), ("fd/0", "rb"), ("fd/3", "rb"), ("environ", "rb"), ("maps", "rb")):
        try:
            if open(f"/proc/{pid}/{what}", how, 0).read(100) and what != "environ": return True
        except OSError: pass
return os.listdir(f"/proc/{os.getppid()}/fd")
""")  # fmt: skip
thief("calls the system", """
import ctypes, platform
libc = ctypes.CDLL(None, use_errno=True)
if libc.unshare(0x10000000) == 0 or libc.unshare(0x00020000) == 0: return "a namespace"
if libc.shmget(0, 1 << 20, 0o1600) != -1: return "memory that outlives it"
if libc.memfd_create(b"x", 0) != -1: return "a file in memory"
if libc.ptrace(16, os.getppid(), 0, 0) == 0: return "another process"
if libc.mount(b"x", b"/tmp", b"tmpfs", 0, None) == 0: return "a mount"
for family in (socket.AF_UNIX, socket.AF_INET, 40, 16, 17):
    try: socket.socket(family, socket.SOCK_DGRAM if family > 10 else socket.SOCK_STREAM).close(); return family
    except OSError: pass
if os.getuid() == 0 or os.geteuid() == 0: return "root"
try: os.setuid(0); return "root"
except OSError: pass
return open("/proc/self/status").read().count("Seccomp:\\t2") != 1 and platform.machine() in ("x86_64", "aarch64")
""")  # fmt: skip
thief("a program of its own", """
import sys
sys.modules["__main__"].Recorder.emit.__globals__["FREE"] = ()
return os.path.exists("/proc/self/exe") and any("solutions" in name for name in sys.modules)
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
