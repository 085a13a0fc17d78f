import torch
import torch.nn.functional as F

from rewire.tasks.models.mlp import mlp


def test_shapes_and_names():
    model = mlp(12, [5, 4], 3)
    assert {name: tuple(p.shape) for name, p in model.named_parameters()} == {
        "fc1.weight": (5, 12),
        "fc1.bias": (5,),
        "fc2.weight": (4, 5),
        "fc2.bias": (4,),
        "fc3.weight": (3, 4),
        "fc3.bias": (3,),
    }


def test_forward_by_its_formula():
    model, x = mlp(12, [5], 3), torch.randn(2, 3, 2, 2)
    state = model.state_dict()
    hidden = F.relu(x.reshape(2, 12) @ state["fc1.weight"].T)
    torch.testing.assert_close(model(x), hidden @ state["fc2.weight"].T)


def test_without_hidden_layers_it_is_linear():
    assert sum(p.numel() for p in mlp(12, [], 3).parameters()) == 12 * 3 + 3
