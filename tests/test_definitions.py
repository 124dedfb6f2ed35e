"""Compare each op's definition with the module of the model that computes the same, in float64.

test_ops.py compares kernels with the definitions; this file compares the definitions with the model. Every option that a model
sets has a value here that differs from the op's default.
"""

import pytest
import torch
import torch.nn.functional as F
from conftest import perturb, relative_error, small_config

from hubert_fast import HubertFeatureExtractor, HubertForCTC, HubertModel, ops
from hubert_fast.packed.kernel_graph import positional_weight
from hubert_fast.packed.torch_graph import fold
from hubert_fast.packed.weights import matrix_of

SAME = 1e-12  # the same mathematics in float64, summed in another order: 1e-15 measured
FIRST, LENGTHS = 2, (30, 1, 0, 13)  # of 48 packed frames, the first two and the last two belong to no utterance
BOUNDARIES = torch.tensor([2, 32, 33, 33, 46])


def model_of(cls=HubertModel, **overrides):
    return perturb(cls(small_config(**overrides))).double().eval()


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


def noise(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def check(actual, expected):
    assert actual.dtype == torch.float64 and relative_error(actual, expected) < SAME


def by_utterance(module, x):
    """Apply a module to each utterance of `[48, C]` separately; return zeros in the rows outside utterances."""
    parts = [module(part[None])[0] for part in x[FIRST:].split((*LENGTHS, 2))[:-1] if len(part)]
    return F.pad(torch.cat(parts), (0, 0, FIRST, 2))


def test_layer_norm():
    norm = model_of(layer_norm_eps=1e-3).encoder.layer_norm
    x = noise(7, 48)
    check(ops.layer_norm_eager(x, norm.weight, norm.bias, norm.eps), norm(x))


@pytest.mark.parametrize("post", [True, False], ids=["post-LN", "pre-LN"])
def test_add_layer_norm(post):
    """The residual add after attention and the norm that follows it, as in `EncoderLayer.forward`."""
    layer = model_of(do_stable_layer_norm=not post, layer_norm_eps=1e-3).encoder.layers[0]
    x, product, bias = noise(1, 9, 48), noise(1, 9, 48), layer.attention.out_proj.bias
    layer.attention.forward = lambda *arguments: (product + bias, None)
    norm = layer.layer_norm if post else layer.final_layer_norm
    stream, normed = ops.add_layer_norm_eager(x, product, bias, norm.weight, norm.bias, norm.eps, post=post)
    after_feed_forward = stream + layer.feed_forward(normed)
    check(layer.final_layer_norm(after_feed_forward) if post else after_feed_forward, layer(x, None, False)[0])


def test_attention():
    attention = model_of().encoder.layers[0].attention
    attention.out_proj = torch.nn.Identity()
    x = noise(48, 48)
    heads = [layer(x).unflatten(-1, (4, 12)) for layer in (attention.q_proj, attention.k_proj, attention.v_proj)]
    actual = ops.attention_eager(*heads, BOUNDARIES).flatten(1)
    check(actual, by_utterance(lambda part: attention(part, None, False)[0], x))


def test_attention_padded():
    attention = model_of().encoder.layers[0].attention
    attention.out_proj = torch.nn.Identity()
    x, mask = noise(4, 20, 48), torch.arange(20) < torch.tensor([20, 13, 1, 0])[:, None]
    heads = [layer(x).unflatten(-1, (4, 12)) for layer in (attention.q_proj, attention.k_proj, attention.v_proj)]
    actual = ops.attention_padded_eager(*heads, mask).flatten(2)
    check(actual[:3], attention(x[:3], mask[:3, None, None], False)[0])
    assert not actual[3].any()  # the model never computes a row without keys


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_conv_first_with_a_layer_norm(bias):
    layer = model_of(conv_bias=bias, conv_stride=(4, 2, 2, 2, 2, 2, 2)).feature_extractor.conv_layers[0]
    samples, norm = noise(999), layer.layer_norm
    norm.eps = 1e-3
    weight = matrix_of(layer.conv, torch.float64).t()
    arguments = samples, weight, layer.conv.bias, norm.weight, norm.bias
    check(ops.conv_first_eager(*arguments, stride=4, eps=norm.eps), layer(samples[None, None])[0].t())


@pytest.mark.parametrize("stride", [5, 4])
def test_conv_first_and_window_statistics_with_a_group_norm(stride):
    """The statistics of the windows, folded into the weight, are what GroupNorm computes from the convolution's output."""
    values = dict(feat_extract_norm="group", conv_bias=True, conv_stride=(stride, 2, 2, 2, 2, 2, 2))
    layer = model_of(**values).feature_extractor.conv_layers[0]
    layer.layer_norm.eps = 1e-3
    lengths, starts = [640, 320, 960], [0, 640, 960]
    samples = noise(1920)
    statistics = ops.window_statistics_eager(samples, starts, lengths, 10, stride)
    weights, means, bias = fold(layer, matrix_of(layer.conv, torch.float64), *statistics)
    utterance_of_hop = torch.tensor([0, 0, 1, 2, 2, 2, 2])  # of 320 samples
    arguments = samples, weights.transpose(1, 2), bias, None, None, means, utterance_of_hop, 320 // stride
    actual = ops.conv_first_eager(*arguments, stride=stride)
    for start, length in zip(starts, lengths):
        expected = layer(samples[None, None, start : start + length])[0].t()
        check(actual[start // stride :][: len(expected)], expected)


def test_conv_first_with_means_needs_utterances():
    with pytest.raises(ValueError, match="means need utterances"):
        ops.conv_first_eager(noise(100), noise(1, 10, 8), None, None, None, noise(1, 10))


@pytest.mark.parametrize("norm", ["layer", "group"], ids=["LayerNorm", "no norm"])
@pytest.mark.parametrize("stride", [2, 3])
def test_conv_gelu(norm, stride):
    values = dict(feat_extract_norm=norm, conv_stride=(5, stride, 2, 2, 2, 2, 2))
    layer = model_of(**values).feature_extractor.conv_layers[1]
    x, norms = noise(33, 16), (None, None)
    if norm == "layer":
        layer.layer_norm.eps = 1e-3
        norms = layer.layer_norm.weight, layer.layer_norm.bias
    arguments = x, matrix_of(layer.conv, torch.float64), layer.conv.bias, *norms
    check(ops.conv_gelu_eager(*arguments, stride=stride, eps=1e-3), layer(x.t()[None])[0].t())


@pytest.mark.parametrize("kernel", [16, 7], ids=["even", "odd"])
@pytest.mark.parametrize("activation", ["gelu", "linear"])
def test_conv_positional(kernel, activation):
    values = dict(num_conv_pos_embeddings=kernel, feat_extract_activation=activation)
    embedding = model_of(**values).encoder.pos_conv_embed
    x, residual = noise(48, 48), noise(48, 48)
    # positional_weight applies weight norm in float32 (test_ops.py compares that)
    torch.nn.utils.parametrize.remove_parametrizations(embedding.conv, "weight")
    weight = positional_weight(embedding.conv, torch.float64)
    arguments = x, weight, embedding.conv.bias, BOUNDARIES
    expected = by_utterance(embedding, x)
    check(ops.conv_positional_eager(*arguments, gelu=activation == "gelu"), expected)
    inside = (torch.arange(48) >= BOUNDARIES[0]) & (torch.arange(48) < BOUNDARIES[-1])
    actual = ops.conv_positional_eager(*arguments, residual=residual, gelu=activation == "gelu")
    check(actual, (expected + residual) * inside[:, None])


def test_linear_gelu_and_linear_add():
    """The feed-forward block with its residual add is these two products in sequence."""
    block = model_of().encoder.layers[0].feed_forward
    x, residual = noise(5, 48), noise(5, 48)
    hidden = ops.linear_gelu_eager(x, block.intermediate_dense.weight, block.intermediate_dense.bias)
    check(hidden, F.gelu(block.intermediate_dense(x)))
    actual = ops.linear_add_eager(hidden, block.output_dense.weight, block.output_dense.bias, residual)
    check(actual, residual + block(x))


def test_ctc_argmax():
    model = model_of(HubertForCTC)
    states = model.hubert(noise(2, 4000))["last_hidden_state"]
    ids, log_probs = ops.ctc_argmax_eager(states, model.lm_head.weight, model.lm_head.bias)
    expected, best = model.lm_head(states).log_softmax(-1).max(-1)
    assert torch.equal(ids.long(), best) and relative_error(log_probs, expected) < 1e-7  # log-probabilities are float32


def test_unit_argmin():
    frames, centroids = noise(2, 50, 24), noise(30, 24)
    distances = (frames[:, :, None] - centroids).square().sum(-1)
    assert torch.equal(ops.unit_argmin_eager(frames, centroids), distances.argmin(-1).int())


@pytest.mark.parametrize("scale", [1, 3e-4], ids=["loud", "as quiet as the variance floor"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.int16], ids=str)
def test_normalize_waveforms(scale, dtype):
    samples = 0.1 * scale * (1 + noise(1000))
    if dtype == torch.int16:
        samples = (samples * 32768).round()
    samples = samples.to(dtype)
    extractor = HubertFeatureExtractor(do_normalize=True)
    actual = ops.normalize_waveforms_eager(samples, [0, 640], [500, 300])
    for start, length in ((0, 500), (640, 300)):
        waveform = samples[start : start + length].float() / (32768 if dtype == torch.int16 else 1)
        expected = extractor(waveform.numpy(), return_tensors="pt")["input_values"][0]
        assert relative_error(actual[start : start + length], expected) < 1e-6  # the extractor computes in float32
