import copy
import math
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import rewire
from rewire.tasks.models import build, build_text
from rewire.tasks.models.gpt import GPT, MLP, Attention, gpt

torch.set_num_threads(1)


def small(**options) -> GPT:
    return gpt(7, **{"context": 8, "width": 12, "layers": 2, "heads": 3} | options)


def tokens(batch: int = 2, length: int = 8) -> torch.Tensor:
    return torch.randint(7, (batch, length))


def test_parameters_by_hand():
    """Of a block: 3 + 1 squares in attention, 4 + 4 in the MLP, two norms; then the last norm and the embeddings."""
    model = gpt(65)
    blocks = 6 * ((3 + 1 + 4 + 4) * 384**2 + 2 * 384)
    without_positions = blocks + 384 + 65 * 384
    assert without_positions == 10_646_784  # nanoGPT prints 10.65M, without its positions
    assert sum(p.numel() for p in model.parameters()) == without_positions + 256 * 384
    assert all(p.ndim == 2 or p.eq(1).all() for p in model.parameters())  # no bias anywhere


def test_initial_weights():
    model = gpt(65)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2:
            scaled = name.endswith(("projection.weight", "down.weight"))
            expected = 0.02 / math.sqrt(12) if scaled else 0.02
            assert parameter.std().item() == pytest.approx(expected, rel=0.03), name
    loss = F.cross_entropy(model.eval()(torch.randint(65, (2, 64))).flatten(0, 1), torch.randint(65, (128,)))
    assert loss.item() == pytest.approx(math.log(65), abs=0.2)  # it knows nothing yet


def test_seed_decides_and_the_global_state_does_not():
    state = torch.get_rng_state()
    first = small(seed=1).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(77)
    again, other = small(seed=1).state_dict(), small(seed=2).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["tokens.weight"], other["tokens.weight"])


@pytest.mark.parametrize("length", [1, 5, 8])
def test_every_place_gets_scores_and_every_parameter_a_gradient(length):
    model = small(dropout=0.0)
    scores = model(tokens(3, length))
    assert scores.shape == (3, length, 7)
    F.cross_entropy(scores.flatten(0, 1), torch.randint(7, (3 * length,))).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    used = model.positions.weight.grad.abs().sum(1) > 0
    assert used.tolist() == [place < length for place in range(8)]


@pytest.mark.parametrize("place", range(8))
def test_a_token_changes_nothing_before_it(place):
    model = small().eval()
    first = tokens(1)
    second = first.clone()
    second[0, place] = (first[0, place] + 1) % 7
    one, other = model(first)[0], model(second)[0]
    torch.testing.assert_close(one[:place], other[:place], rtol=0, atol=1e-7)
    assert ((one - other).abs().amax(1) > 1e-4).tolist() == [later >= place for later in range(8)]


def test_a_shorter_text_gives_the_same_scores():
    model, text = small().eval(), tokens()
    torch.testing.assert_close(model(text[:, :5]), model(text)[:, :5])


def test_attention_by_the_formula():
    attention = Attention(12, heads=3, dropout=0.2).eval()
    x = torch.randn(2, 5, 12)
    query, key, value = (attention.qkv(x)[..., part : part + 12] for part in (0, 12, 24))
    expected = torch.zeros(2, 5, 12)
    for head in range(3):
        mine = slice(4 * head, 4 * head + 4)
        for place in range(5):
            seen = slice(0, place + 1)
            scores = (key[:, seen, mine] * query[:, place, None, mine]).sum(2) / math.sqrt(4)
            expected[:, place, mine] = (scores.softmax(1)[:, :, None] * value[:, seen, mine]).sum(1)
    torch.testing.assert_close(attention(x), attention.projection(expected))


def test_mlp_by_the_formula():
    mlp = MLP(12, dropout=0.2).eval()
    x = torch.randn(2, 5, 12)
    inside = x @ mlp.up.weight.T
    assert inside.shape == (2, 5, 48)
    gelu = inside * (1 + torch.erf(inside / math.sqrt(2))) / 2
    torch.testing.assert_close(mlp(x), gelu @ mlp.down.weight.T)


def test_one_parameter_embeds_and_scores():
    model = small().eval()
    assert [name for name, p in model.named_parameters() if p.shape == (7, 12)] == ["tokens.weight"]
    nn.init.zeros_(model.tokens.weight.data[3])
    text = torch.full((1, 4), 3)
    assert model(text)[..., 3].abs().max() == 0  # its score
    nn.init.zeros_(model.positions.weight)
    assert model(text).abs().max() == 0  # and its embedding
    copied = copy.deepcopy(model)
    nn.init.normal_(copied.tokens.weight)
    assert copied(text).abs().max() > 0
    assert model(text).abs().max() == 0


