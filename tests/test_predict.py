"""Predictions: asked before a result, shown beside it, kept whatever happens, counted, never graded."""

from __future__ import annotations

import importlib
import json

import pytest
import torch

from course_lib import download_answers, predict, progress, upload_answers
from course_lib.exercise import answers
from tests.helpers import ROOT, run_in

module = importlib.import_module("course_lib.exercise.predict")  # the function has its name
RISES = "Does the accuracy rise?"
NATS = "How many nats?"


@pytest.fixture
def record(folder):
    """Reads answers/predictions.json, {} where there is none."""
    file = folder / "predictions.json"
    return lambda: json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


@pytest.fixture
def shown(monkeypatch):
    """A notebook, as far as `predict` can tell: the forms that it displays, and the widget among them."""
    found, widget, made = [], module._live, {}

    def live(asked):
        box = widget(asked)
        made[box.model_id] = box
        return box

    def display(forms, raw):
        view = forms["application/vnd.jupyter.widget-view+json"]
        found.append(forms | {"live": made[view["model_id"]]})

    monkeypatch.setattr("IPython.get_ipython", lambda: "a kernel")
    monkeypatch.setattr("IPython.display.display", display)
    monkeypatch.setattr(module, "_live", live)
    return found


# ------------------------------------------------------------------ question, prediction, result


def test_a_prediction_stands_beside_the_result_with_a_sentence_why(record):
    guess = predict(RISES, choices=["yes", "no"])
    guess.record("yes")
    panel = guess.compare("no", "It fell from 0.96 to 0.43.")
    assert repr(panel) == "Predicted: yes\nThe result: no\nIt fell from 0.96 to 0.43."
    markup = panel._repr_html_()
    assert all(
        words in markup for words in ("Predicted:", "yes", "The result:", "It fell from 0.96 to 0.43.")
    )
    assert record() == {RISES: {"before": ["yes"], "after": [], "shown": True}}


@pytest.mark.parametrize(
    ("made", "result", "said"),
    [
        ("0.5", 0.123456, ("0.5 nats", "0.123 nats")),
        (" 1,5 ", torch.tensor(668.3), ("1.5 nats", "668 nats")),
        ("−2", 4096, ("-2 nats", "4,096 nats")),
        (3, torch.tensor(4), ("3 nats", "4 nats")),
    ],
)
def test_numbers_are_shown_with_their_unit(folder, made, result, said):
    guess = predict(NATS, unit="nats")
    guess.record(made)
    assert repr(guess.compare(result)) == f"Predicted: {said[0]}\nThe result: {said[1]}"


def test_without_a_prediction_the_result_is_shown_all_the_same(record):
    panel = predict(RISES, choices=["yes", "no"]).compare("no", "Because.")
    assert repr(panel) == "Predicted: no prediction was made\nThe result: no\nBecause."
    assert record()[RISES]["shown"] is True


def test_the_last_prediction_before_the_result_counts_and_none_is_lost(record):
    guess = predict(RISES, choices=["yes", "no"])
    for answer in ("yes", "yes", "no"):
        guess.record(answer)
    guess.compare("no")
    predict(RISES, choices=["yes", "no"]).record("yes")  # the cell was run once more, after the result
    assert record() == {RISES: {"before": ["yes", "no"], "after": ["yes"], "shown": True}}
    assert "Predicted: no\n" in repr(guess.compare("no"))


def test_a_prediction_after_the_result_is_called_that(folder):
    guess = predict(RISES, choices=["yes", "no"])
    guess.compare("no")
    guess.record("no")
    assert "Predicted: no (after the result was shown)\n" in repr(guess.compare("no"))
    assert " 0 predictions," in repr(progress())


def test_another_kernel_finds_it_again(folder, capsys):
    predict(RISES, choices=["yes", "no"]).record("yes")
    again = predict(RISES, choices=["yes", "no"])
    assert "Predicted: yes" in capsys.readouterr().out
    assert "Predicted: yes\n" in repr(again.compare("no"))


