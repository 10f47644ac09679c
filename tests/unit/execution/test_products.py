"""Quick products of float32 matrices: the same layer as PyTorch's, forward and backward, wherever they are taken."""

import copy

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModel

from mtdnn.config.execution import Execution
from mtdnn.execution import products
from mtdnn.execution.products import Linear, bf16_is_faster, linear, onednn_is_faster, use_fast_products
from mtdnn.networks.encoder import Encoder
from mtdnn.networks.word_heads import MaskedLMHead

ROUNDING = 2e-6
"""Relative to the norm; float32 sums of 500 numbers in another order differ by some 5e-7."""

onednn = pytest.mark.skipif(
    not hasattr(torch.ops.mkldnn, "_linear_pointwise"), reason="this PyTorch has no oneDNN product"
)


@pytest.fixture
def quick(monkeypatch):
    """Products by oneDNN on any processor, also small ones; the number of calls so far."""
    calls = []
    product = products._onednn
    monkeypatch.setattr(products, "_onednn", lambda *arguments: calls.append(1) or product(*arguments))
    monkeypatch.setattr(products, "onednn_is_faster", lambda: True)
    monkeypatch.setattr(products, "_SMALLEST", 1)
    return calls


def close(found, expected):
    return (found - expected).norm() <= ROUNDING * expected.norm()


@onednn
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(70, 500), (1, 70, 500), (2, 3, 11, 500), (500,), (0, 500)])
def test_a_layer_and_its_gradients_equal_those_of_pytorch(quick, shape, bias):
    torch.manual_seed(0)
    plain = nn.Linear(500, 90, bias=bias)
    fast = copy.deepcopy(plain)
    use_fast_products(nn.ModuleList([fast]))
    assert type(fast) is Linear
    x, upstream = torch.randn(shape, requires_grad=True), torch.randn(*shape[:-1], 90)
    y = x.detach().clone().requires_grad_()
    for layer, given in ((plain, x), (fast, y)):
        (layer(given) * upstream).sum().backward()
    assert bool(quick) == (x.numel() > 0)
    assert close(fast(y), plain(x))
    assert close(y.grad, x.grad)
    for own, other in zip(fast.parameters(), plain.parameters(), strict=True):
        assert close(own.grad, other.grad)
        assert own.grad.is_contiguous()


@onednn
@pytest.mark.parametrize("last", [torch.sum, lambda y: (y.t() ** 2).mean()], ids=["expanded", "transposed"])
def test_inputs_and_gradients_may_be_views(quick, last):
    torch.manual_seed(0)
    layer, x = Linear(300, 40), torch.randn(300, 60).t()
    found, expected = (
        torch.autograd.grad(last(y), layer.weight)[0] for y in (layer(x), nn.functional.linear(x, *layer.parameters()))
    )
    assert len(quick) == 2
    assert close(found, expected)


@onednn
def test_only_the_gradients_asked_for_are_computed(quick):
    layer, x = Linear(300, 40), torch.randn(60, 300, requires_grad=True)

    def products_of(backward):
        y = layer(x * 1).sum()
        quick.clear()
        backward(y)
        return len(quick)

    assert products_of(lambda y: y.backward()) == 2
    assert products_of(lambda y: torch.autograd.grad(y, x)) == 1
    assert products_of(lambda y: torch.autograd.grad(y, layer.weight)) == 1
    assert products_of(lambda y: torch.autograd.grad(y, layer.bias)) == 0
    assert products_of(lambda y: torch.autograd.grad(y, [x, layer.weight])) == 2
    layer.requires_grad_(False)
    assert products_of(lambda y: y.backward()) == 1


@onednn
@pytest.mark.parametrize("case", ["float64", "bfloat16", "autocast", "small", "compiling"])
def test_other_products_are_left_to_pytorch(quick, monkeypatch, case):
    x, weight = torch.randn(40, 30), torch.randn(20, 30)
    if case in ("float64", "bfloat16"):
        x, weight = x.to(getattr(torch, case)), weight.to(getattr(torch, case))
    if case == "small":
        monkeypatch.setattr(products, "_SMALLEST", 40 * 30 * 20 + 1)
    if case == "compiling":
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    with torch.autocast("cpu", torch.bfloat16, enabled=case == "autocast"):
        found = linear(x, weight)
        assert torch.equal(found, nn.functional.linear(x, weight))
    assert not quick


@pytest.mark.parametrize("missing", ["nothing", "maker", "width", "operator", "result"])
def test_onednn_is_taken_only_where_it_is_known_to_be_quicker(monkeypatch, missing):
    def product(x, weight, bias=None):
        if missing == "operator":
            raise AttributeError("no such operator")
        return x @ weight.t() + (missing == "result")

    monkeypatch.setattr(products, "_onednn", product)
    maker = "GenuineIntel" if missing == "maker" else "AuthenticAMD"
    monkeypatch.setattr(products, "processor", lambda: f"vendor_id : {maker}")
    width = "AVX2" if missing == "width" else "AVX512"
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: width)
    for library in (torch.backends.mkl, torch.backends.mkldnn):
        monkeypatch.setattr(library, "is_available", lambda: True)
    assert onednn_is_faster.__wrapped__() == (missing == "nothing")


@pytest.mark.parametrize(
    "maker, flags, faster",
    [
        ("AuthenticAMD", "avx512f avx512_bf16", True),  # Zen 4
        ("AuthenticAMD", "avx512f", False),  # none of AVX-512 on bf16 numbers: oneDNN converts them
        ("AuthenticAMD", "avx2", False),
        ("GenuineIntel", "avx512f avx512_bf16", True),  # Cooper Lake
        ("GenuineIntel", "avx512f avx512_bf16 avx512_fp16", False),  # Sapphire Rapids in a virtual machine
        ("GenuineIntel", "avx512f avx512_bf16 avx512_fp16 amx_bf16", True),
    ],
)
def test_bf16_is_known_to_be_faster_by_the_instructions_of_the_processor(monkeypatch, maker, flags, faster):
    described = f"vendor_id\t: {maker}\nflags\t\t: fpu {flags} sse2\nbugs\t\t: amx_bf16"
    monkeypatch.setattr(products.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(products, "processor", lambda: described)
    assert bf16_is_faster.__wrapped__() == faster


@pytest.mark.parametrize("machine, described", [("arm64", "arm"), ("AMD64", "Intel64 Family 6 Model 207"), ("", "")])
def test_bf16_is_kept_where_the_instructions_are_not_known(monkeypatch, machine, described):
    monkeypatch.setattr(products.platform, "machine", lambda: machine)
    monkeypatch.setattr(products, "processor", lambda: described)
    assert bf16_is_faster.__wrapped__()


def bert():
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 96}
    return AutoModel.from_config(AutoConfig.for_model("bert", vocab_size=50, **sizes))


@onednn
def test_an_encoder_multiplies_as_it_is_reported(quick):
    ids, mask = torch.randint(50, (4, 9)), torch.ones(4, 9, dtype=torch.bool)
    found = {}
    for word in ("fast", "torch"):
        quick.clear()
        found[word] = Encoder(bert(), execution=Execution(products=word)).eval()(ids, mask)
        assert bool(quick) == (word == "fast")
    assert close(found["fast"], found["torch"])


@onednn
def test_the_output_over_tied_embeddings_is_multiplied_as_the_layer_before_it(quick):
    embeddings = nn.Embedding(50, 16)
    head, hidden = MaskedLMHead(16, embeddings).eval(), torch.randn(7, 16)
    plain = head(hidden, None)
    assert not quick
    use_fast_products(head)
    assert close(head(hidden, None), plain)
    assert len(quick) == 2
