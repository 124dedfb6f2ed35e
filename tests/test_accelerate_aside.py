"""Test each reason why an accelerated model runs its original forward instead ("steps aside"), with the same answers."""

import copy
import logging

import pytest
import torch
import transformers
from conftest import assert_close, true_frames
from torch import nn
from transformers_models import forward_of, outputs_of, transformers_model

from hubert_fast import accelerate, restore


def requesting_attentions(model, batch):
    if hasattr(model, "set_attn_implementation"):
        model.set_attn_implementation("eager")
    assert len(outputs_of(model, *batch, output_attentions=True).attentions) == 3


def masking_time_indices(model, batch):
    indices = torch.zeros(4, 24, dtype=torch.bool)
    indices[:, 3:5] = True
    with torch.no_grad():
        masked = model.hubert(batch[0], attention_mask=batch[1], mask_time_indices=indices)[0]
    assert not torch.equal(masked, outputs_of(model.hubert, *batch)[0])
    with torch.no_grad():
        model.hubert(batch[0], mask_time_indices=indices)


def training(model, batch):
    model.train()
    outputs_of(model, *batch)
    model.eval()


def needing_a_gradient(model, batch):
    model(batch[0], attention_mask=batch[1]).logits.sum().backward()
    assert model.hubert.encoder.layers[0].attention.q_proj.weight.grad.abs().sum() > 0


def needing_the_gradient_of_the_input(model, batch):
    model.requires_grad_(False)
    waveforms = batch[0].clone().requires_grad_()
    model(waveforms).logits.sum().backward()
    assert waveforms.grad.abs().sum() > 0


def compiling_the_model(model, batch):
    torch.compiler.reset()
    compiled = torch.compile(model, backend="eager")
    expected = outputs_of(restore(model), *batch).logits
    assert_close(outputs_of(compiled, *batch).logits, expected, "same graph")
    accelerate(model)
    assert_close(outputs_of(compiled, *batch).logits, expected, "same graph")


STEPS_ASIDE = {
    "output_attentions is requested": requesting_attentions,
    "mask_time_indices are given": masking_time_indices,
    "the model is training": training,
    "a gradient may be needed": needing_a_gradient,
    "a gradient may be needed ": needing_the_gradient_of_the_input,
    "the model is being compiled": compiling_the_model,
}


@pytest.mark.parametrize("reason, call", STEPS_ASIDE.items(), ids=[call.__name__ for call in STEPS_ASIDE.values()])
def test_steps_aside_for_one_call(reason, call, batch):
    model = accelerate(transformers_model())
    outputs_of(model, *batch)
    assert forward_of(model).reason is None
    call(model, batch)
    assert forward_of(model).reason.startswith(reason.strip())
    outputs_of(model, *batch)
    assert forward_of(model).reason is None  # it steps aside for that call only


class LoudLinear(nn.Linear):
    """Stand in for a layer that computes more than its weight says, such as an adapter or a quantised layer."""

    def forward(self, x):
        return super().forward(x) + 1


def replaced(layer):
    loud = LoudLinear(48, 48)
    loud.load_state_dict(layer.attention.q_proj.state_dict())
    layer.attention.q_proj = loud


def hooked(layer):
    layer.attention.v_proj.register_forward_hook(lambda module, inputs, output: output + 1)


def pre_hooked(layer):
    layer.register_forward_pre_hook(lambda module, inputs: None)


def forward_replaced(layer):
    forward = layer.feed_forward.forward
    layer.feed_forward.forward = lambda x: forward(x) + 1


def parametrized(layer):
    class Double(nn.Module):
        def forward(self, weight):
            return 2 * weight

    nn.utils.parametrize.register_parametrization(layer.attention.q_proj, "weight", Double())


def compiled(layer):
    torch.compiler.reset()
    layer.attention.q_proj = torch.compile(layer.attention.q_proj, backend="eager")


def compiled_in_place(layer):
    torch.compiler.reset()
    layer.attention.out_proj.compile(backend="eager")


def quantised(layer):
    class Quantised(nn.Parameter):
        pass

    layer.attention.k_proj.weight = Quantised(layer.attention.k_proj.weight.detach())


def another_activation(layer):
    layer.feed_forward.intermediate_act_fn = nn.ReLU()


def namesake(layer):
    impostor = type("HubertFeedForward", (type(layer.feed_forward),), {"forward": lambda self, x: 2 * x})
    layer.feed_forward.__class__ = impostor


def another_scaling(layer):
    layer.attention.scaling = 1.0


def dropout_left_on(layer):
    layer.feed_forward.output_dropout.p = 1.0
    layer.feed_forward.output_dropout.train()


