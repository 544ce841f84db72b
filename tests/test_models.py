"""The networks against their table, written out in plain functional calls, and against parameter counts by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from course_lib.models import VAE, Decoder, Encoder, mlp, outlines

# (kernel area · channels in + 1 bias) · channels out, layer by layer, for 10 latents and 1 channel
ENCODER_COUNT = {
    64: (16 * 1 + 1) * 32
    + (16 * 32 + 1) * 32
    + (4 * 32 + 1) * 64
    + (4 * 64 + 1) * 64
    + 1025 * 256
    + 257 * 20,
    32: (16 * 1 + 1) * 16 + (16 * 16 + 1) * 32 + (16 * 32 + 1) * 32 + 513 * 128 + 129 * 20,
    16: 257 * 256 + 257 * 256 + 257 * 20,
}
DECODER_COUNT = {
    64: 11 * 256 + 257 * 1024 + 16 * (64 * 64 + 64 * 32 + 32 * 32 + 32) + 64 + 32 + 32 + 1,
    32: 11 * 128 + 129 * 512 + 16 * (32 * 32 + 32 * 16 + 16) + 32 + 16 + 1,
    16: 11 * 256 + 257 * 256 + 257 * 256,
}


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("size", [64, 32, 16])
def test_parameters_are_as_many_as_the_table_has(size):
    assert count(Encoder(10, size)) == ENCODER_COUNT[size]
    assert count(Decoder(10, size)) == DECODER_COUNT[size]
    assert count(VAE(10, size)) == ENCODER_COUNT[size] + DECODER_COUNT[size]


def weights(module: nn.Module) -> list[tuple[torch.Tensor, torch.Tensor]]:
    parameters = list(module.parameters())
    return list(zip(parameters[::2], parameters[1::2], strict=True))


@pytest.mark.parametrize(("size", "paddings"), [(64, (1, 1, 0, 0)), (32, (1, 1, 1))])
def test_the_encoder_written_out(size, paddings):
    """Locatello et al. (2019), table 1: padding "same", so that each convolution halves the image."""
    encoder, x = Encoder(6, size, channels=3), torch.rand(4, 3, size, size)
    *convolutions, hidden, head = weights(encoder)
    h = x
    for (weight, bias), padding in zip(convolutions, paddings, strict=True):
        h = F.conv2d(h, weight, bias, stride=2, padding=padding).relu()
    assert h.shape[2:] == (4, 4)
    h = F.linear(F.linear(h.flatten(1), *hidden).relu(), *head)
    mean, log_var = encoder(x)
    assert mean.shape == log_var.shape == (4, 6)
    torch.testing.assert_close(torch.cat([mean, log_var], 1), h)


@pytest.mark.parametrize("size", [64, 32])
def test_the_decoder_written_out(size):
    decoder, z = Decoder(6, size, channels=3), torch.randn(4, 6)
    hidden, spread, *convolutions = weights(decoder)
    h = F.linear(F.linear(z, *hidden).relu(), *spread).relu()
    h = h.reshape(4, -1, 4, 4)
    for i, (weight, bias) in enumerate(convolutions):
        h = F.conv_transpose2d(h.relu() if i else h, weight, bias, stride=2, padding=1)
    assert h.shape == (4, 3, size, size)
    torch.testing.assert_close(decoder(z), h)
    assert decoder(10 * z).min() < 0  # logits: no activation at the end


def test_the_smallest_has_linear_layers_only():
    vae, x, z = VAE(6, 16, channels=3), torch.rand(4, 3, 16, 16), torch.randn(4, 6)
    h = x.flatten(1)
    for i, layer in enumerate(weights(vae.encoder)):
        h = F.linear(h.relu() if i else h, *layer)
    torch.testing.assert_close(torch.cat(vae.encode(x), 1), h)
    h = z
    for i, layer in enumerate(weights(vae.decoder)):
        h = F.linear(h.relu() if i else h, *layer)
    torch.testing.assert_close(vae.decode(z), h.reshape(4, 3, 16, 16))


@pytest.mark.parametrize("size", [64, 32, 16])
def test_a_code_does_not_depend_on_its_batch(size):
    vae, x = VAE(5, size), torch.rand(9, 1, size, size)
    torch.testing.assert_close(vae.encode(x)[0][:1], vae.encode(x[:1])[0])
    torch.testing.assert_close(vae.encode(x)[1][8:], vae.encode(x[8:])[1])


def test_outlines_by_hand():
    """Red left of blue, over black: 1 off in two channels to the right, in one below; edges of the image are none."""
    x = torch.zeros(1, 3, 2, 2)
    x[0, 0, 0, 0] = x[0, 2, 0, 1] = 1
    torch.testing.assert_close(outlines(x), torch.tensor([[[[3**0.5, 1], [0, 0]]]]))
    torch.testing.assert_close(outlines(1 - x), outlines(x))
    torch.testing.assert_close(outlines(x[:, [2, 1, 0]]), outlines(x))
    x.requires_grad_(True)
    assert torch.autograd.grad(outlines(x).sum(), x)[0].isfinite().all()  # flat places have no slope


def test_latents_of_outlines_do_not_know_which_colour_is_which():
    torch.manual_seed(0)
    vae, x = VAE(5, 32, 3, outlines=2), torch.rand(4, 3, 32, 32)
    assert count(vae) == count(Encoder(3, 32, 3)) + count(Encoder(2, 32)) + count(Decoder(5, 32, 3))
    for found, other in zip(vae.encode(x), vae.encode(1 - x), strict=True):
        assert found.shape == (4, 5)
        torch.testing.assert_close(found[:, 3:], other[:, 3:])
        assert (found[:, :3] - other[:, :3]).abs().min() > 1e-6
    torch.testing.assert_close(vae.encode(x)[1][:, :3], vae.encoder(x)[1])
    torch.testing.assert_close(vae.encode(x)[0][:, 3:], vae.outline_encoder(outlines(x))[0])


@pytest.mark.parametrize("outlines_", [0, 2])
def test_gradients_reach_every_parameter(outlines_):
    vae = VAE(4, 32, outlines=outlines_)
    mean, log_var = vae.encode(torch.rand(8, 1, 32, 32))
    vae.decode(mean + log_var).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in vae.parameters())


def test_mlp_is_linear_layers_with_relu_between():
    net = mlp(3, 5, 4, 2)
    assert [type(layer) for layer in net] == [nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Linear]
    assert count(net) == 4 * 5 + 6 * 4 + 5 * 2
    assert [type(layer) for layer in mlp(3, 2)] == [nn.Linear]


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda: VAE(size=48), r"size: expected one of \(64, 32, 16\) pixels, got 48"),
        (lambda: VAE(latents=0), "latents: expected a positive integer, got 0"),
        (lambda: VAE(3, 32, outlines=3), "outlines: expected an integer from 0 to 2, got 3"),
        (lambda: VAE(3, 32, outlines=-1), "outlines: expected an integer from 0 to 2, got -1"),
        (lambda: VAE(latents=2.0), "latents: expected a positive integer, got 2.0"),
        (lambda: Decoder(channels=-1), "channels: expected a positive integer, got -1"),
        (lambda: VAE(3, 32).encode(torch.rand(2, 1, 64, 64)), r"expects \(B, \*\(1, 32, 32\)\), got \(2, 1, 64, 64\)"),
        (lambda: VAE(3, 32).encode(torch.rand(1, 32, 32)), r"got \(1, 32, 32\)"),
        (lambda: VAE(3, 32).decode(torch.randn(2, 4)), r"codes: this model expects \(B, 3\), got \(2, 4\)"),
        (lambda: VAE(3, 32).decode(torch.randn(3)), r"codes: this model expects \(B, 3\), got \(3,\)"),
        (lambda: mlp(3), "at least two positive widths"),
        (lambda: mlp(3, 0), "at least two positive widths"),
    ],
)  # fmt: skip
def test_errors_say_what_was_expected(act, words):
    with pytest.raises(ValueError, match=words):
        act()
