import torch
from torch.utils.flop_counter import FlopCounterMode

from rewire.tasks.models.cnn import cnn


def test_parameters_by_hand():
    # 9 (3*16 + 16*32 + 32*64 + 64*64) in the convolutions, two a channel in the norms, and the linear layer
    assert sum(p.numel() for p in cnn(10).parameters()) == 9 * 6704 + 2 * 176 + 650


def test_multiply_adds_by_hand():
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        cnn(10).eval()(torch.zeros(1, 3, 32, 32))
    convolutions = 9 * (3 * 16 * 32**2 + 16 * 32 * 16**2 + 32 * 64 * 8**2 + 64 * 64 * 8**2)
    assert counter.get_total_flops() == 2 * (convolutions + 640)
    assert 4e6 < convolutions < 8e6


def test_width_scales_every_layer():
    wide = [m.weight.shape[0] for m in cnn(10, width=4).children() if hasattr(m, "stride") and hasattr(m, "weight")]
    assert wide == [4, 8, 16, 16]
