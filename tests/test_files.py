"""A file is replaced as a whole or not at all."""

import pytest

from course_lib.files import data_folder, read_table, replace, write_table


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