def test_dropout_in_training_only():
    model, text = small(dropout=0.5), tokens()
    first, second = model(text), model(text)
    assert not torch.equal(first, second)
    torch.manual_seed(5)
    first = model(text)
    torch.manual_seed(5)
    assert torch.equal(first, model(text))
    assert torch.equal(model.eval()(text), model(text))
    without = small(dropout=0.0)
    torch.testing.assert_close(without(text), without.eval()(text))


@pytest.mark.parametrize("part", ["dropout", "blocks.0.attention.dropout", "blocks.0.mlp.dropout"])
def test_dropout_is_in_every_place_of_nanogpt(part):
    model, text = small(dropout=0.0), tokens()
    model.get_submodule(part).p = 0.5
    assert not torch.equal(model(text), model(text))


def test_bf16_autocast():
    model, text = small(dropout=0.0), tokens()
    with torch.autocast("cpu", torch.bfloat16):
        scores = model(text)
    assert scores.dtype == torch.bfloat16
    torch.testing.assert_close(scores.float(), model(text), rtol=0, atol=0.01)
    scores.float().square().sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_linear_layers_become_sparse_and_the_embeddings_stay_dense():
    model = gpt(65)
    method = rewire.dst_ee(steps=5000, every=100)
    sparsifier = rewire.sparsify(model, torch.optim.AdamW(model.parameters()), method, sparsity=0.9)
    assert set(sparsifier.masks) == {
        f"blocks.{number}.{linear}.weight"
        for number in range(6)
        for linear in ("attention.qkv", "attention.projection", "mlp.up", "mlp.down")
    }
    assert sum(int(mask.sum()) for mask in sparsifier.masks.values()) == round(0.1 * 6 * 12 * 384**2)
    assert {name for name, why in sparsifier.dense.items() if why == "embedding"} == {
        "tokens.weight",
        "positions.weight",
    }
    assert {why for why in sparsifier.dense.values() if why != "embedding"} == {"weight of LayerNorm"}


def test_it_learns_sparse():
    model = small(dropout=0.0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    sparsifier = rewire.sparsify(model, optimizer, rewire.set_(steps=150, every=10), sparsity=0.5)
    text = torch.arange(64) % 7
    for step in range(150):
        crop = text[step % 7 :][:9][None]
        loss = F.cross_entropy(model(crop[:, :-1])[0], crop[0, 1:])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss < 0.1
    weights = dict(model.named_parameters())
    assert all(weights[name][~mask].abs().max() == 0 for name, mask in sparsifier.masks.items())
    assert sparsifier.updates > 0


def test_width_keeps_the_heads():
    model = build_text("gpt", vocabulary=65, context=16, width=0.1)
    assert model.tokens.weight.shape == (65, 36)  # 38.4, and the nearest multiple of 6
    assert model.blocks[0].attention.heads == 6
    assert build_text("gpt", vocabulary=65, width=0.001).tokens.weight.shape == (65, 6)
    assert model(torch.zeros(1, 16, dtype=torch.int64)).shape == (1, 16, 65)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: gpt(7, width=10, heads=3),
            "A width of 10 cannot be shared by 3 heads: each has the same number of channels. "
            "Use a multiple of 3, such as 9.",
        ),
        (
            lambda: gpt(7, width=2, heads=3),
            "A width of 2 cannot be shared by 3 heads: each has the same number of channels. "
            "Use a multiple of 3, such as 3.",
        ),
        (
            lambda: small()(tokens(1, 9)),
            "A text of 9 tokens cannot be read at once: the model has positions for 8. "
            "Give at most 8 tokens, or build the model with context=9.",
        ),
        (lambda: build_text("lstm", vocabulary=7), "Unknown model 'lstm'. Known: gpt."),
        (lambda: build_text("cnn", vocabulary=7), "cnn is no model for text. Those are: gpt."),
        (
            lambda: build_text("gpt", vocabulary=7, width=0),
            "A gpt of 0 times its published width has no units. Use a width above 0, like 0.5 or 1.0.",
        ),
        (
            lambda: build("gpt", classes=7),
            "gpt is no model for images. Those are: mlp, mlp_chts, cnn, resnet20, resnet32, resnet50, "
            "resnet50_imagenet, vgg19, wrn22_2, mobilenet_v2.",
        ),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call()
