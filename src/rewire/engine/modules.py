"""Linear and Conv2d over packed weights: what they become while the engine trains them, and nothing else changes.

A packed module is the user's own object with another class, so its name, its hooks and its parents stay. Outside of a
training run it does not exist: its state_dict, its deep copies and its pickles are those of the ordinary dense module.
"""

from __future__ import annotations

import copyreg
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils import _pytree

from rewire.engine import blocked, ops
from rewire.engine.blocked import Blocked
from rewire.engine.packed import Packed
from rewire.engine.pending import Product
from rewire.engine.stream import Geometry

LANES = 16  # of the blocked layout

_is_tracking: Callable[[Tensor], bool] = torch._C._functorch.is_gradtrackingtensor  # inside torch.func.grad, vjp, ...


class PackedModule(nn.Module):
    """What PackedLinear and PackedConv2d share. `weight` is the 1-D Parameter of the active values."""

    dense_type: ClassVar[type[nn.Module]]
    packed: Packed
    weight: Tensor

    # ---- to everybody else it is the dense module

    def dense_dict(self, weight: nn.Parameter) -> dict[str, Any]:
        """Returns the attributes of the dense module with that weight."""
        attributes = {name: value for name, value in vars(self).items() if name != "packed"}
        return attributes | {"_parameters": {**self._parameters, "weight": weight}}

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:  # of copies and pickles
        weight = nn.Parameter(self.packed.dense(), requires_grad=self.weight.requires_grad)
        return copyreg._reconstructor, (self.dense_type, object, None), self.dense_dict(weight)  # type: ignore[attr-defined]

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}weight"] = self.packed.dense()

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        metadata, strict, missing, unexpected, errors = rest
        name, here = f"{prefix}weight", self.packed.shape
        weight = state_dict.get(name)
        if isinstance(weight, Tensor) and weight.shape == here:
            state_dict = {**state_dict, name: self.packed.load(weight)}
        elif weight is not None:
            errors.append(
                f"size mismatch for {name}: the state has {getattr(weight, 'shape', weight)}, the model {here}."
            )
            state_dict = {**state_dict, name: self.weight.detach()}
        # Values are copied even with assign=True: the optimizer holds the parameter.
        metadata = {**metadata, "assign_to_params_buffers": False}
        super()._load_from_state_dict(state_dict, prefix, metadata, strict, missing, unexpected, errors)

    # ---- forward

    def _float32(self, x: Tensor, channels: int, expected: int) -> Tensor:
        """Returns the input in the type that the kernels compute in; TypeError or ValueError where they cannot."""
        name = self.packed.name
        if self.weight.dtype != torch.float32 or self.weight.device.type != "cpu":
            raise TypeError(
                f"{name} was moved to {self.weight.dtype} on {self.weight.device} after sparsify(engine='cpu'), whose "
                'kernels compute in float32 on the CPU. Move it back with model.to("cpu", torch.float32), or go on '
                "with the dense model of sparsifier.to_dense()."
            )
        if "weight" not in self._parameters:
            raise TypeError(
                f"{name} was reparametrized after sparsify(engine='cpu'), as weight_norm or torch's pruning do it, but "
                "the layer holds its active values alone, no matrix that could be normed or masked. Do it before "
                'sparsify(), which then says what runs the layer, or say engine="masked".'
            )
        if not torch.compiler.is_compiling() and (_is_tracking(x) or _is_tracking(self.weight)):
            raise TypeError(
                f"torch.func differentiates through {name}, which engine='cpu' cannot do. Use loss.backward() or "
                "torch.autograd.grad(), or the dense model of sparsifier.to_dense()."
            )
        if self.weight.shape != self.packed.index.shape:
            raise ValueError(
                f"{name} was given a weight of shape {tuple(self.weight.shape)}, but engine='cpu' holds its "
                f"{self.packed.count()} active values alone. Use the dense model of sparsifier.to_dense()."
            )
        if channels != expected:
            raise ValueError(
                f"The input of {name} has shape {tuple(x.shape)}, so {channels} channels, but the layer takes "
                f"{expected}. Give it an input with {expected}."
            )
        if x.device.type != "cpu":
            raise TypeError(
                f"The input of {name} is on {x.device}, but engine='cpu' computes on the CPU. Move it there with "
                'x.to("cpu"), or say engine="masked".'
            )
        if x.dtype == torch.float32:
            return x
        if torch.is_autocast_enabled("cpu") and x.dtype in (torch.bfloat16, torch.float16):
            return x.float()
        raise TypeError(
            f"The input of {name} is {x.dtype}, but engine='cpu' computes in float32. Give it x.float(), or say "
            'engine="masked".'
        )

    def _empty(self, x: Tensor, *shape: int) -> Tensor:
        """Returns the output for a batch of nothing, through which gradients of 0 flow."""
        bias: Any = self.bias
        zero = x.sum() + self.weight.sum()
        return (zero if bias is None else zero + bias.sum()) * x.new_zeros(shape)

    def _product(self, inner: Tensor) -> Product:
        """Returns the layer's call, which waits for a ReLU that may follow."""
        blocks, _, height, width, _ = inner.shape
        bias: Any = self.bias
        return Product(inner, self.weight, bias, self.packed.streams.get(height, width, blocks), self.packed.handle)

    def _compiled_product(self, inner: Tensor) -> Tensor:
        blocks, _, height, width, _ = inner.shape
        bias: Any = self.bias
        streams = self.packed.streams
        stream = streams.compiled(height, width, blocks, streams.sizes)
        return ops.sparse_layer(inner, self.weight, bias, stream, self.packed.handle)


