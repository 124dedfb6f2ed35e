"""When the packed graph serves a call and when it must not, and that it may be called from anywhere."""

import threading

import pytest
import torch
from conftest import POST_LN, PRE_LN, assert_close, masked_batch, perturb
from torch import nn
from torch.utils.data import DataLoader

from hubert_fast import HubertConfig, HubertForCTC, HubertForSequenceClassification, HubertModel, PackedAudio

BOTH = pytest.mark.parametrize("values", [POST_LN, PRE_LN], ids=["post-LN", "pre-LN"])


def fresh(values=PRE_LN, cls=HubertForCTC, **more):
    return perturb(cls(HubertConfig(**{**values, **more}))).eval()


@pytest.mark.parametrize("cls", [HubertModel, HubertForCTC, HubertForSequenceClassification])
def test_explain_path(cls):
    model = fresh(cls=cls, output_attentions=False)
    waveform = torch.randn(1, 800)
    with torch.inference_mode():
        assert model.explain_path() == model.explain_path(waveform) == "packed"
        assert model.explain_path(output_attentions=True) == "definition: attentions are asked for"
        assert model.explain_path(mask_time_indices=torch.zeros(1, 2)) == "definition: mask_time_indices are given"
        assert model.explain_path(torch.empty(1, 800, device="meta")).startswith("definition: the device is meta")
        model.train()
        assert model.explain_path() == "definition: the model is training"
        model.eval().config.update({"output_attentions": True})
        assert model.explain_path() == "definition: attentions are asked for"
        model.config.update({"output_attentions": False})
    assert model.explain_path().startswith("definition: a gradient may be needed")
    model.requires_grad_(False)
    assert model.explain_path(waveform) == "packed"
    assert model.explain_path(waveform.requires_grad_()).startswith("definition: a gradient may be needed")


def hook(model):
    model.encoder.layers[1].feed_forward.register_forward_hook(lambda module, inputs, output: 2 * output)


def pre_hook(model):
    model.feature_extractor.conv_layers[0].register_forward_pre_hook(lambda module, inputs: (2 * inputs[0],))


