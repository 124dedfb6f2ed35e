"""Check when the packed graph serves a call, when it must not, and that threads and worker processes can call it."""

import gc
import threading
import weakref
from collections import UserDict

import numpy as np
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
        assert model.explain_path(output_attentions=True) == "definition: attentions are requested"
        assert model.explain_path(mask_time_indices=torch.zeros(1, 2)) == "definition: mask_time_indices are given"
        assert model.explain_path(torch.empty(1, 800, device="meta")).startswith("definition: the device is meta")
        model.train()
        assert model.explain_path() == "definition: the model is training"
        model.eval().config.update({"output_attentions": True})
        assert model.explain_path() == "definition: attentions are requested"
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


def replaced_activation(model):
    model.encoder.layers[0].feed_forward.activation = torch.relu


def replaced_convolution_activation(model):
    model.feature_extractor.conv_layers[2].activation = torch.relu


def changed_eps(model):
    model.encoder.layers[0].layer_norm.eps = 0.5


def missing_bias(model):
    model.encoder.layers[0].attention.k_proj.bias = None


def changed_normalize_before(model):
    model.encoder.layers[0].normalize_before = not model.encoder.layers[0].normalize_before


def renamed_forward(model):
    entries = vars(model.encoder.layers[0].feed_forward)
    entries["forward"] = entries.pop("kept")


def replaced_dictionary_of_hooks(model):
    layer = model.encoder.layers[0]
    layer._forward_hooks = type(layer._forward_hooks)()
    reason_not_packed(model)
    layer._forward_hooks[0] = print


def replaced_dictionary(model):
    layer = model.encoder.layers[0]
    layer.__dict__ = dict(vars(layer))
    reason_not_packed(model)
    layer.training = True


def eps_changed_in_place(model):
    model.encoder.layers[0].final_layer_norm.eps[...] = 0.5


def parameter_subclass(model):
    class Quantised(nn.Parameter):
        pass

    layer = model.encoder.layers[1].attention.q_proj
    layer.weight = Quantised(layer.weight.detach())


