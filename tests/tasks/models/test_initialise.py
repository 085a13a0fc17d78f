import pytest
import torch
from torch import nn

from rewire.tasks.models.initialise import initialised


def test_variances_by_the_formula():
    linear = initialised(lambda: nn.Linear(400, 300), seed=0)
    assert linear.weight.std().item() == pytest.approx((2 / 400) ** 0.5, rel=0.01)
    assert linear.bias.abs().max() == 0
    convolution = initialised(lambda: nn.Conv2d(50, 80, 3, bias=False), seed=0)
    assert convolution.weight.std().item() == pytest.approx((2 / (80 * 9)) ** 0.5, rel=0.01)


def test_batch_norm_starts_as_the_identity():
    norm = initialised(lambda: nn.BatchNorm2d(3), seed=0)
    x = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(norm.eval()(x), x, rtol=1e-4, atol=1e-4)
    assert norm.num_batches_tracked == 0


def test_seed_decides_and_the_global_state_does_not():
    def weight(seed):
        return initialised(lambda: nn.Linear(5, 5), seed).weight

    state = torch.get_rng_state()
    first = weight(1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(77)
    assert torch.equal(first, weight(1))
    assert not torch.equal(first, weight(2))


def test_a_layer_without_a_known_initialisation_is_refused():
    with pytest.raises(TypeError, match=r"^No initialisation is known for 0, a PReLU\."):
        initialised(lambda: nn.Sequential(nn.PReLU()), seed=0)
    with pytest.raises(TypeError, match="a Conv2d"):  # nor for one with a bias, which no model here has
        initialised(lambda: nn.Sequential(nn.Conv2d(1, 1, 1)), seed=0)
