"""Networks: shapes, the paper's sizes, and the forward pass against its formula."""

import pytest
import torch
from torch import nn

from elbowroom.nets import mlp, mlp_decoder, mlp_encoder


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


def test_another_activation() -> None:
    assert [type(layer) for layer in mlp([2, 3, 1], nn.Tanh)] == [nn.Linear, nn.Tanh, nn.Linear]


@pytest.mark.parametrize("sizes", [[], [3], [3, 0], [3, -1, 2], [3, 2.5]])
def test_bad_sizes_are_named(sizes: list[int]) -> None:
    with pytest.raises(ValueError, match="two or more positive integers"):
        mlp(sizes)
