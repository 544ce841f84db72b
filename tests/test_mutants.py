"""No check takes a mutant of its solution for right, and the tool that makes the mutants finds what it should."""

from __future__ import annotations

import pytest

from course_lib.catalogue import find
from course_lib.exercise.answers import find_solution
from course_lib.exercise.check import inspect_answer
from tests import mutants
from tests.helpers.cells import EXERCISES
from tests.mutants import Mutant, listed, passes, survivors

EQUIVALENT = listed("equivalent_mutants.toml")  # compute the same, with the reason
SURVIVING = listed("surviving_mutants.toml")  # are wrong and pass: this list must shrink


@pytest.mark.slow  # all of them together
@pytest.mark.parametrize("ex", EXERCISES, ids=lambda ex: ex.id)
def test_every_mutant_is_rejected_or_equivalent(ex, on_solutions):
    assert inspect_answer(ex).passed, "the solution itself is rejected"
    found, count = survivors(ex)
    known = EQUIVALENT.get(ex.id, {}) | SURVIVING.get(ex.id, {})
    assert count >= 3
    assert not [name for name in found if name not in known], "these are wrong, and pass"
    assert not known.keys() - set(found), "listed, but rejected or no mutant any more: take them off the list"


def test_the_lists_are_of_exercises_and_give_reasons():
    assert not (EQUIVALENT.keys() | SURVIVING.keys()) - {ex.id for ex in EXERCISES}
    assert all(len(reason) > 12 for reasons in EQUIVALENT.values() for reason in reasons.values())
    for name, entries in EQUIVALENT.items():
        assert not entries.keys() & SURVIVING.get(name, {}).keys()


# ---------------------------------------------------------------- the tool itself


def test_a_solution_has_the_mutants_that_one_would_write_by_hand():
    kl = {m.name for m in mutants.mutants(find("elbo.gaussian_kl"))}
    for wrong in (
        "0.5 * (mean.square() + log_var.exp() - log_var - 1).mean(1)",
        "0.5 * (mean.square() + log_var.exp() - log_var - 1).sum(0)",
        "0.5 * (mean.square() + log_var.exp() - log_var - 1).sum()",
        "0.5 * (mean.square() + log_var.exp() + log_var - 1).sum(1)",
        "0.5 * (mean.square() + log_var.exp() - 1).sum(1)",
        "0.5 * (mean + log_var.exp() - log_var - 1).sum(1)",
        "0.5 * (mean.square() + log_var.exp() - log_var - 2).sum(1)",
        "0.5 * (mean.detach().square() + log_var.exp() - log_var - 1).sum(1)",
        "(mean.square() + log_var.exp() - log_var - 1).sum(1)",
    ):
        assert f"return {wrong}" in kl
    assert "one at a time, joined: mean, log_var" in kl
    step = {m.name for m in mutants.mutants(find("adda.adda_step"))}
    assert "without: critic_optimiser.zero_grad()" in step
    assert "critic_loss.backward() before critic_optimiser.zero_grad()" in step
    assert "encoder_loss = lesson.inverted_label_loss(critic(target.detach()))" in step
    score = {m.name for m in mutants.mutants(find("factor_vae.factor_vae_score"))}
    assert "alive = global_variance > threshold" in score and "alive = global_variance >= 0.05" in score


def test_changes_that_change_nothing_are_not_made():
    kl = {m.name for m in mutants.mutants(find("elbo.gaussian_kl"))}
    assert not [name for name in kl if "sum(-1)" in name]  # axis 1 of two
    assert not [name for name in kl if ".detach().detach()" in name]
    total = {m.name for m in mutants.mutants(find("elbo.linear_gaussian_log_likelihood"))}
    assert not [name for name in total if "bias.detach())" in name or "x.detach().d" in name]  # only measured


def test_what_is_in_force_is_the_mutant_and_afterwards_the_solution(on_solutions):
    ex = find("elbo.gaussian_kl")
    right = find_solution(ex).function
    assert passes(ex, Mutant("itself", right))
    assert not passes(ex, Mutant("twice", lambda mean, log_var: 2 * right(mean, log_var)))
    assert find_solution(ex).function is right and inspect_answer(ex).passed
