"""Each op's definition against the module of the model that it stands for, in float64.

Kernels are held to the definitions (test_ops.py), and the definitions to the model here: so an op cannot drift from HuBERT.
"""

import pytest
import torch
import torch.nn.functional as F
from conftest import perturb, relative_error, small_config

from hubert_fast import HubertForCTC, HubertModel, ops
from hubert_fast.packed.kernel_graph import positional_weight
from hubert_fast.packed.torch_graph import fold
from hubert_fast.packed.weights import matrix_of
from hubert_fast.processing import FeatureExtractor

SAME = 1e-12  # the same mathematics in float64, summed in another order: 1e-15 seen
LENGTHS = (30, 1, 0, 17)
BOUNDARIES = torch.tensor([0, 30, 31, 31, 48])


def model_of(cls=HubertModel, **overrides):
    return perturb(cls(small_config(**overrides))).double().eval()


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


def noise(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def check(found, expected):
    assert found.dtype == torch.float64 and relative_error(found, expected) < SAME


def utterances(x):
    """Split packed frames ``[N, C]`` into utterances, those without frames left out."""
    return [part for part in x.split(LENGTHS) if len(part)]


def test_layer_norm():
    norm = model_of(layer_norm_eps=1e-3).encoder.layer_norm
    x = noise(7, 48)
    check(ops.layer_norm_eager(x, norm.weight, norm.bias, norm.eps), norm(x))


@pytest.mark.parametrize("post", [True, False], ids=["post-LN", "pre-LN"])
def test_add_layer_norm(post):
    """The residual add after attention and the norm that follows it, as in `EncoderLayer.forward`."""
    layer = model_of(do_stable_layer_norm=not post).encoder.layers[0]
    x, attended = noise(1, 9, 48), noise(1, 9, 48)
    layer.attention.forward = lambda *arguments: (attended, None)
    norm = layer.layer_norm if post else layer.final_layer_norm
    stream, normed = ops.add_layer_norm_eager(x, attended, None, norm.weight, norm.bias, norm.eps, post=post)
    after_feed_forward = stream + layer.feed_forward(normed)
    check(layer.final_layer_norm(after_feed_forward) if post else after_feed_forward, layer(x, None, False)[0])


def test_attention():
    attention = model_of().encoder.layers[0].attention
    x = noise(48, 48)
    heads = [layer(x).unflatten(-1, (4, 12)) for layer in (attention.q_proj, attention.k_proj, attention.v_proj)]
    found = attention.out_proj(ops.attention_eager(*heads, BOUNDARIES).flatten(1))
    check(found, torch.cat([attention(part[None], None, False)[0][0] for part in utterances(x)]))


def test_attention_padded():
    attention = model_of().encoder.layers[0].attention
    x, mask = noise(3, 20, 48), torch.arange(20) < torch.tensor([20, 13, 1])[:, None]
    heads = [layer(x).unflatten(-1, (4, 12)) for layer in (attention.q_proj, attention.k_proj, attention.v_proj)]
    found = attention.out_proj(ops.attention_padded_eager(*heads, mask).flatten(2))
    check(found, attention(x, mask[:, None, None], False)[0])


def test_conv_first_with_a_layer_norm():
    layer = model_of().feature_extractor.conv_layers[0]
    samples = noise(999)
    weight = matrix_of(layer.conv, torch.float64).t()
    norm = layer.layer_norm
    found = ops.conv_first_eager(samples, weight, layer.conv.bias, norm.weight, norm.bias, eps=norm.eps)
    check(found, layer(samples[None, None])[0].t())


def test_conv_first_and_window_statistics_with_a_group_norm():
    """The statistics of the windows, folded into the weight, are what GroupNorm computes from the convolution's output."""
    layer = model_of(feat_extract_norm="group", conv_bias=True).feature_extractor.conv_layers[0]
    lengths, starts, hops = [640, 320, 960], [0, 640, 960], 5
    samples = noise(1920)
    statistics = ops.window_statistics_eager(samples, starts, lengths, 10, 5)
    weights, means, bias = fold(layer, matrix_of(layer.conv, torch.float64), *statistics)
    of_hop = torch.tensor([0, 0, 1, 2, 2, 2, 2])
    arguments = samples, weights.transpose(1, 2), bias, None, None, means, of_hop, 320 // hops
    found = ops.conv_first_eager(*arguments)
    for start, length in zip(starts, lengths):
        expected = layer(samples[None, None, start : start + length])[0].t()
        check(found[start // hops :][: len(expected)], expected)


@pytest.mark.parametrize("norm", ["layer", "group"], ids=["LayerNorm", "no norm"])
def test_conv_gelu(norm):
    layer = model_of(feat_extract_norm=norm).feature_extractor.conv_layers[1]
    x = noise(33, 16)
    norms = (layer.layer_norm.weight, layer.layer_norm.bias) if norm == "layer" else (None, None)
    found = ops.conv_gelu_eager(x, matrix_of(layer.conv, torch.float64), layer.conv.bias, *norms)
    check(found, layer(x.t()[None])[0].t())


@pytest.mark.parametrize("kernel", [16, 7], ids=["even", "odd"])
def test_conv_positional(kernel):
    embedding = model_of(num_conv_pos_embeddings=kernel).encoder.pos_conv_embed
    x = noise(48, 48)
    torch.nn.utils.parametrize.remove_parametrizations(embedding.conv, "weight")  # kernels take weight norm in float32
    weight = positional_weight(embedding.conv, torch.float64)
    found = ops.conv_positional_eager(x, weight, embedding.conv.bias, BOUNDARIES, residual=x)
    check(found, x + torch.cat([embedding(part[None])[0] for part in utterances(x)]))


def test_linear_gelu_and_linear_add():
    """The feed-forward block with its residual add is the two products in turn."""
    block = model_of().encoder.layers[0].feed_forward
    x, residual = noise(5, 48), noise(5, 48)
    hidden = ops.linear_gelu_eager(x, block.intermediate_dense.weight, block.intermediate_dense.bias)
    check(hidden, F.gelu(block.intermediate_dense(x)))
    found = ops.linear_add_eager(hidden, block.output_dense.weight, block.output_dense.bias, residual)
    check(found, residual + block(x))


def test_ctc_argmax():
    model = model_of(HubertForCTC)
    states = model.hubert(noise(2, 4000))["last_hidden_state"]
    ids, log_probs = ops.ctc_argmax_eager(states, model.lm_head.weight, model.lm_head.bias)
    expected, best = model.lm_head(states).log_softmax(-1).max(-1)
    assert torch.equal(ids.long(), best) and relative_error(log_probs, expected) < 1e-7  # log-probabilities are float32


def test_normalize_waveforms():
    samples = 3 + noise(1000)
    extractor = FeatureExtractor(do_normalize=True)
    found = ops.normalize_waveforms_eager(samples.float(), [0, 640], [500, 300])
    for start, length in ((0, 500), (640, 300)):
        expected = extractor(samples[start : start + length].float().numpy(), return_tensors="pt")["input_values"][0]
        assert relative_error(found[start : start + length], expected) < 1e-6  # the extractor computes in float32
