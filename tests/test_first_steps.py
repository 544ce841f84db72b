"""The few things that everything else stands on."""

import torch

from course_lib.datasets.sprites import Sprites, render
from course_lib.exercise.answers import find_answers
from course_lib.exercise.device import DeviceWatch


def test_the_area_of_a_square_is_right():
    images = render(torch.tensor([[0.0, 1.0, 0.0, 0.5, 0.5]]), size=640)
    assert abs(images.sum().item() / 100 - 19.2**2) < 1


def test_an_image_does_not_depend_on_its_batch():
    sprites = Sprites()
    images, factors = sprites.sample(70, torch.Generator().manual_seed(0))
    single = torch.cat([sprites.images(f[None]) for f in factors])
    assert torch.equal(images, single)


def test_an_answer_brings_its_helpers_and_nothing_else():
    cell = (
        "import math\nx = 1\nprint(x)\n@answer(elbo.gaussian_kl)\ndef f(mean, log_var):\n    return math.pi\n"
    )
    ((name, text),) = find_answers(cell)
    assert name == "elbo.gaussian_kl"
    assert text.startswith("import math") and "print" not in text and "x = 1" not in text


def test_memory_is_counted_without_allocating():
    with DeviceWatch() as watch:
        x = torch.empty(1 << 20, 1 << 20, device="meta")
        del x
        torch.empty(10, device="meta")
    assert watch.peak == 4 << 40
