"""When the packed graph serves a call and when it must not, and that it may be called from anywhere."""

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


def forward_under_another_name(model):
    entries = vars(model.encoder.layers[0].feed_forward)
    entries["forward"] = entries.pop("kept")


def another_dictionary_of_hooks(model):
    layer = model.encoder.layers[0]
    layer._forward_hooks = type(layer._forward_hooks)()
    watched(model)
    layer._forward_hooks[0] = print


def another_dictionary(model):
    layer = model.encoder.layers[0]
    layer.__dict__ = dict(vars(layer))
    watched(model)
    layer.training = True


def a_number_that_changes(model):
    model.encoder.layers[0].final_layer_norm.eps[...] = 0.5


def a_weight_of_a_kind_of_its_own(model):
    class Quantised(nn.Parameter):
        pass

    layer = model.encoder.layers[1].attention.q_proj
    layer.weight = Quantised(layer.weight.detach())


def another_class(model):
    class Twice(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    model.encoder.layers[1].attention.q_proj.__class__ = Twice


def a_patched_class(model):
    type(model.encoder.layers[1].feed_forward).forward = lambda self, x: x


def a_weight_of_another_name(model):
    parameters = model.encoder.layers[0].attention.q_proj._parameters
    parameters["slope"] = parameters.pop("bias")


def watched(model):
    with torch.no_grad():
        return model.fast_path.why_not(model, type(model), torch.empty(1, 800), True)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (hook, "encoder.layers.1.feed_forward has a hook"),
        (replaced_linear, "encoder.layers.0.attention.q_proj is replaced_linear.<locals>.Twice"),
        (replaced_forward, "forward of encoder.layers.0.feed_forward is replaced"),
        (forward_under_another_name, "forward of encoder.layers.0.feed_forward is replaced"),
        (removed_layer, "encoder.layers.2 is missing"),
        (dropout_left_on, "encoder.layers.0.dropout is in training mode"),
        (another_eps, "eps of encoder.layers.0.layer_norm is 0.5"),
        (a_number_that_changes, "eps of encoder.layers.0.final_layer_norm is array(0.5)"),
        (a_bias_less, "bias of encoder.layers.0.attention.k_proj is added or missing"),
        (a_weight_of_another_name, "bias, slope of encoder.layers.0.attention.q_proj is added or missing"),
        (a_weight_of_a_kind_of_its_own, "encoder.layers.1.attention.q_proj has weights of type"),
        (another_dictionary_of_hooks, "encoder.layers.0 has a hook"),
        (another_dictionary, "encoder.layers.0 is in training mode"),
        (another_class, "encoder.layers.1.attention.q_proj is another_class.<locals>.Twice"),
        (a_patched_class, "the forward of FeedForward is patched"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_change_after_many_calls_is_seen_at_the_next(change, reason, monkeypatch):
    """By the quick look too, which compares the modules with a snapshot of them."""
    model = fresh(cls=HubertModel)
    kind = type(model.encoder.layers[0].feed_forward)
    monkeypatch.setattr(kind, "forward", kind.forward)
    if change is forward_under_another_name:
        model.encoder.layers[0].feed_forward.kept = lambda x: x
    if change is a_number_that_changes:
        model.encoder.layers[0].final_layer_norm.eps = np.array(1e-5)
    for _ in range(3):
        assert watched(model) is None
    change(model)
    assert watched(model).startswith(reason) and watched(model).startswith(reason)


def test_any_number_of_any_module_that_changes_after_many_calls_is_seen():
    """Whatever the interpreter: CPython 3.13 stores the attributes of objects in another way than 3.12."""
    model, changes = fresh(cls=HubertModel), 0
    for _ in range(3):
        assert watched(model) is None
    for name, module in model.named_modules():
        for key, value in list(vars(module).items()):
            if isinstance(value, (int, float)) and name and not key.startswith("_"):
                setattr(module, key, not value if isinstance(value, bool) else value + 1)
                reason = watched(model) or ""
                assert reason.startswith((f"{key} of {name} is ", f"{name} is in training mode")), f"{name}.{key}: {reason}"
                setattr(module, key, value)
                assert watched(model) is None and watched(model) is None
                changes += 1
    assert changes > 100


def test_modules_that_keep_parameters_in_a_mapping_that_is_no_dictionary():
    """Such a module is looked at anew at every call."""
    model = fresh(cls=HubertModel)
    module = model.encoder.layers[0].attention.q_proj
    module._parameters = UserDict(module._parameters)
    assert watched(model) is None and watched(model) is None
    module._parameters["bias"] = None
    assert watched(model) == "bias of encoder.layers.0.attention.q_proj is added or missing"


def test_a_layer_that_was_replaced_is_not_kept():
    model = fresh(cls=HubertModel)
    assert watched(model) is None and watched(model) is None
    old = weakref.ref(model.encoder.layers[0].attention.q_proj)
    replaced_linear(model)
    assert "Twice" in watched(model)
    gc.collect()
    assert old() is None


def test_an_attribute_that_the_class_has_later(monkeypatch):
    model = fresh(cls=HubertModel)
    model.encoder.layers[0].feed_forward.kept = lambda x: x
    assert watched(model) is None and watched(model) is None
    monkeypatch.setattr(type(model.encoder.layers[0].feed_forward), "kept", None, raising=False)
    assert watched(model) == "kept of encoder.layers.0.feed_forward is replaced"


def test_a_model_that_stays_is_looked_at_once(monkeypatch):
    from hubert_fast.packed import untouched

    model, looked_at = fresh(cls=HubertModel), []
    why_changed = untouched.why_changed
    monkeypatch.setattr(
        untouched, "why_changed", lambda base, below, *rest: looked_at.append(len(below)) or why_changed(base, below, *rest)
    )
    modules = len(list(model.modules())) - 1
    assert [watched(model) for _ in range(3)] == [None] * 3 and looked_at == [modules, 0, 0]
    model.encoder.layers[0].layer_norm.eps = float("1e-5")  # another object of the same value
    model.encoder.layers[0].attention.q_proj.bias = nn.Parameter(torch.zeros(48))  # and another weight
    model.encoder.layers[1].note = torch.zeros(2)
    assert [watched(model) for _ in range(3)] == [None] * 3 and looked_at == [modules, 0, 0, modules, 0, 0]
    model.encoder.layers[1].note = torch.zeros(2)  # of which no comparison can be made
    assert [watched(model) for _ in range(3)] == [None] * 3 and looked_at[6:] == [modules, 0, 0]
    model.forward = model.forward  # which only counts when the call is not one of the module
    assert watched(model) is None and looked_at[9:] == [0]
    with torch.no_grad():
        assert model.why_not_packed(torch.empty(800), whole_call=False) == "forward of the model is replaced"


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
        assert model.explain_path() == "definition: PyTorch has hooks that run on all modules"
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
    with mode(), pytest.raises(ValueError, match=r"must be torch\.float32 like the weights, but is torch\.float64"):
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
