import pytest
import torch
import torch.nn.functional as F

from rewire.tasks.models.resnet import BasicBlock, PadShortcut, resnet20, resnet32, resnet50


def parameters(model) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(("n", "factory"), [(3, resnet20), (5, resnet32)])
def test_thin_parameters_by_hand(n, factory):
    """The table of section 4.2: 6n + 1 convolutions, two norm parameters a channel, one linear layer."""
    first, second, third = 2 * n * 16 * 16, 16 * 32 + (2 * n - 1) * 32 * 32, 32 * 64 + (2 * n - 1) * 64 * 64
    convolutions = 9 * (3 * 16 + first + second + third)
    norms = 2 * (16 + 2 * n * (16 + 32 + 64))
    assert parameters(factory(10)) == convolutions + norms + 64 * 10 + 10


def test_published_parameters():
    assert parameters(resnet20(10)) == 269_722  # 0.27 M in the paper
    assert parameters(resnet32(10)) == 464_154  # 0.46 M in the paper
    assert parameters(resnet50(1000, stem="imagenet")) == 25_557_032  # torchvision's resnet50
    assert parameters(resnet50(10)) == 23_520_842


def test_names_are_the_usual_ones():
    thin, large = resnet20(10).state_dict(), resnet50(1000, stem="imagenet").state_dict()
    assert {
        "conv1.weight",
        "bn1.weight",
        "layer1.0.conv1.weight",
        "layer3.2.bn2.running_var",
        "fc.weight",
    } <= thin.keys()
    assert {"layer1.0.downsample.0.weight", "layer4.2.conv3.weight", "fc.bias"} <= large.keys()
    assert len(large) == 320  # as many entries as torchvision's resnet50


def test_pad_shortcut_by_hand():
    x = torch.arange(1.0, 10).reshape(1, 1, 3, 3)
    out = PadShortcut(stride=2, new_channels=3)(x)
    assert out.shape == (1, 4, 2, 2)
    assert out[0, 1].tolist() == [[1.0, 3.0], [7.0, 9.0]]
    assert out[0, [0, 2, 3]].abs().max() == 0


def test_a_block_without_weights_is_its_shortcut():
    block = BasicBlock(4, 4, stride=1).eval()
    torch.nn.init.zeros_(block.bn2.weight)
    x = torch.randn(2, 4, 5, 5)
    assert torch.equal(block(x), F.relu(x))


@pytest.mark.parametrize(
    ("model", "size", "expected"),
    [
        (resnet20(10, width=4), 32, {"layer1": 32, "layer2": 16, "layer3": 8}),
        (resnet50(10, width=4), 32, {"layer1": 32, "layer2": 16, "layer3": 8, "layer4": 4}),
        (resnet50(10, stem="imagenet", width=4), 224, {"layer1": 56, "layer2": 28, "layer3": 14, "layer4": 7}),
    ],
)
def test_stages_halve_the_image(model, size, expected):
    seen = {}
    for name in expected:
        getattr(model, name).register_forward_hook(lambda _, __, out, name=name: seen.update({name: out.shape[-1]}))
    assert model(torch.randn(2, 3, size, size)).shape == (2, 10)
    assert seen == expected
