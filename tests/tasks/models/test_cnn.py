import torch
from torch.utils.flop_counter import FlopCounterMode

from rewire.tasks.models.cnn import cnn


def test_parameters_by_hand():
    # 9 (3*24 + 24*48 + 48*48 + 48*96) in the convolutions, two a channel in the norms, and the linear layer
    assert sum(p.numel() for p in cnn(10).parameters()) == 9 * 8136 + 2 * 216 + 970


def test_multiply_adds_by_hand():
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        cnn(10).eval()(torch.zeros(1, 3, 32, 32))
    convolutions = 9 * (3 * 24 * 16**2 + 24 * 48 * 8**2 + 48 * 48 * 8**2 + 48 * 96 * 4**2)
    assert counter.get_total_flops() == 2 * (convolutions + 960)


def test_width_scales_every_layer():
    wide = [m.weight.shape[0] for m in cnn(10, width=4).children() if hasattr(m, "stride") and hasattr(m, "weight")]
    assert wide == [4, 8, 8, 16]