def test_two_questions_do_not_disturb_each_other(record):
    first, second = predict(RISES, choices=["yes", "no"]), predict(NATS, unit="nats")
    second.record(2)
    first.record("no")
    first.compare("no")
    assert record() == {
        NATS: {"before": [2.0], "after": [], "shown": False},
        RISES: {"before": ["no"], "after": [], "shown": True},
    }
    assert " 2 predictions," in repr(progress())


# ------------------------------------------------------------------ what is not accepted


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"question": " "}, "expected a question in words"),
        ({"choices": ["one"]}, "at least two choices, all different; got \\['one'\\]"),
        ({"choices": ["a", "a"]}, "all different"),
        ({"choices": "ab"}, "all different; got 'ab'"),
        ({"choices": ["a", "b"], "unit": "nats"}, "choices, or the unit of a number, not both"),
    ],
)
def test_a_question_that_cannot_be_answered_is_refused(folder, options, words):
    with pytest.raises(ValueError, match=words):
        predict(**({"question": NATS} | options))


@pytest.mark.parametrize("answer", ["maybe", "", None, 1])
def test_what_is_no_choice_is_refused(record, answer):
    guess = predict(RISES, choices=["yes", "no"])
    with pytest.raises(ValueError, match="Expected one of yes, no; got"):
        guess.record(answer)
    with pytest.raises(ValueError, match="Expected one of yes, no; got"):
        guess.compare(answer)
    assert record() == {}


@pytest.mark.parametrize("answer", ["many", "", "nan", "inf", float("nan"), None])
def test_what_is_no_number_is_refused(record, answer):
    with pytest.raises(ValueError, match=r"Expected a number, such as 0\.5; got"):
        predict(NATS).record(answer)
    assert record() == {}


# ------------------------------------------------------------------ the widget


def test_a_choice_is_a_button_each_and_the_pressed_one_is_recorded(shown, record):
    predict(RISES, choices=["yes", "no"])
    question, controls, status = shown[0]["live"].children
    assert RISES in question.value and 'role="status"' in status.value
    assert [b.description for b in controls.children] == ["yes", "no"]
    assert [b.tooltip for b in controls.children] == ["Predict: yes", "Predict: no"]
    controls.children[1].click()
    assert record()[RISES]["before"] == ["no"] and "Recorded: no" in status.value
    assert [b.icon for b in controls.children] == ["", "check"]
    controls.children[0].click()
    assert record()[RISES]["before"] == ["no", "yes"] and "Recorded: yes" in status.value
    assert [b.icon for b in controls.children] == ["check", ""]


def test_a_number_is_recorded_when_it_is_entered(shown, record):
    predict(NATS, unit="nats")
    _, field, status = shown[0]["live"].children
    assert field.description == "Your number (nats)" and not field.continuous_update
    field.value = "0.5"
    assert record()[NATS]["before"] == [0.5] and "Recorded: 0.5 nats" in status.value
    field.value = "<much>"
    assert "Expected a number" in status.value and "&lt;much&gt;" in status.value
    field.value = "0,7"
    assert record()[NATS]["before"] == [0.5, 0.7] and "Recorded: 0.7 nats" in status.value
    predict(NATS, unit="nats")
    assert shown[1]["live"].children[1].value == "0.7"


def test_the_widget_shows_what_was_recorded_before(shown, folder):
    predict(RISES, choices=["yes", "no"]).record("no")
    predict(RISES, choices=["yes", "no"])
    _, controls, status = shown[1]["live"].children
    assert "Recorded: no" in status.value and [b.icon for b in controls.children] == ["", "check"]


def test_one_choice_may_begin_as_another(shown, folder):
    predict("Which?", choices=["VAE", "VAE of sprites"]).record("VAE of sprites")
    predict("Which?", choices=["VAE", "VAE of sprites"])
    assert [b.icon for b in shown[1]["live"].children[1].children] == ["", "check"]