def backward_hooked(layer):
    layer.register_full_backward_hook(lambda *arguments: None)


CHANGES = {
    replaced: "encoder.layers.1.attention.q_proj is LoudLinear",
    hooked: "encoder.layers.1.attention.v_proj has a hook",
    pre_hooked: "encoder.layers.1 has a hook",
    forward_replaced: "forward of encoder.layers.1.feed_forward is replaced",
    parametrized: "encoder.layers.1.attention.q_proj is Linear bias [48], but",
    compiled: "encoder.layers.1.attention.q_proj is OptimizedModule",
    compiled_in_place: "_compiled_call_impl of encoder.layers.1.attention.out_proj is replaced",
    quantised: "encoder.layers.1.attention.k_proj has weights of type quantised.<locals>.Quantised",
    another_activation: "encoder.layers.1.feed_forward.intermediate_act_fn is ReLU",
    namesake: "encoder.layers.1.feed_forward is HubertFeedForward, but the configuration defines HubertFeedForward",
    another_scaling: "scaling of encoder.layers.1.attention is 1.0, but should be 0.28",
    dropout_left_on: "encoder.layers.1.feed_forward.output_dropout is in training mode",
    backward_hooked: "encoder.layers.1 has a hook",
}


@pytest.mark.parametrize("change, reason", CHANGES.items(), ids=[change.__name__ for change in CHANGES])
@pytest.mark.parametrize("when", ["before", "after"])
def test_steps_aside_for_a_changed_layer(change, reason, when, batch):
    model = transformers_model()
    untouched = outputs_of(model, *batch).logits
    if when == "after":
        accelerate(model)
        outputs_of(model, *batch)
        assert forward_of(model).reason is None
    change(model.hubert.encoder.layers[1])
    accelerate(model)
    actual = outputs_of(model, *batch).logits
    assert forward_of(model).reason.startswith(reason)
    assert torch.equal(actual, outputs_of(restore(model), *batch).logits)
    if change not in (pre_hooked, backward_hooked, compiled, compiled_in_place, quantised):
        assert not torch.allclose(actual, untouched)


def test_steps_aside_for_a_patched_class(batch, monkeypatch):
    """The class is patched after the graph has been built."""
    model = accelerate(transformers_model())
    outputs_of(model, *batch)
    cls = type(model.hubert.encoder.layers[0].feed_forward)
    monkeypatch.setattr(cls, "forward", lambda self, x: x)
    actual = outputs_of(model, *batch).logits
    assert forward_of(model).reason == "the forward of HubertFeedForward is patched"
    assert torch.equal(actual, outputs_of(restore(model), *batch).logits)


def test_steps_aside_for_a_method_replaced_on_the_model(batch):
    model = accelerate(transformers_model())
    model.hubert._get_feature_vector_attention_mask = lambda frames, mask: torch.ones(len(mask), frames, dtype=torch.bool)
    outputs_of(model, *batch)
    assert forward_of(model).reason == "_get_feature_vector_attention_mask of the model is replaced"


def test_steps_aside_for_a_replaced_attention_function(batch, monkeypatch):
    modeling = pytest.importorskip("transformers.masking_utils") and transformers.modeling_utils
    model = accelerate(transformers_model())
    sdpa = modeling.ALL_ATTENTION_FUNCTIONS["sdpa"]
    model.config._attn_implementation = "sdpa"

    def shifted_attention(*args, **kwargs):
        output, weights = sdpa(*args, **kwargs)
        return output + 1, weights

    monkeypatch.setitem(modeling.ALL_ATTENTION_FUNCTIONS._global_mapping, "sdpa", shifted_attention)
    outputs_of(model, *batch)
    assert forward_of(model).reason == "the attention 'sdpa' is not one of transformers' own"


def test_steps_aside_for_hidden_states_by_index(batch):
    model = accelerate(transformers_model())
    if not hasattr(type(model.hubert), "_can_record_outputs"):
        pytest.skip(f"transformers {transformers.__version__} cannot return single hidden states")
    outputs_of(model, *batch, output_hidden_states=[-1])
    assert forward_of(model).reason == "individual hidden states are requested"


def test_steps_aside_for_a_mask_of_another_shape(batch):
    model = accelerate(transformers_model())
    with torch.no_grad():
        model(batch[0][:2], attention_mask=batch[1][:2, :6000])  # transformers uses only the mask's sums
    assert forward_of(model).reason == "attention_mask does not have the shape of input_values"