class PackedLinear(PackedModule, nn.Linear):
    """y = x W^T + b for an input (*leading, in), over the active weights alone."""

    dense_type = nn.Linear

    def forward(self, input: Tensor) -> Tensor:
        *leading, channels = input.shape or (0,)
        x = self._float32(input, channels, self.in_features)
        shape = (*leading, self.out_features)
        if 0 in leading:
            return self._empty(x, *shape)
        if torch.compiler.is_compiling():
            return _unblock(
                self._compiled_product(_block(x.reshape(-1, channels, 1, 1))), x.numel() // channels
            ).reshape(shape)
        return blocked.wrap(self._product(blocked.inner(x, image=False)), shape)


class PackedConv2d(PackedModule, nn.Conv2d):
    """The convolution of an input (N, in, H, W) or (in, H, W), over the active weights alone."""

    dense_type = nn.Conv2d

    def forward(self, input: Tensor) -> Tensor:
        if input.ndim == 3:
            whole: Tensor = blocked.plain(self.forward(input.unsqueeze(0)))
            return whole.squeeze(0)
        if input.ndim != 4:
            raise ValueError(
                f"The input of {self.packed.name} has shape {tuple(input.shape)}, but a 2-D convolution takes "
                "(N, channels, height, width) or (channels, height, width). Reshape it."
            )
        x = self._float32(input, input.shape[1], self.in_channels)
        rows, _, height, width = x.shape
        shape = (rows, self.out_channels, *self.packed.geometry.out_size(height, width))
        if min(shape[2:]) < 1:
            raise ValueError(
                f"The input of {self.packed.name} is {height} x {width}, smaller than its kernel of "
                f"{self.kernel_size[0]} x {self.kernel_size[1]} with padding {self.packed.geometry.padding}. Give a "
                "larger image, or pad it."
            )
        if rows == 0:
            return self._empty(x, *shape)
        if torch.compiler.is_compiling():
            return _unblock(self._compiled_product(_block(x)), rows)
        return blocked.wrap(self._product(blocked.inner(x, image=True)), shape)


KINDS: dict[type[nn.Module], type[PackedModule]] = {kind.dense_type: kind for kind in (PackedLinear, PackedConv2d)}


def geometry(module: nn.Module) -> Geometry | str:
    """Returns what the kernels know of a dense layer, or why they cannot run it."""
    if type(module) not in KINDS or "forward" in vars(module):  # a subclass may compute something else
        return f"a {type(module).__name__}{' of its own' if type(module) in KINDS else ''}"
    if isinstance(module, nn.Linear):
        return Geometry(module.out_features, module.in_features)
    assert isinstance(module, nn.Conv2d)
    high, wide = module.stride
    area = (module.kernel_size[0] + 16) * (module.kernel_size[1] + 16)  # about what a tile reads of a channel
    for what, found, works in (
        ("groups", module.groups, module.groups == 1),
        ("dilation", module.dilation, module.dilation == (1, 1)),
        ("stride", module.stride, high == wide and high in (1, 2)),
        ("kernel_size", module.kernel_size, area <= 1 << 16),  # a place in the scratch has 16 bits
        ("padding_mode", module.padding_mode, module.padding_mode == "zeros"),
    ):
        if not works:
            return f"{what}={found}"
    kernel_high, kernel_wide = module.kernel_size
    padding = (0, 0) if module.padding == "valid" else module.padding
    if padding == "same":
        if kernel_high % 2 == 0 or kernel_wide % 2 == 0:
            return "padding='same' of an even kernel"
        padding = (kernel_high // 2, kernel_wide // 2)
    assert not isinstance(padding, str)
    return Geometry(module.out_channels, module.in_channels, (kernel_high, kernel_wide), high, (padding[0], padding[1]))


def plain_output(module: nn.Module, args: Any, output: Any) -> Any:
    """The forward hook of a model: what leaves it is an ordinary tensor, alone or in containers."""
    if isinstance(output, Blocked):
        return blocked.plain(output)
    return None if isinstance(output, Tensor) else _pytree.tree_map_only(Blocked, blocked.plain, output)


def _block(x: Tensor) -> Tensor:
    """The blocked layout in plain torch, which a compiler sees through."""
    rows = x.shape[0]
    padded = F.pad(x, (0, 0, 0, 0, 0, 0, 0, -rows % LANES))
    return padded.reshape(-1, LANES, *x.shape[1:]).permute(0, 2, 3, 4, 1).contiguous()


def _unblock(x: Tensor, rows: int) -> Tensor:
    return x.permute(0, 4, 1, 2, 3).flatten(0, 1)[:rows]