def test_where_nothing_is_live_the_question_can_be_read(shown, folder):
    predict("Is 1 < 2?", choices=["yes", "no"])
    assert shown[0]["text/plain"] == "Predict: Is 1 < 2? (yes / no)"
    assert "Is 1 &lt; 2?" in shown[0]["text/html"] and "yes / no" in shown[0]["text/html"]
    predict(NATS, unit="nats")
    assert shown[1]["text/plain"] == f"Predict: {NATS} (a number, in nats)"


# ------------------------------------------------------------------ no notebook, no folder, no student


def test_plain_python_prints_the_question(tmp_path):
    script = """
from course_lib import predict
guess = predict("Which?", choices=["a", "b"])
guess.record("a")
print(repr(guess.compare("b", "Because.")))
"""
    said = run_in(ROOT, script, tmp_path)
    assert said == "Predict: Which? (a / b)\nPredicted: a\nThe result: b\nBecause.\n"
    assert json.loads((tmp_path / "answers/predictions.json").read_text())["Which?"]["before"] == ["a"]


def test_a_record_that_cannot_be_written_loses_nothing_in_this_kernel(shown, folder):
    folder.parent.mkdir(exist_ok=True)
    folder.write_text("a file where the folder should be")
    guess = predict(RISES, choices=["yes", "no"])
    _, controls, status = shown[0]["live"].children
    controls.children[0].click()
    assert "cannot be written" in status.value
    assert "Predicted: yes\n" in repr(guess.compare("no"))


@pytest.mark.parametrize("content", ["{", "[]", '{"Does the accuracy rise?": 3}', "\x00"])
def test_a_damaged_record_is_kept_aside(folder, record, content):
    folder.mkdir()
    (folder / "predictions.json").write_text(content)
    predict(RISES, choices=["yes", "no"]).record("yes")
    assert record()[RISES]["before"] == ["yes"]
    assert (folder / "predictions.damaged.json").read_text() == content


def test_an_entry_that_was_spoiled_by_hand_is_made_anew(folder, record):
    folder.mkdir()
    spoiled = {RISES: {"before": "yes", "shown": 1}, NATS: {"before": [2.0]}}
    (folder / "predictions.json").write_text(json.dumps(spoiled))
    guess = predict(RISES, choices=["yes", "no"])
    guess.record("no")
    assert record() == {RISES: {"before": ["no"], "after": [], "shown": False}, NATS: {"before": [2.0]}}


def test_with_the_solutions_in_force_nothing_is_kept(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_ANSWERS", "solutions")
    monkeypatch.setattr(answers, "_HOME", tmp_path / "home")
    (tmp_path / "home/answers").mkdir(parents=True)
    file = tmp_path / "home/answers/predictions.json"
    file.write_text(json.dumps({RISES: {"before": ["yes"]}}))
    before = file.read_bytes()
    assert "no prediction was made" in repr(predict(RISES, choices=["yes", "no"]).compare("no"))
    guess = predict(RISES, choices=["yes", "no"])
    guess.record("no")
    assert "Predicted: no\n" in repr(guess.compare("no")) and file.read_bytes() == before


# ------------------------------------------------------------------ taken along


def test_predictions_travel_with_the_answers_and_none_is_lost(tmp_path, monkeypatch):
    def session(name: str) -> None:
        (tmp_path / name).mkdir()
        monkeypatch.setattr(answers, "_HOME", tmp_path / name)
        monkeypatch.setenv("COURSE_ANSWERS", "answers")

    session("first")
    file = answers.answers_folder() / "elbo/gaussian_kl.py"
    file.parent.mkdir(parents=True)
    file.write_text("# an answer")
    predict(RISES, choices=["yes", "no"]).record("yes")
    predict(NATS).record(1)
    download_answers()
    session("second")
    guess = predict(RISES, choices=["yes", "no"])
    guess.record("no")
    guess.compare("no")
    upload_answers(tmp_path / "first/answers.zip")
    kept = json.loads((answers.answers_folder() / "predictions.json").read_text())
    assert kept[RISES] == {"before": ["yes", "no"], "after": [], "shown": True}
    assert kept[NATS] == {"before": [1.0], "after": [], "shown": False}