def replaced_linear(model):
    class Twice(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    old = model.encoder.layers[0].attention.q_proj
    model.encoder.layers[0].attention.q_proj = Twice(old.in_features, old.out_features)


def replaced_forward(model):
    module = model.encoder.layers[0].feed_forward
    module.forward = lambda x, forward=module.forward: 2 * forward(x)


def removed_layer(model):
    del model.encoder.layers[1]


def parametrized(model):
    class Twice(nn.Module):
        def forward(self, weight):
            return 2 * weight

    nn.utils.parametrize.register_parametrization(model.encoder.layers[0].attention.v_proj, "weight", Twice())


def dropout_left_on(model):
    model.encoder.layers[0].dropout.train()


def another_activation(model):
    model.encoder.layers[0].feed_forward.activation = torch.relu


def activation_of_a_convolution(model):
    model.feature_extractor.conv_layers[2].activation = torch.relu


def another_eps(model):
    model.encoder.layers[0].layer_norm.eps = 0.5


def a_bias_less(model):
    model.encoder.layers[0].attention.k_proj.bias = None


def another_norm_before(model):
    model.encoder.layers[0].normalize_before = not model.encoder.layers[0].normalize_before


@BOTH
@pytest.mark.parametrize(
    "change",
    [
        *(hook, pre_hook, replaced_linear, replaced_forward, removed_layer, parametrized, dropout_left_on),
        *(another_activation, activation_of_a_convolution, another_eps, a_bias_less, another_norm_before),
    ],
    ids=lambda change: change.__name__,
)
@pytest.mark.parametrize("before", [True, False], ids=["before the first call", "after it"])
def test_a_changed_model_answers_as_its_modules_do(values, change, before):
    model = fresh(values)
    waveforms, mask = masked_batch((4000, 3000))
    with torch.no_grad():
        if not before:
            model(waveforms, attention_mask=mask)
        change(model.hubert)
        torch.manual_seed(3)
        found = model(waveforms[:1])[0]
        torch.manual_seed(3)
        expected = model(waveforms[:1], output_attentions=True)[0]
    assert_close(found, expected, "other graph")


def test_hooks_on_the_model_itself_run_and_let_it_be_fast():
    model, seen = fresh(cls=HubertModel), []
    model.register_forward_hook(lambda module, inputs, output: seen.append(output.last_hidden_state))
    with torch.no_grad():
        assert model.explain_path() == "packed"
        output = model(torch.randn(1, 800))
    assert seen == [output.last_hidden_state]


def test_a_hook_on_the_encoder_of_a_head_and_one_that_goes():
    model = fresh()
    handle = model.hubert.encoder.register_forward_hook(lambda *arguments: None)
    with torch.no_grad():
        assert model.explain_path() == "definition: encoder has a hook"
        handle.remove()
        assert model.explain_path() == "packed"
        handle = nn.modules.module.register_module_forward_hook(lambda *arguments: None)
        assert model.explain_path() == "definition: there are hooks on all modules"
        handle.remove()
        assert model.explain_path() == "packed"


def test_hooks_on_the_encoder_of_a_head_run_in_packed_calls_too():
    model = fresh()
    audio = PackedAudio.from_waveforms([torch.randn(4000), torch.randn(800)])
    with torch.no_grad():
        plain = model.forward_packed(audio).logits
        handle = model.hubert.register_forward_hook(
            lambda module, inputs, output: output.update(last_hidden_state=0 * output["last_hidden_state"])
        )
        assert torch.equal(model.forward_packed(audio).logits, model.lm_head.bias.expand_as(plain))
        handle.remove()
        forward = model.hubert.forward
        model.hubert.forward = lambda *arguments, **named: forward(*arguments, **named)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("hubert_fast.hubert_model.encode_packed", None)
            assert_close(model.forward_packed(audio).logits, plain, "other graph")
        del model.hubert.forward
        assert torch.equal(model.forward_packed(audio).logits, plain)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("encoder.layer_norm", "bias"),
        ("encoder.layers.1.final_layer_norm", "bias"),
        ("encoder.layers.0.attention.k_proj", "bias"),
        ("encoder.pos_conv_embed.conv", "bias"),
        ("feature_extractor.conv_layers.0.layer_norm", "bias"),
    ],
)
@BOTH
def test_a_parameter_that_goes_after_the_first_call(values, module, name):
    model = fresh(values, HubertModel)
    waveform = torch.randn(1, 4000)
    with torch.no_grad():
        model(waveform)
        setattr(model.get_submodule(module), name, None)
        assert model.explain_path() == f"definition: {name} of {module} is added or missing"
        assert_close(model(waveform)[0], model(waveform, output_attentions=True)[0], "attention")


def test_modes_that_watch_operations():
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx
    from torch.utils.flop_counter import FlopCounterMode

    model = fresh(cls=HubertModel)
    waveform = torch.randn(1, 4000)
    with torch.no_grad():
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            assert model(mode.from_tensor(waveform))[0].shape == (1, 12, 48)
        expected = model(waveform)[0]  # the mode left nothing behind
        assert_close(make_fx(lambda x: model(x).last_hidden_state)(waveform)(waveform), expected, "other graph")
        with FlopCounterMode(display=False) as counter:
            model(waveform)
    assert counter.get_total_flops() > 12 * 3 * 2 * (4 * 48 * 48 + 2 * 48 * 80)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad], ids=["packed", "definition"])
def test_another_dtype_than_the_weights(mode):
    model = fresh(cls=HubertModel)
    with mode(), pytest.raises(ValueError, match=r"must be torch\.float32 as the weights are, but is torch\.float64"):
        model(torch.randn(1, 800, dtype=torch.float64))


def test_a_class_of_its_own_is_not_bypassed():
    class Louder(HubertModel):
        def _mask_features(self, x, mask_time_indices):
            return 2 * x

    model = Louder(HubertConfig(**PRE_LN)).eval()
    waveform = torch.randn(1, 4000)
    with torch.no_grad():
        assert "Louder is not HubertModel itself" in model.explain_path()
        assert_close(model(waveform)[0], model(waveform, output_attentions=True)[0], "attention")


def test_replicas_of_data_parallel_leave_the_model_alone():
    model, waveform = fresh(cls=HubertModel), torch.randn(1, 4000)
    with torch.no_grad():
        expected = model(waveform)[0]
        seen = model.fast_path._watch._seen
        replica = model._replicate_for_data_parallel()
        assert replica.explain_path() == "definition: the model is a replica of nn.DataParallel"
        assert_close(replica(waveform)[0], expected, "other graph")
    assert model.fast_path._watch._seen is seen


