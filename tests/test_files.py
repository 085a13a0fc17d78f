"""Model files: small, whole, equal to the bit, and strict about what they are loaded into."""

import errno
import os
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from torch import Tensor, nn

from rewire import files
from rewire.core.bits import unpack_bits
from rewire.files import load, save


class Network(nn.Module):
    """A convolution, a norm with its buffers, a linear, and an LSTM."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3)
        self.norm = nn.BatchNorm2d(width)
        self.lstm = nn.LSTM(width, 5)
        self.fc = nn.Linear(5, 4)


class Tied(nn.Module):
    """An encoder and a decoder that share one weight, under two names."""

    def __init__(self, tie: bool = True) -> None:
        super().__init__()
        self.encoder = nn.Linear(6, 6, bias=False)
        self.decoder = nn.Linear(6, 6, bias=False)
        if tie:
            self.decoder.weight = self.encoder.weight


def sparsify_(model: nn.Module, density: float = 0.2) -> dict[str, Tensor]:
    """Gives the model random masks and random state, and returns the masks."""
    masks = {}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_()
            if parameter.ndim > 1:
                masks[name] = torch.rand(parameter.shape) < density
                parameter.mul_(masks[name]).abs_()
        for buffer in model.buffers():
            buffer.copy_(torch.randint(1, 9, buffer.shape))
    return masks


def identical(first: Tensor, second: Tensor) -> bool:
    """Says whether two tensors agree in dtype, shape and every bit."""
    alike = first.dtype == second.dtype and first.shape == second.shape
    return alike and first.detach().numpy().tobytes() == second.detach().numpy().tobytes()


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_the_dense_module_comes_back_bit_by_bit(tmp_path: Path) -> None:
    model = Network()
    masks = sparsify_(model)
    save(model, tmp_path / "model.safetensors", masks)
    other = Network()
    assert load(tmp_path / "model.safetensors", other) is other
    assert all(identical(other.state_dict()[name], tensor) for name, tensor in model.state_dict().items())


def test_values_that_are_zero_but_active_infinite_or_nan_come_back(tmp_path: Path) -> None:
    model = nn.Linear(4, 2)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.0, -0.0, torch.inf, torch.nan], [1e-45, 0.0, 0.0, 0.0]]))
    masks = {"weight": torch.tensor([[True, True, True, True], [True, False, False, False]])}
    save(model, tmp_path / "model.safetensors", masks)
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        assert file.get_tensor("weight.values").numel() == 5
    assert identical(load(tmp_path / "model.safetensors", nn.Linear(4, 2)).weight, model.weight)


def test_the_format_is_as_documented(tmp_path: Path) -> None:
    model = nn.Linear(3, 3)
    mask = torch.tensor([[True, False, False], [True, True, False], [False, False, True]])
    with torch.no_grad():
        model.weight.copy_(torch.arange(1.0, 10.0).view(3, 3) * mask)
    save(model, tmp_path / "model.safetensors", {"weight": mask}, metadata={"recipe": "digits"})
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        assert sorted(file.keys()) == ["bias", "weight.mask", "weight.values"]
        assert file.get_tensor("weight.values").tolist() == [1, 4, 5, 9]
        assert file.get_tensor("weight.mask").tolist() == [25, 1]
        assert torch.equal(unpack_bits(file.get_tensor("weight.mask"), (3, 3)), mask)
        assert file.metadata() == {
            "recipe": "digits",
            "rewire": '{"format":1,"shapes":{"weight":[3,3]},"tied":{}}',
        }


@given(shape=st.lists(st.integers(1, 6), min_size=2, max_size=4), density=st.floats(0, 1), seed=st.integers(0, 99))
def test_any_mask_in_any_memory_layout(tmp_path_factory, shape, density, seed) -> None:
    path = tmp_path_factory.mktemp("file") / "model.safetensors"
    torch.manual_seed(seed)
    mask = torch.rand(shape) < density
    model = nn.ParameterDict({"weight": torch.randn(shape).mul(mask).transpose(0, -1).clone().transpose(0, -1)})
    save(model, path, {"weight": mask})
    assert torch.equal(load(path, nn.ParameterDict({"weight": torch.ones(shape)}))["weight"], model["weight"])


def test_bfloat16_rounds_the_sparse_weights_and_only_them(tmp_path: Path) -> None:
    model = Network()
    masks = sparsify_(model)
    save(model, tmp_path / "model.safetensors", masks, dtype=torch.bfloat16)
    loaded = load(tmp_path / "model.safetensors", Network()).state_dict()
    for name, tensor in model.state_dict().items():
        expected = tensor.bfloat16().float() if name in masks else tensor
        assert identical(loaded[name], expected)


@pytest.mark.parametrize(("dtype", "size"), [(torch.float32, 4), (torch.bfloat16, 2)])
@pytest.mark.parametrize("density", [0.01, 0.1, 0.5])
def test_the_file_is_as_small_as_promised(tmp_path: Path, dtype: torch.dtype, size: int, density: float) -> None:
    model = nn.Sequential(*(nn.Sequential(nn.Conv2d(64, 64, 3), nn.BatchNorm2d(64)) for _ in range(10)))
    masks = sparsify_(model, density)
    save(model, tmp_path / "model.safetensors", masks, dtype)
    active = sum(int(mask.sum()) for mask in masks.values())
    total = sum(mask.numel() for mask in masks.values())
    dense = sum(tensor.nbytes for name, tensor in model.state_dict().items() if name not in masks)
    assert active * size < (tmp_path / "model.safetensors").stat().st_size
    assert (tmp_path / "model.safetensors").stat().st_size <= 1.1 * (active * size + total / 8) + dense + 8192


def test_a_tied_weight_is_stored_once_and_comes_back_under_both_names(tmp_path: Path) -> None:
    model = Tied()
    masks = sparsify_(model)
    assert list(masks) == ["encoder.weight"]
    save(model, tmp_path / "model.safetensors", masks)
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        assert sorted(file.keys()) == ["encoder.weight.mask", "encoder.weight.values"]
    for tie in (True, False):
        loaded = load(tmp_path / "model.safetensors", Tied(tie))
        assert identical(loaded.encoder.weight, model.encoder.weight)
        assert identical(loaded.decoder.weight, model.encoder.weight)
        assert (loaded.encoder.weight is loaded.decoder.weight) == tie


def test_a_tied_weight_may_be_called_by_its_other_name(tmp_path: Path) -> None:
    model = Tied()
    mask = sparsify_(model)["encoder.weight"]
    save(model, tmp_path / "model.safetensors", {"decoder.weight": mask})
    assert identical(load(tmp_path / "model.safetensors", Tied()).encoder.weight, model.encoder.weight)


def test_two_weights_do_not_fit_a_model_that_ties_them(tmp_path: Path) -> None:
    model = Tied(tie=False)
    save(model, tmp_path / "model.safetensors", sparsify_(model))
    tied = Tied()
    before = state(tied)
    with pytest.raises(ValueError, match="ties") as error:
        load(tmp_path / "model.safetensors", tied)
    assert "the model ties encoder.weight, decoder.weight, which differ in the file" in str(error.value)
    assert torch.equal(tied.encoder.weight, before["encoder.weight"])


@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel, lambda model: nn.DataParallel(torch.compile(model))])
def test_wrapped_models_use_the_names_of_the_plain_one(tmp_path: Path, wrap) -> None:
    model = Network()
    masks = sparsify_(model)
    save(wrap(model), tmp_path / "model.safetensors", masks)
    for other in (Network(), wrap(Network())):
        load(tmp_path / "model.safetensors", other)
        assert identical(dict(files._tensors(other))["fc.weight"], model.fc.weight)


def test_a_compiled_submodule_uses_the_names_of_the_plain_one(tmp_path: Path) -> None:
    model, compiled = Network(), Network()
    masks = sparsify_(model)
    compiled.fc = torch.compile(compiled.fc)
    save(model, tmp_path / "plain.safetensors", masks)
    load(tmp_path / "plain.safetensors", compiled)
    save(compiled, tmp_path / "compiled.safetensors", masks)
    assert (tmp_path / "plain.safetensors").read_bytes() == (tmp_path / "compiled.safetensors").read_bytes()


def test_a_dense_model_has_no_masks(tmp_path: Path) -> None:
    model = Network()
    save(model, tmp_path / "model.safetensors", {})
    loaded = load(tmp_path / "model.safetensors", Network()).state_dict()
    assert all(identical(loaded[name], tensor) for name, tensor in model.state_dict().items())


def test_a_model_that_differs_is_told_how_and_stays_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2, bias=False))
    save(model, path, sparsify_(model))
    other = nn.Sequential(nn.Linear(5, 3, bias=False), nn.Linear(3, 2))
    before = state(other)
    with pytest.raises(ValueError, match="does not fit") as error:
        load(path, other)
    assert str(error.value) == (
        f"{path} does not fit this Sequential, because the file lacks 1.bias; the model has no 0.bias; the file "
        "holds 0.weight (3, 4) instead of (3, 5). Build the model as it was when the file was saved; this one is "
        "unchanged."
    )
    assert all(torch.equal(other.state_dict()[name], tensor) for name, tensor in before.items())


def test_many_differences_are_cut_short(tmp_path: Path) -> None:
    save(nn.Sequential(), tmp_path / "model.safetensors", {})
    with pytest.raises(ValueError, match="does not fit") as error:
        load(tmp_path / "model.safetensors", nn.Sequential(*(nn.Linear(2, 2) for _ in range(6))))
    assert "lacks 0.weight, 0.bias, 1.weight, 1.bias, 2.weight, 2.bias, 3.weight, 3.bias and 4 more." in str(
        error.value
    )


def message(path: Path, model: nn.Module | None = None) -> str:
    with pytest.raises(ValueError, match="because") as error:
        load(path, model or nn.Linear(4, 3))
    return str(error.value)


def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    model = nn.Linear(4, 3)
    save(model, path, sparsify_(model))
    content = path.read_bytes()
    for length in (9, 50, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        text = message(path)
        assert text.startswith(
            f"{path} cannot be loaded, because it is truncated or damaged after {length} bytes (Error while "
        )
        assert text.endswith("Copy it again from where it is whole.")


@pytest.mark.parametrize("content", [b"", b"12345678", b"PK\x03\x04 a zip file, as torch.save makes", b"text" * 99])
def test_another_kind_of_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    assert message(path).startswith(f"{path} cannot be loaded, because it is not a safetensors file (Error while ")
    assert message(path).endswith("Give a file of rewire.save.")


def test_a_dense_safetensors_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file(nn.Linear(4, 3).state_dict(), path)
    assert message(path) == (
        f'{path} is a safetensors file but not one of rewire.save, because its header has no "rewire" entry. '
        f'If it holds a dense model, use safetensors.torch.load_model(model, "{path}").'
    )


def test_a_newer_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.safetensors"
    with monkeypatch.context() as patch:
        patch.setattr(files, "FORMAT", 2)
        save(nn.Linear(4, 3), path, {})
    assert message(path) == (
        f"{path} has format 2 and cannot be loaded, because this version of rewire reads format 1. "
        "Type pip install --upgrade rewire."
    )


@pytest.mark.parametrize(
    "damage",
    [
        {"weight.mask": None},
        {"weight.values": None},
        {"weight.values": torch.ones(11)},
        {"weight.mask": torch.zeros(1, dtype=torch.uint8)},
        {"weight.mask": torch.full((2,), 3, dtype=torch.uint8)},
    ],
)
def test_values_and_mask_that_do_not_belong_together_are_refused(tmp_path: Path, damage) -> None:
    path = tmp_path / "model.safetensors"
    model = nn.Linear(4, 3)
    save(model, path, sparsify_(model))
    with safe_open(path, framework="pt") as file:
        tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    tensors = {name: tensor for name, tensor in (tensors | damage).items() if tensor is not None}
    safetensors.torch.save_file(tensors, path, metadata)
    assert message(path).startswith(
        f"{path} cannot be loaded, because its values and its mask of weight do not belong together ("
    )
    assert message(path).endswith("Save the model again.")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as error:
        load(tmp_path / "model.safetensors", nn.Linear(4, 3))
    assert str(error.value) == (
        f"{tmp_path / 'model.safetensors'} cannot be loaded, because there is no such file. "
        "Give the path that rewire.save wrote to."
    )


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.safetensors"
    old = nn.Linear(4, 3)
    save(old, path, sparsify_(old))

    def fsync(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="disk is full") as error:
        save(nn.Linear(4, 3), path, {})
    assert "The file that was there is untouched." in str(error.value)
    assert torch.equal(load(path, nn.Linear(4, 3)).weight, old.weight)
    assert os.listdir(tmp_path) == ["model.safetensors"]


class Extra(nn.Linear):
    def get_extra_state(self) -> dict[str, int]:
        return {"step": 3}


@pytest.mark.parametrize(
    ("model", "masks", "options", "text"),
    [
        (
            nn.Linear(2, 2),
            {"fc.weight": torch.ones(2, 2, dtype=torch.bool)},
            {},
            "fc.weight has a mask but cannot be saved, because the model has no tensor of that name. "
            "Use the names of the model's parameters: weight, bias.",
        ),
        (
            nn.Linear(2, 2),
            {"weight": torch.ones(2, 3, dtype=torch.bool)},
            {},
            "The mask of weight is torch.bool of shape (2, 3), which does not fit, because the weight has shape "
            "(2, 2). Give a bool tensor of that shape.",
        ),
        (
            nn.Linear(2, 2),
            {"weight": torch.ones(2, 2)},
            {},
            "The mask of weight is torch.float32 of shape (2, 2), which does not fit, because the weight has shape "
            "(2, 2). Give a bool tensor of that shape.",
        ),
        (
            nn.Linear(2, 2),
            {"weight": torch.tensor([[True, False], [True, False]])},
            {},
            "weight cannot be saved, because 2 of its weights are not 0 where its mask is False and would be lost. "
            "Save the masks of this very moment: sparsifier.masks. An average over steps (EMA) still holds weights "
            "that were dropped: zero them first, with weight.data.mul_(mask).",
        ),
        (
            nn.Linear(2, 2),
            {},
            {"dtype": torch.int8},
            "dtype=torch.int8 cannot hold weights, because it has no fractions. Use torch.float32 or torch.bfloat16.",
        ),
        (
            nn.Linear(2, 2),
            {},
            {"metadata": {"rewire": "mine"}},
            'metadata["rewire"] is taken, because the format keeps its own entry under that name. Use another name.',
        ),
        (
            Extra(2, 2),
            {},
            {},
            "_extra_state is a dict and cannot be saved, because a model file holds tensors only. "
            "Keep it in a buffer, or out of the state_dict.",
        ),
    ],
)
def test_what_cannot_be_saved_is_refused(tmp_path: Path, model, masks, options, text: str) -> None:
    with pytest.raises(ValueError, match="because") as error:
        save(model, tmp_path / "model.safetensors", masks, **options)
    assert str(error.value) == text
    assert os.listdir(tmp_path) == []


def test_without_safetensors_it_says_what_to_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    monkeypatch.setitem(sys.modules, "safetensors", None)
    for act in (lambda path: save(nn.Linear(2, 2), path, {}), lambda path: load(path, nn.Linear(2, 2))):
        with pytest.raises(ImportError) as error:
            act(tmp_path / "model.safetensors")
        assert str(error.value) == (
            "Model files need safetensors, which is not installed, because it is no part of rewire's core. "
            'Type pip install "rewire[cli]".'
        )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_values_keep_their_own_dtype(dtype: torch.dtype, tmp_path: Path) -> None:
    layer = nn.Linear(64, 32, dtype=torch.float64).to(dtype)
    mask = torch.rand(32, 64) < 0.1
    layer.weight.data.mul_(mask)
    save(layer, tmp_path / "model.safetensors", {"weight": mask})
    loaded = load(tmp_path / "model.safetensors", nn.Linear(64, 32, dtype=dtype))
    assert torch.equal(loaded.weight, layer.weight)
    assert (tmp_path / "model.safetensors").stat().st_size < 1000 + (int(mask.sum()) + 32) * dtype.itemsize + 256
