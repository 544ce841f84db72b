"""A file is replaced as a whole or not at all."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from course_lib.files import add_rows, claim, data_folder, read_table, replace, write_table


def test_the_data_folder_holds_the_keys():
    assert (data_folder() / "answer_keys" / "elbo.safetensors").is_file()


@pytest.mark.parametrize("content", ["ä\n", "ä\n".encode(), lambda draft: draft.write_bytes("ä\n".encode())])
def test_text_bytes_and_writers(tmp_path, content):
    path = tmp_path / "new" / "file.txt"
    replace(path, content)
    replace(path, content)
    assert path.read_bytes() == "ä\n".encode() and [*path.parent.iterdir()] == [path]


def test_a_write_that_fails_leaves_the_old_file_and_no_draft(tmp_path):
    path = tmp_path / "file.txt"
    replace(path, "old")

    def half(draft):
        draft.write_text("ne")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replace(path, half)
    assert path.read_text() == "old" and [*tmp_path.iterdir()] == [path]


def test_others_may_read_what_a_writer_made_for_itself(tmp_path):
    path = tmp_path / "file.txt"

    def private(draft):
        draft.write_text("x")
        draft.chmod(0o600)

    replace(path, "x")
    usual = path.stat().st_mode
    replace(path, private)
    assert path.stat().st_mode == usual


def test_a_table_is_read_as_it_was_written(tmp_path):
    path = tmp_path / "new" / "table.csv"
    assert read_table(path, ("name",)) == []
    rows = [{"name": "a, 1", "steps": 12345, "score": 0.123456789}, {"name": "2", "steps": 1}]
    write_table(path, rows, ("name", "steps", "score"), digits=4)
    assert path.read_bytes() == b'name,steps,score\n"a, 1",12345,0.1235\n2,1,\n'
    found = read_table(path, ("name",))
    assert found == [{"name": "a, 1", "steps": 12345.0, "score": 0.1235}, {"name": "2", "steps": 1.0}]
    write_table(path, found, list(found[0]), digits=4)  # whole numbers stay whole
    assert read_table(path, ("name",)) == found


def test_rows_find_their_place_and_a_run_is_there_once(tmp_path):
    path = tmp_path / "new" / "table.csv"

    def add(*rows):
        add_rows(path, list(rows), ("name",), lambda row: row["name"], ("seed", "name"), digits=4)

    add({"name": "b", "seed": 1, "score": 0.123456}, {"name": "b", "seed": 2, "score": 0.5})
    add({"name": "a", "seed": 3, "more": 7})
    assert path.read_text() == "seed,name,more,score\n3,a,7,\n1,b,,0.1235\n2,b,,0.5\n"
    add({"name": "b", "seed": 4})  # one row instead of the run's two
    assert path.read_text() == "seed,name,more\n3,a,7\n4,b,\n"


def test_rows_that_many_write_at_once_are_all_there(tmp_path):
    path = tmp_path / "table.csv"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: add_rows(path, [{"run": i}], (), lambda row: row["run"]), range(40)))
    assert [row["run"] for row in read_table(path, ())] == [*range(40)]


def test_a_lock_keeps_others_out_until_it_is_given_back(tmp_path):
    lock = tmp_path / "new" / "x.lock"
    with claim(lock) as first, claim(lock) as second:
        assert first and not second
    with claim(lock) as third:
        assert third


def test_files_are_there_without_locks(tmp_path):
    """As on Windows, which has no fcntl."""
    code = (
        "import sys; sys.modules['fcntl'] = None\n"
        "from course_lib.experiments import pretraining\n"
        "from course_lib.files import claim\n"
        f"with claim(__import__('pathlib').Path({str(tmp_path / 'x.lock')!r})) as free: print(free)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True"]