def test_derivatives_by_function_transforms():
    model = fresh(cls=HubertModel).requires_grad_(False).double()
    waveform, direction = torch.randn(2, 1, 1200, dtype=torch.float64)

    def loss(x):
        return model(x)[0].square().sum()

    with torch.no_grad():
        gradient = torch.func.grad(loss)(waveform)
    step = 1e-5
    slope = (loss(waveform + step * direction) - loss(waveform - step * direction)) / (2 * step)
    assert (gradient * direction).sum().item() == pytest.approx(slope.item(), rel=1e-5)
    with torch.autograd.forward_ad.dual_level(), torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        dual = torch.autograd.forward_ad.make_dual(waveform, direction)
        tangent = torch.autograd.forward_ad.unpack_dual(loss(dual)).tangent
    assert tangent.item() == pytest.approx(slope.item(), rel=1e-5)
    batched = torch.func.vmap(lambda x: model(x)[0])(torch.stack([waveform, direction]))
    with torch.no_grad():
        assert torch.allclose(batched[1], model(direction)[0])


@BOTH
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_modes_without_gradients(values, mode):
    model = fresh(values)
    waveforms, mask = masked_batch((8000, 5000))
    with mode():
        found = model(waveforms, attention_mask=mask).logits
        packed = model.forward_packed(PackedAudio.from_waveforms([waveforms[0], waveforms[1, :5000]]))
    with torch.no_grad() if mode is torch.inference_mode else torch.inference_mode():
        assert torch.equal(model(waveforms, attention_mask=mask).logits, found)  # weights made in the other mode serve
        assert torch.equal(model.forward_packed(PackedAudio.from_waveforms([waveforms[0], waveforms[1, :5000]]))[0], packed[0])
    model.train()
    model(waveforms, attention_mask=mask, labels=torch.tensor([[1], [2]])).loss.backward()  # and disturb no training


@BOTH
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast(values, dtype):
    model = fresh(values, hidden_size=64, num_conv_pos_embedding_groups=4)
    waveforms, mask = masked_batch((8000, 5000))
    frames = model.frame_mask(mask, 24)
    with torch.no_grad():
        exact = model(waveforms, attention_mask=mask).logits[frames]
        with torch.autocast("cpu", dtype):
            assert model.explain_path() == "packed"
            found = model(waveforms, attention_mask=mask).logits
            expected = model(waveforms, attention_mask=mask, output_attentions=True).logits
        assert found.dtype == expected.dtype == dtype
        lost, allowed = ((x[frames] - exact).square().mean().sqrt() for x in (found.float(), expected.float()))
        assert 0 < lost < 1.2 * allowed
        assert torch.equal(model(waveforms, attention_mask=mask).logits[frames], exact)  # float32 again


def test_threads_share_a_model():
    model = fresh(POST_LN)
    audios = [PackedAudio.from_waveforms([torch.randn(400 * (thread + 1) + 100 * i) for i in range(3)]) for thread in range(6)]
    with torch.no_grad():
        expected = [fresh_copy(model).forward_packed(audio).logits for audio in audios]
    found = [None] * len(audios)
    barrier = threading.Barrier(len(audios))

    def work(index):
        barrier.wait()
        with torch.inference_mode():
            for _ in range(5):
                found[index] = model.forward_packed(audios[index]).logits

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(audios))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for ours, other in zip(found, expected):
        assert_close(ours, other, "same graph")


def fresh_copy(model):
    import copy

    return copy.deepcopy(model)


class Encoded(torch.utils.data.Dataset):
    """What a data set does that encodes its waveforms in the workers of its loader."""

    def __init__(self, model):
        self.model, self.waveforms = model, torch.randn(4, 4000)

    def __len__(self):
        return len(self.waveforms)

    def __getitem__(self, index):
        with torch.no_grad():
            assert self.model.explain_path() == "packed"
            return self.model.forward_packed(PackedAudio.from_waveforms([self.waveforms[index]])).last_hidden_state


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_in_the_workers_of_a_data_loader(context):
    data = Encoded(fresh(cls=HubertModel, conv_pos_batch_norm=True))  # PyTorch pickles no weight norm, as spawning needs
    expected = torch.stack([data[index] for index in range(4)])
    found = torch.cat(list(DataLoader(data, batch_size=2, num_workers=2, multiprocessing_context=context)))
    assert_close(found, expected, "same graph")
