"""The quick log probability of bits against the plain one."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import softplus

from elbowroom.models.bernoulli import FACTORS, bernoulli_log_prob


def plain(x: Tensor, logits: Tensor) -> Tensor:
    terms = x * logits - softplus(logits, threshold=1000)
    return terms.flatten(2).sum(-1) if terms.ndim > 2 else terms


def example(event: tuple[int, ...], dtype: torch.dtype, spread: float = 5.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = spread * torch.randn(7, 3, *event, generator=generator, dtype=torch.float64)
    return torch.rand(3, *event, generator=generator, dtype=torch.float64).round().to(dtype), logits.to(dtype)


@pytest.mark.parametrize("event", [(), (1,), (111,), (112,), (113,), (784,), (3, 32, 32), (0,)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_gradients_are_the_plain_ones(event: tuple[int, ...], dtype: torch.dtype) -> None:
    """An error of rounding grows as the sums that are subtracted from one another."""
    x, logits = example(event, dtype)
    precise = logits.double().requires_grad_()
    logits.requires_grad_()
    value, expected = bernoulli_log_prob(x, logits), plain(x.double(), precise)
    size = (x * precise.detach()).abs().flatten(2).sum(-1).max() + 1 if event else 50.0
    limit = 4 * torch.finfo(dtype).eps * float(size)
    assert value.dtype == dtype
    torch.testing.assert_close(value.double(), expected, rtol=0, atol=limit)
    (grad,) = torch.autograd.grad(value.sum(), logits)
    (expected_grad,) = torch.autograd.grad(expected.sum(), precise)
    torch.testing.assert_close(grad.double(), expected_grad, rtol=0, atol=2 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("event", [116_412, 196_608])
def test_many_bits_lose_no_more_than_a_plain_sum(event: int) -> None:
    """Terms that are alike are rounded alike: added one after another, these would be off by nats."""
    logits = torch.full((1, 1, event), 0.3, dtype=torch.float32)
    x = torch.zeros(1, event, dtype=torch.float32)
    expected = plain(x.double(), logits.double()).item()
    assert abs(bernoulli_log_prob(x, logits).item() - expected) < 1e-6 * abs(expected)


def test_a_product_has_normal_numbers() -> None:
    assert torch.finfo(torch.float32).tiny <= 2.0**-FACTORS


@pytest.mark.parametrize("logit", [0.0, 8.0, 17.0, 20.0, 88.0, 104.0, 1e4, 1e30])
@pytest.mark.parametrize("sign", [1, -1])
def test_extreme_logits_lose_no_more_than_a_rounding(logit: float, sign: int) -> None:
    """A factor next to 1 is rounded to a multiple of 6e-8; a thousand of them are all rounded the same way here."""
    logits = torch.full((1, 1, 1000), sign * logit, dtype=torch.float32)
    for x in (torch.zeros(1, 1000, dtype=torch.float32), torch.ones(1, 1000, dtype=torch.float32)):
        expected = plain(x.double(), logits.double())
        torch.testing.assert_close(bernoulli_log_prob(x, logits).double(), expected, rtol=1e-6, atol=6e-5)


def test_what_is_no_number_stays_none() -> None:
    logits = torch.zeros(1, 1, 784)
    logits[..., 3] = torch.nan
    assert bernoulli_log_prob(torch.ones(1, 784), logits).isnan().all()
    logits[..., 3] = torch.inf
    assert bernoulli_log_prob(torch.zeros(1, 784), logits).isnan().all()  # 0 times infinity


def test_gradients_of_both_arguments_and_second_ones() -> None:
    x, logits = example((5,), torch.float64)
    inputs = (torch.full_like(x, 0.3).requires_grad_(), logits.requires_grad_())
    assert torch.autograd.gradcheck(bernoulli_log_prob, inputs)
    assert torch.autograd.gradgradcheck(bernoulli_log_prob, inputs)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # of torch itself
def test_transforms_of_torch_go_through_it() -> None:
    x, logits = example((113,), torch.float64)
    grads = torch.func.grad(lambda point: bernoulli_log_prob(x, point).sum())(logits)
    torch.testing.assert_close(grads, x - torch.sigmoid(logits))
    point, direction = logits[:1, :1, :20], torch.ones(1, 1, 20, dtype=torch.float64)
    some = x[:1, :20]
    slope = torch.func.jvp(bernoulli_log_prob, (some, point), (some, direction))[1]
    torch.testing.assert_close(slope, (some * point + some - torch.sigmoid(point)).sum(-1))
    slope = torch.func.jvp(lambda bits: bernoulli_log_prob(bits, point), (some,), (some,))[1]
    torch.testing.assert_close(slope, (some * point).sum(-1))
    curvature = torch.func.hessian(lambda one: bernoulli_log_prob(some, one).sum())(point).reshape(20, 20)
    torch.testing.assert_close(curvature, -torch.diag((torch.sigmoid(point) * torch.sigmoid(-point))[0, 0]))
    rows = torch.func.jacrev(lambda one: bernoulli_log_prob(some, one)[0])(point)[0, 0, 0]
    torch.testing.assert_close(rows, some[0] - torch.sigmoid(point)[0, 0])
    point.requires_grad_()
    (batched,) = torch.autograd.grad(
        bernoulli_log_prob(some, point), point, torch.ones(3, 1, 1, dtype=torch.float64), is_grads_batched=True
    )
    torch.testing.assert_close(batched[2, 0], (some - torch.sigmoid(point.detach()))[0])
    bits = torch.func.vmap(torch.func.grad(lambda point, bits: bernoulli_log_prob(bits, point).sum()), (None, 0))
    torch.testing.assert_close(bits(logits, torch.stack([x, 1 - x]))[1], 1 - x - torch.sigmoid(logits))
    each = torch.func.vmap(lambda point: bernoulli_log_prob(x, point))(torch.stack([logits, 2 * logits]))
    torch.testing.assert_close(each, torch.stack([plain(x, logits), plain(x, 2 * logits)]))


@pytest.mark.parametrize("kind", [torch.uint8, torch.bool, torch.float64])
def test_bits_may_be_of_another_kind_than_logits(kind: torch.dtype) -> None:
    x, logits = example((784,), torch.float32)
    logits.requires_grad_()
    value = bernoulli_log_prob(x.to(kind), logits)
    torch.testing.assert_close(value, plain(x.to(kind), logits), rtol=1e-5, atol=1e-3)
    (grad,) = torch.autograd.grad(value.sum(), logits)
    assert grad.dtype == torch.float32
    torch.testing.assert_close(grad, (x - torch.sigmoid(logits)).detach())


def test_half_precision_has_no_room_for_products() -> None:
    x, logits = example((784,), torch.bfloat16)
    assert torch.equal(bernoulli_log_prob(x, logits), (x * logits).sum(-1) - softplus(logits).sum(-1))
    assert bernoulli_log_prob(x, logits).isfinite().all()
