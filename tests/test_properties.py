"""Check what must hold for any configuration and any lengths, with random small ones from hypothesis."""

from types import SimpleNamespace

import torch
from conftest import TOLERANCES, perturb
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hubert_fast import HubertConfig, HubertForCTC, HubertForSequenceClassification, HubertModel

BOOLEANS = st.booleans()
NORMS = st.sampled_from(["group", "layer"])
MODELS = st.sampled_from([HubertModel, HubertForCTC, HubertForSequenceClassification])
BOUNDED = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)


@st.composite
def configurations(draw, norm=NORMS, batch_norm=BOOLEANS):
    heads, groups = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    return HubertConfig(
        hidden_size=heads * groups * draw(st.sampled_from([4, 6, 8])),
        num_attention_heads=heads,
        num_conv_pos_embedding_groups=groups,
        num_conv_pos_embeddings=draw(st.integers(1, 20)),
        num_hidden_layers=draw(st.integers(1, 3)),
        intermediate_size=draw(st.integers(1, 40)),
        conv_dim=draw(st.lists(st.integers(2, 12), min_size=7, max_size=7)),
        conv_bias=draw(BOOLEANS),
        feat_extract_norm=draw(norm),
        feat_proj_layer_norm=draw(BOOLEANS),
        do_stable_layer_norm=draw(BOOLEANS),
        conv_pos_batch_norm=draw(batch_norm),
        adapter_attn_dim=draw(st.sampled_from([None, 3])),
        hidden_act=draw(st.sampled_from(["gelu", "relu", "silu", "gelu_new"])),
        use_weighted_layer_sum=draw(BOOLEANS),
        mask_time_prob=draw(st.sampled_from([0.0, 0.05])),
        vocab_size=draw(st.integers(1, 40)),
        num_labels=draw(st.integers(1, 5)),
        an_unknown_key=draw(st.text(max_size=5)),
    )


@BOUNDED
@given(
    configurations(norm=st.just("layer"), batch_norm=st.just(False)),
    MODELS,
    st.lists(st.integers(0, 3000), min_size=1, max_size=5),
    st.booleans(),
)
def test_masked_batches_match_each_row_alone(config, cls, lengths, attentions):
    """This holds for models that normalise over channels, whatever the padding holds.

    It does not hold with a group norm, nor with a batch norm before the positional convolution, which makes the zeros of
    padded frames nonzero: both as in transformers.
    """
    lengths = torch.tensor([*lengths, 400])
    model = perturb(cls(config)).eval()
    waveforms = torch.randn(len(lengths), int(lengths.max()))
    mask = torch.arange(waveforms.shape[1]) < lengths[:, None]
    with torch.no_grad():
        together = model(waveforms, attention_mask=mask, output_attentions=attentions)[0]
        assert together.isfinite().all()
        for row, length in enumerate(lengths.tolist()):
            if length < 400:
                continue
            alone = model(waveforms[row : row + 1, :length])[0][0]
            actual = together[row] if cls is HubertForSequenceClassification else together[row, : len(alone)]
            # some layers here are two numbers wide, and a norm over those amplifies rounding
            bound = 20 * TOLERANCES["same graph"] * max(1.0, alone.abs().max().item())
            assert (actual - alone).abs().max().item() <= bound


@BOUNDED
@given(configurations(), MODELS, st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64]), st.booleans())
def test_saved_models_load_exactly(tmp_path_factory, config, cls, dtype, sharded):
    folder = tmp_path_factory.mktemp("saved")
    model = perturb(cls(config)).to(dtype)
    model.save_pretrained(folder, max_shard_size="10KB" if sharded else "5GB")
    loaded, info = cls.from_pretrained(folder, dtype="auto", output_loading_info=True)
    assert not any(info.values())
    known = model.config.to_dict()
    assert {key: value for key, value in loaded.config.to_dict().items() if key in known} == known
    state = loaded.state_dict()
    assert state.keys() == model.state_dict().keys()
    for key, tensor in model.state_dict().items():
        assert state[key].dtype == tensor.dtype and torch.equal(state[key], tensor), key


@BOUNDED
@given(
    st.lists(st.tuples(st.integers(1, 11), st.integers(1, 5)), min_size=1, max_size=7),
    st.integers(0, 2000),
)
def test_frame_counts_match_the_convolutions(layers, samples):
    kernels, strides = zip(*layers)
    config = HubertConfig(
        conv_dim=(1,) * len(layers), conv_kernel=kernels, conv_stride=strides, hidden_size=4, num_attention_heads=1,
        num_conv_pos_embedding_groups=1, num_hidden_layers=0, feat_extract_norm="layer",
    )  # fmt: skip
    model = HubertModel(config).eval()
    counted = int(model.frame_counts(torch.tensor(samples)))
    assert (counted > 0) == (samples >= config.receptive_field)
    if counted:
        with torch.no_grad():
            assert model.feature_extractor(torch.zeros(1, samples)).shape[2] == counted


@BOUNDED
@given(
    layers=st.lists(st.tuples(st.integers(1, 12), st.integers(1, 6)), min_size=1, max_size=8),
    samples=st.lists(st.integers(0, 10**7), min_size=1, max_size=20),
)
def test_frame_counts_are_those_of_the_convolutions_one_by_one(layers, samples):
    kernels, strides = zip(*layers)
    config = HubertConfig(conv_kernel=kernels, conv_stride=strides, conv_dim=(8,) * len(layers))
    expected = torch.tensor(samples)
    for kernel, stride in layers:
        expected = (expected - kernel).div(stride, rounding_mode="floor") + 1
    owner = SimpleNamespace(config=config)
    counts = HubertForCTC.frame_counts(owner, torch.tensor(samples))
    assert torch.equal(counts, expected.clamp(min=0))
