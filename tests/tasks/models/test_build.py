import re

import pytest
import torch

from rewire.tasks.models import MODELS, build


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("channels", "size"), [(1, 8), (3, 32)])
def test_every_model_learns_from_every_image_size_it_takes(name, channels, size):
    if size < MODELS[name].smallest:
        return
    model = build(name, classes=7, channels=channels, size=size, width=0.1)
    out = model(torch.randn(3, channels, size, size))
    assert out.shape == (3, 7)
    out.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name", MODELS)
def test_width_seed_and_memory_format(name):
    model, again, other = (build(name, classes=3, width=0.1, seed=seed).eval() for seed in (4, 4, 5))
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(model(x), again(x))
    assert not torch.equal(model(x), other(x))
    state = again.state_dict()
    other.load_state_dict(state)
    last = other.to(memory_format=torch.channels_last)(x.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(last, model(x))


def test_width_multiplies_the_published_one():
    assert build("mlp", classes=10, width=0.5).fc1.weight.shape == (256, 3072)
    assert build("resnet20", classes=10, width=2).conv1.weight.shape == (32, 3, 3, 3)
    assert build("vgg19", classes=10, width=0.001).features[0].weight.shape == (1, 3, 3, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"name": "alexnet"},
            "Unknown model 'alexnet'. Known: mlp, mlp_chts, cnn, resnet20, resnet32, resnet50, resnet50_imagenet, "
            "vgg19, wrn22_2, mobilenet_v2.",
        ),
        (
            {"name": "cnn", "width": 0.0},
            "A cnn of 0.0 times its published width has no units. Use a width above 0, like 0.5 or 1.0.",
        ),
        (
            {"name": "vgg19", "size": 8},
            "vgg19 cannot see images of 8 pixels: its poolings leave nothing of them. Use images of at least 32 "
            "pixels, or another model: mlp, mlp_chts, cnn, resnet20, resnet32, resnet50, resnet50_imagenet, vgg19, "
            "wrn22_2, mobilenet_v2.",
        ),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        build(**{"classes": 10} | arguments)