def test_later_configuration_changes_have_no_effect(batch):
    model = transformers_model()
    expected = true_frames(outputs_of(model, *batch).logits, batch[1])
    accelerate(model)
    model.config.hidden_act, model.config.do_stable_layer_norm = "relu", False
    assert_close(true_frames(outputs_of(model, *batch).logits, batch[1]), expected, "same graph")
    assert_close(true_frames(outputs_of(copy.deepcopy(model), *batch).logits, batch[1]), expected, "same graph")
    assert forward_of(model).reason is None


def test_steps_aside_for_an_unsupported_configuration(batch, monkeypatch):
    monkeypatch.setitem(transformers.activations.ACT2FN, "custom_activation", nn.Softplus)
    model = accelerate(transformers_model(hidden_act="custom_activation"))
    expected = outputs_of(model, *batch).logits
    assert forward_of(model).reason.startswith("the configuration is not supported: activation must be one of")
    assert torch.equal(outputs_of(restore(model), *batch).logits, expected)


def test_the_random_state_is_unchanged():
    model = transformers_model()
    state = torch.get_rng_state()
    accelerate(model)
    with torch.no_grad():
        model(torch.zeros(1, 4000))
    assert forward_of(model).reason is None and torch.equal(torch.get_rng_state(), state)


def test_concurrent_first_calls_agree(batch):
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            model = accelerate(transformers_model("HubertModel"))
            outputs = list(pool.map(lambda _: outputs_of(model, *batch)[0], range(4)))  # noqa: B023
            assert all(torch.equal(output, outputs[0]) for output in outputs)


def test_a_deleted_model_frees_its_memory():
    import gc
    import weakref

    model = accelerate(transformers_model())
    with torch.no_grad():
        model(torch.zeros(1, 4000))
    assert forward_of(model).reason is None
    gc.collect()
    gc.disable()
    try:
        weight = weakref.ref(model.hubert.encoder.layers[0].attention.q_proj.weight)
        del model
        assert weight() is None
    finally:
        gc.enable()


def test_mixed_precision_of_hugging_face_accelerate_and_restore(batch):
    state = pytest.importorskip("accelerate.state").AcceleratorState
    state._reset_state(reset_partial_state=True)  # a Trainer in another test may have set it
    tool = pytest.importorskip("accelerate").Accelerator(mixed_precision="bf16", cpu=True)
    model = accelerate(transformers_model("HubertModel"))
    fast = model.forward
    prepared = tool.prepare_model(model, evaluation_mode=True)
    assert outputs_of(prepared, *batch)[0].dtype == torch.float32 and fast.reason is None
    unwrapped = tool.unwrap_model(prepared, keep_fp32_wrapper=False)
    expected = outputs_of(unwrapped, *batch)[0]  # its forward is now our forward, bound as a method
    assert fast.reason is None
    restored = outputs_of(restore(unwrapped), *batch)[0]
    assert_close(true_frames(restored, batch[1]), true_frames(expected, batch[1]), "same graph")
    assert "forward" not in vars(unwrapped)
    plain = tool.unwrap_model(
        tool.prepare_model(transformers_model("HubertModel"), evaluation_mode=True), keep_fp32_wrapper=False
    )
    accelerate(plain)  # its forward is its class's own, set as an attribute
    outputs_of(plain, *batch)
    assert plain.forward.reason is None
    state._reset_state(reset_partial_state=True)


def test_steps_aside_while_an_inner_hook_is_registered(batch):
    model = accelerate(transformers_model())
    handle = model.hubert.encoder.register_forward_hook(lambda *arguments: None)
    outputs_of(model, *batch)
    assert forward_of(model).reason == "encoder has a hook"
    handle.remove()
    outputs_of(model, *batch)
    assert forward_of(model).reason is None
    seen = []
    model.hubert.register_forward_hook(lambda module, inputs, output: seen.append(output))
    outputs_of(model, *batch)  # a hook on the model itself runs around our forward
    assert len(seen) == 1 and forward_of(model).reason is None
    handle = nn.modules.module.register_module_forward_hook(lambda *arguments: None)
    outputs_of(model, *batch)
    handle.remove()
    assert forward_of(model).reason == "PyTorch has hooks that run on all modules"


def test_each_reason_is_logged_once(batch, caplog):
    model = accelerate(transformers_model())
    with caplog.at_level(logging.INFO, logger="hubert_fast"):
        for _ in range(2):
            model(batch[0])
            training(model, batch)
    messages = [(record.levelname, record.message) for record in caplog.records]
    assert [level for level, _ in messages] == ["WARNING", "INFO"]
    assert "torch.no_grad()" in messages[0][1] and "training" in messages[1][1]
