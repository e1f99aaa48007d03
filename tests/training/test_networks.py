"""Networks: shapes, the paper's sizes, and the forward pass against its formula."""

import pytest
import torch
from torch import nn

from elbowroom.models import DecoderModel
from elbowroom.training import conv_decoder, conv_encoder, mlp, mlp_decoder, mlp_encoder


def n_parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def test_mlp_is_its_formula() -> None:
    net = mlp([3, 4, 5, 2])
    h = x = torch.randn(6, 3)
    layers = [layer for layer in net if isinstance(layer, nn.Linear)]
    for i, layer in enumerate(layers):
        h = h @ layer.weight.T + layer.bias
        if i < len(layers) - 1:
            h = torch.where(h > 0, h, torch.expm1(h))
    torch.testing.assert_close(net(x), h)


def test_the_paper_s_sizes() -> None:
    assert n_parameters(mlp_encoder(784, 100)) == 784 * 200 + 200 + 200 * 200 + 200 + 200 * 100 + 100
    assert n_parameters(mlp_decoder(50, 784)) == 50 * 200 + 200 + 200 * 200 + 200 + 200 * 784 + 784
    assert n_parameters(mlp_encoder(784, 100, hidden=(500, 500))) == 784 * 500 + 500 + 500 * 501 + 501 * 100
    assert n_parameters(mlp_decoder(50, 784, hidden=())) == 50 * 784 + 784


@pytest.mark.parametrize("event", [(784,), (28, 28), (1, 28, 28)])
def test_encoder_flattens_any_event(event: tuple[int, ...]) -> None:
    net = mlp_encoder(event, 7)
    x = torch.randn(5, *event)
    assert net(x).shape == (5, 7)
    torch.testing.assert_close(net(x), net(x.reshape(5, -1)), rtol=0, atol=0)


@pytest.mark.parametrize("sizes", [[], [3], [3, 0], [3, -1, 2], [3, 2.5]])
def test_bad_sizes_are_named(sizes: list[int]) -> None:
    with pytest.raises(ValueError, match="two or more positive integers"):
        mlp(sizes)


def test_the_paper_s_convolutions() -> None:
    """3-64-128-256 down to 2 x 2, and back by 256-128-64-3: every side, and the output padding that gives 32."""
    encoder, decoder = conv_encoder(100).eval(), conv_decoder(50).eval()
    sides = []
    for net, h in ((encoder, torch.randn(2, 3, 32, 32)), (decoder, torch.randn(2, 50))):
        for layer in net:
            h = layer(h)
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                assert (layer.kernel_size, layer.stride, layer.padding) == ((4, 4), (2, 2), (0, 0))
                sides.append(tuple(h.shape[1:]))
    assert sides[:3] == [(64, 15, 15), (128, 6, 6), (256, 2, 2)]
    assert sides[3:] == [(128, 6, 6), (64, 15, 15), (3, 32, 32)]
    transposed = [layer for layer in decoder if isinstance(layer, nn.ConvTranspose2d)]
    assert [layer.output_padding for layer in transposed] == [(0, 0), (1, 1), (0, 0)]
    for net in (encoder, decoder):
        kinds = [type(layer) for layer in net if isinstance(layer, nn.BatchNorm2d | nn.ELU)]
        assert kinds == 3 * [nn.BatchNorm2d, nn.ELU]
    kernels = 16 * (3 * 64 + 64 * 128 + 128 * 256)
    assert n_parameters(encoder) == kernels + 3 * (64 + 128 + 256) + 1024 * 100 + 100
    assert n_parameters(decoder) == kernels + (128 + 64 + 3) + 2 * (256 + 128 + 64) + 50 * 1024 + 1024


def test_convolutions_make_a_model() -> None:
    """Images of three bits a pixel, (N, 3, 32, 32): one number per sample and datum, as from the decoder alone."""
    model = DecoderModel(conv_decoder(4, channels=(8, 4, 2)), "bernoulli", 4).eval()
    x, z = torch.bernoulli(torch.full((2, 3, 32, 32), 0.5)), torch.randn(5, 2, 4)
    logits = model.decoder(z[3])
    expected = -nn.functional.binary_cross_entropy_with_logits(logits, x, reduction="none").sum((1, 2, 3))
    torch.testing.assert_close(model.log_likelihood(x, z)[3], expected)


def test_the_wide_convolutions() -> None:
    assert conv_encoder(6, (128, 256, 512))(torch.randn(2, 3, 32, 32)).shape == (2, 6)
    assert conv_decoder(4, channels=(512, 256, 128))(torch.randn(2, 4)).shape == (2, 3, 32, 32)


@pytest.mark.parametrize("size", [22, 23, 28, 33, 64])
def test_a_decoder_mirrors_images_of_any_size(size: int) -> None:
    encoder, decoder = conv_encoder(5, (2, 3, 4), 1, size).eval(), conv_decoder(5, 2, (4, 3, 2), size).eval()
    x = torch.randn(2, 1, size, size)
    assert decoder(encoder(x)).shape == (2, 2, size, size)
    torch.testing.assert_close(encoder(x.flatten(1)), encoder(x), rtol=0, atol=0)


def test_an_image_too_small_is_refused() -> None:
    with pytest.raises(ValueError, match="3 convolutions of kernel 4 and stride 2 do not fit 21 pixels"):
        conv_encoder(5, size=21)