def another_class(model):
    class Twice(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    model.encoder.layers[1].attention.q_proj.__class__ = Twice


def patched_class(model):
    type(model.encoder.layers[1].feed_forward).forward = lambda self, x: x


def renamed_bias(model):
    parameters = model.encoder.layers[0].attention.q_proj._parameters
    parameters["slope"] = parameters.pop("bias")


def reason_not_packed(model):
    with torch.no_grad():
        return model.fast_path.why_not(model, type(model), torch.empty(1, 800), True)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (hook, "encoder.layers.1.feed_forward has a hook"),
        (replaced_linear, "encoder.layers.0.attention.q_proj is replaced_linear.<locals>.Twice"),
        (replaced_forward, "forward of encoder.layers.0.feed_forward is replaced"),
        (renamed_forward, "forward of encoder.layers.0.feed_forward is replaced"),
        (removed_layer, "encoder.layers.2 is missing"),
        (dropout_left_on, "encoder.layers.0.dropout is in training mode"),
        (changed_eps, "eps of encoder.layers.0.layer_norm is 0.5"),
        (eps_changed_in_place, "eps of encoder.layers.0.final_layer_norm is array(0.5)"),
        (missing_bias, "bias of encoder.layers.0.attention.k_proj is added or missing"),
        (renamed_bias, "bias, slope of encoder.layers.0.attention.q_proj is added or missing"),
        (parameter_subclass, "encoder.layers.1.attention.q_proj has weights of type"),
        (replaced_dictionary_of_hooks, "encoder.layers.0 has a hook"),
        (replaced_dictionary, "encoder.layers.0 is in training mode"),
        (another_class, "encoder.layers.1.attention.q_proj is another_class.<locals>.Twice"),
        (patched_class, "the forward of FeedForward is patched"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_changes_after_many_calls_are_noticed_at_the_next(change, reason, monkeypatch):
    """The quick check notices too, which compares the modules with a snapshot of them."""
    model = fresh(cls=HubertModel)
    kind = type(model.encoder.layers[0].feed_forward)
    monkeypatch.setattr(kind, "forward", kind.forward)
    if change is renamed_forward:
        model.encoder.layers[0].feed_forward.kept = lambda x: x
    if change is eps_changed_in_place:
        model.encoder.layers[0].final_layer_norm.eps = np.array(1e-5)
    for _ in range(3):
        assert reason_not_packed(model) is None
    change(model)
    assert reason_not_packed(model).startswith(reason) and reason_not_packed(model).startswith(reason)


def test_changed_numbers_of_every_module_are_noticed():
    """This must hold for every interpreter: CPython 3.13 stores attributes of objects differently from 3.12."""
    model, changes = fresh(cls=HubertModel), 0
    for _ in range(3):
        assert reason_not_packed(model) is None
    for name, module in model.named_modules():
        for key, value in list(vars(module).items()):
            if isinstance(value, (int, float)) and name and not key.startswith("_"):
                setattr(module, key, not value if isinstance(value, bool) else value + 1)
                reason = reason_not_packed(model) or ""
                assert reason.startswith((f"{key} of {name} is ", f"{name} is in training mode")), f"{name}.{key}: {reason}"
                setattr(module, key, value)
                assert reason_not_packed(model) is None and reason_not_packed(model) is None
                changes += 1
    assert changes > 100


def test_changes_in_parameter_mappings_that_are_not_dicts_are_noticed():
    """Such a module is inspected at every call."""
    model = fresh(cls=HubertModel)
    module = model.encoder.layers[0].attention.q_proj
    module._parameters = UserDict(module._parameters)
    assert reason_not_packed(model) is None and reason_not_packed(model) is None
    module._parameters["bias"] = None
    assert reason_not_packed(model) == "bias of encoder.layers.0.attention.q_proj is added or missing"


def test_replaced_layers_are_freed():
    model = fresh(cls=HubertModel)
    assert reason_not_packed(model) is None and reason_not_packed(model) is None
    old = weakref.ref(model.encoder.layers[0].attention.q_proj)
    replaced_linear(model)
    assert "Twice" in reason_not_packed(model)
    gc.collect()
    assert old() is None


def test_class_attributes_added_later_are_noticed(monkeypatch):
    model = fresh(cls=HubertModel)
    model.encoder.layers[0].feed_forward.kept = lambda x: x
    assert reason_not_packed(model) is None and reason_not_packed(model) is None
    monkeypatch.setattr(type(model.encoder.layers[0].feed_forward), "kept", None, raising=False)
    assert reason_not_packed(model) == "kept of encoder.layers.0.feed_forward is replaced"


def test_unchanged_models_are_inspected_once(monkeypatch):
    from hubert_fast.packed import untouched

    model, inspected = fresh(cls=HubertModel), []
    why_changed = untouched.why_changed
    monkeypatch.setattr(
        untouched, "why_changed", lambda base, below, *rest: inspected.append(len(below)) or why_changed(base, below, *rest)
    )
    modules = len(list(model.modules())) - 1
    assert [reason_not_packed(model) for _ in range(3)] == [None] * 3 and inspected == [modules, 0, 0]
    model.encoder.layers[0].layer_norm.eps = float("1e-5")  # another object of the same value
    model.encoder.layers[0].attention.q_proj.bias = nn.Parameter(torch.zeros(48))  # and another weight
    model.encoder.layers[1].note = torch.zeros(2)
    assert [reason_not_packed(model) for _ in range(3)] == [None] * 3 and inspected == [modules, 0, 0, modules, 0, 0]
    model.encoder.layers[1].note = torch.zeros(2)  # tensors are not compared
    assert [reason_not_packed(model) for _ in range(3)] == [None] * 3 and inspected[6:] == [modules, 0, 0]
    model.forward = model.forward  # this matters only for calls that bypass the module's own, below
    assert reason_not_packed(model) is None and inspected[9:] == [0]
    with torch.no_grad():
        assert model.why_not_packed(torch.empty(800), whole_call=False) == "forward of the model is replaced"


@BOTH
@pytest.mark.parametrize(
    "change",
    [
        *(hook, pre_hook, replaced_linear, replaced_forward, removed_layer, parametrized, dropout_left_on),
        *(replaced_activation, replaced_convolution_activation, changed_eps, missing_bias, changed_normalize_before),
    ],
    ids=lambda change: change.__name__,
)
@pytest.mark.parametrize("before", [True, False], ids=["before the first call", "after the first call"])
def test_changed_models_match_their_modules(values, change, before):
    model = fresh(values)
    waveforms, mask = masked_batch((4000, 3000))
    with torch.no_grad():
        if not before:
            model(waveforms, attention_mask=mask)
        change(model.hubert)
        torch.manual_seed(3)
        actual = model(waveforms[:1])[0]
        torch.manual_seed(3)
        expected = model(waveforms[:1], output_attentions=True)[0]
    assert_close(actual, expected, "other graph")


def test_hooks_on_the_model_itself_run_with_the_packed_graph():
    model, seen = fresh(cls=HubertModel), []
    model.register_forward_hook(lambda module, inputs, output: seen.append(output.last_hidden_state))
    with torch.no_grad():
        assert model.explain_path() == "packed"
        output = model(torch.randn(1, 800))
    assert seen == [output.last_hidden_state]


def test_encoder_and_global_hooks_select_the_definition_until_removed():
    model = fresh()
    handle = model.hubert.encoder.register_forward_hook(lambda *arguments: None)
    with torch.no_grad():
        assert model.explain_path() == "definition: encoder has a hook"
        handle.remove()
        assert model.explain_path() == "packed"
        handle = nn.modules.module.register_module_forward_hook(lambda *arguments: None)
        assert model.explain_path() == "definition: PyTorch has hooks that run on all modules"
        handle.remove()
        assert model.explain_path() == "packed"


def test_encoder_hooks_and_replaced_forwards_run_in_packed_calls():
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
            patch.setattr("hubert_fast.modeling.run_packed", None)
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
def test_parameters_removed_after_the_first_call_are_noticed(values, module, name):
    model = fresh(values, HubertModel)
    waveform = torch.randn(1, 4000)
    with torch.no_grad():
        model(waveform)
        setattr(model.get_submodule(module), name, None)
        assert model.explain_path() == f"definition: {name} of {module} is added or missing"
        assert_close(model(waveform)[0], model(waveform, output_attentions=True)[0], "attention")


def test_fake_tensors_make_fx_and_flop_counter():
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx
    from torch.utils.flop_counter import FlopCounterMode

    model = fresh(cls=HubertModel)
    waveform = torch.randn(1, 4000)
    with torch.no_grad():
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            assert model(mode.from_tensor(waveform))[0].shape == (1, 12, 48)
        expected = model(waveform)[0]  # the mode left no state behind
        assert_close(make_fx(lambda x: model(x).last_hidden_state)(waveform)(waveform), expected, "other graph")
        with FlopCounterMode(display=False) as counter:
            model(waveform)
    assert counter.get_total_flops() > 12 * 3 * 2 * (4 * 48 * 48 + 2 * 48 * 80)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad], ids=["packed", "definition"])
