"""Solutions of toy_lesson."""

import torch

from course_lib.exercise.solution import Case, solution
from tests.helpers import toy_lesson as lesson


@solution(lesson.step, hints=["zero_grad", "backward, then step"])
def step(model, optimiser, x, y):
    optimiser.zero_grad()
    loss = (model(x) - y).square().mean()
    loss.backward()
    optimiser.step()
    return loss


@step.cases
def _(g):
    yield Case(
        weight=torch.randn(3, 5, generator=g),
        x=torch.randn(4, 5, generator=g),
        y=torch.randn(4, 3, generator=g),
    )


@step.mistake("The gradients of the step before are still there.")
def no_zero_grad(model, optimiser, x, y):
    loss = (model(x) - y).square().mean()
    loss.backward()
    optimiser.step()
    return loss


@solution(lesson.shuffle, hints=["randperm", "x[torch.randperm(…)]"])
def shuffle(x, generator):
    return x[torch.randperm(len(x), generator=generator, device=generator.device).to(x.device)]


@shuffle.cases
def _(g):
    yield Case(x=torch.randn(30, generator=g))


@shuffle.mistake("You turned the order round: that is no chance.")
def flipped(x, generator):
    return x.flip(0)


@solution(lesson.distances, hints=["‖x − y‖² = ‖x‖² − 2 x·y + ‖y‖²", "Use x @ y.T."])
def distances(x, y):
    return x.square().sum(1)[:, None] - 2 * x @ y.T + y.square().sum(1)


@distances.cases
def _(g):
    yield Case(x=torch.tensor([[1.0, 0.0], [2.0, 1.0], [0.0, 0.0]]), y=torch.tensor([[1.0, 1.0], [0.0, 0.5]]))


@distances.mistake("The square root is one step too many.")
def rooted(x, y):
    return torch.cdist(x, y)