def test_waveforms_of_another_dtype_than_the_weights_are_refused(mode):
    model = fresh(cls=HubertModel)
    with mode(), pytest.raises(ValueError, match=r"must be torch\.float32 like the weights, but is torch\.float64"):
        model(torch.randn(1, 800, dtype=torch.float64))


def test_subclasses_are_not_bypassed():
    class Louder(HubertModel):
        def _mask_features(self, x, mask_time_indices):
            return 2 * x

    model = Louder(HubertConfig(**PRE_LN)).eval()
    waveform = torch.randn(1, 4000)
    with torch.no_grad():
        assert "Louder is not HubertModel itself" in model.explain_path()
        assert_close(model(waveform)[0], model(waveform, output_attentions=True)[0], "attention")


def test_data_parallel_replicas_leave_the_model_unchanged():
    model, waveform = fresh(cls=HubertModel), torch.randn(1, 4000)
    with torch.no_grad():
        expected = model(waveform)[0]
        inspection = model.fast_path._watch._inspection
        replica = model._replicate_for_data_parallel()
        assert replica.explain_path() == "definition: the model is a replica of nn.DataParallel"
        assert_close(replica(waveform)[0], expected, "other graph")
    assert model.fast_path._watch._inspection is inspection


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
        actual = model(waveforms, attention_mask=mask).logits
        packed = model.forward_packed(PackedAudio.from_waveforms([waveforms[0], waveforms[1, :5000]]))
    with torch.no_grad() if mode is torch.inference_mode else torch.inference_mode():
        # weights packed in one mode serve in the other
        assert torch.equal(model(waveforms, attention_mask=mask).logits, actual)
        assert torch.equal(model.forward_packed(PackedAudio.from_waveforms([waveforms[0], waveforms[1, :5000]]))[0], packed[0])
    model.train()
    model(waveforms, attention_mask=mask, labels=torch.tensor([[1], [2]])).loss.backward()  # and do not disturb training


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
            actual = model(waveforms, attention_mask=mask).logits
            expected = model(waveforms, attention_mask=mask, output_attentions=True).logits
        assert actual.dtype == expected.dtype == dtype
        error, allowed = ((x[frames] - exact).square().mean().sqrt() for x in (actual.float(), expected.float()))
        assert 0 < error < 1.2 * allowed
        assert torch.equal(model(waveforms, attention_mask=mask).logits[frames], exact)  # float32 again


def test_threads_share_a_model():
    model = fresh(POST_LN)
    audios = [PackedAudio.from_waveforms([torch.randn(400 * (thread + 1) + 100 * i) for i in range(3)]) for thread in range(6)]
    with torch.no_grad():
        expected = [fresh_copy(model).forward_packed(audio).logits for audio in audios]
    outputs = [None] * len(audios)
    barrier = threading.Barrier(len(audios))

    def work(index):
        barrier.wait()
        with torch.inference_mode():
            for _ in range(5):
                outputs[index] = model.forward_packed(audios[index]).logits

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(audios))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for actual, reference in zip(outputs, expected):
        assert_close(actual, reference, "same graph")


def fresh_copy(model):
    import copy

    return copy.deepcopy(model)


class Encoded(torch.utils.data.Dataset):
    """A data set that encodes its waveforms in the workers of its loader."""

    def __init__(self, model):
        self.model, self.waveforms = model, torch.randn(4, 4000)

    def __len__(self):
        return len(self.waveforms)

    def __getitem__(self, index):
        with torch.no_grad():
            assert self.model.explain_path() == "packed"
            return self.model.forward_packed(PackedAudio.from_waveforms([self.waveforms[index]])).last_hidden_state


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_packed_calls_in_data_loader_workers(context):
    data = Encoded(fresh(cls=HubertModel, conv_pos_batch_norm=True))  # PyTorch pickles no weight norm, as spawning needs
    expected = torch.stack([data[index] for index in range(4)])
    actual = torch.cat(list(DataLoader(data, batch_size=2, num_workers=2, multiprocessing_context=context)))
    assert_close(actual, expected, "same graph")
