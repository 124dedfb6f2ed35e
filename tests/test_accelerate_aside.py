"""Every reason for which an accelerated model steps aside, and that it then answers as if it were not accelerated."""

import copy
import logging

import pytest
import torch
import transformers
from conftest import assert_close, true_frames
from torch import nn
from transformers_models import answers, forward_of, theirs

from hubert_fast import accelerate, restore


def asking_for_attentions(model, batch):
    if hasattr(model, "set_attn_implementation"):
        model.set_attn_implementation("eager")
    assert len(answers(model, *batch, output_attentions=True).attentions) == 3


def masking(model, batch):
    indices = torch.zeros(4, 24, dtype=torch.bool)
    indices[:, 3:5] = True
    with torch.no_grad():
        masked = model.hubert(batch[0], attention_mask=batch[1], mask_time_indices=indices)[0]
    assert not torch.equal(masked, answers(model.hubert, *batch)[0])
    with torch.no_grad():
        model.hubert(batch[0], mask_time_indices=indices)


def training(model, batch):
    model.train()
    answers(model, *batch)
    model.eval()


def needing_a_gradient(model, batch):
    model(batch[0], attention_mask=batch[1]).logits.sum().backward()
    assert model.hubert.encoder.layers[0].attention.q_proj.weight.grad.abs().sum() > 0


def needing_the_gradient_of_the_input(model, batch):
    model.requires_grad_(False)
    waveforms = batch[0].clone().requires_grad_()
    model(waveforms).logits.sum().backward()
    assert waveforms.grad.abs().sum() > 0


def compiling_it_all(model, batch):
    torch.compiler.reset()
    compiled = torch.compile(model, backend="eager")
    expected = answers(restore(model), *batch).logits
    assert_close(answers(compiled, *batch).logits, expected, "same graph")
    accelerate(model)
    assert_close(answers(compiled, *batch).logits, expected, "same graph")


STEPS_ASIDE = {
    "output_attentions is requested": asking_for_attentions,
    "mask_time_indices are given": masking,
    "the model is training": training,
    "a gradient may be needed": needing_a_gradient,
    "a gradient may be needed ": needing_the_gradient_of_the_input,
    "the model is being compiled": compiling_it_all,
}


@pytest.mark.parametrize("reason, call", STEPS_ASIDE.items(), ids=[call.__name__ for call in STEPS_ASIDE.values()])
def test_it_steps_aside_for_a_call(reason, call, batch):
    model = accelerate(theirs())
    answers(model, *batch)
    assert forward_of(model).reason is None
    call(model, batch)
    assert forward_of(model).reason.startswith(reason.strip())
    answers(model, *batch)
    assert forward_of(model).reason is None  # only for that call


class LoudLinear(nn.Linear):
    """Stands for a layer that computes something else than its weight says: an adapter, a quantised one."""

    def forward(self, x):
        return super().forward(x) + 1


def replaced(layer):
    loud = LoudLinear(48, 48)
    loud.load_state_dict(layer.attention.q_proj.state_dict())
    layer.attention.q_proj = loud


def hooked(layer):
    layer.attention.v_proj.register_forward_hook(lambda module, inputs, output: output + 1)


def hooked_before(layer):
    layer.register_forward_pre_hook(lambda module, inputs: None)


def forwarded(layer):
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
    other = type("HubertFeedForward", (type(layer.feed_forward),), {"forward": lambda self, x: 2 * x})
    layer.feed_forward.__class__ = other


def another_scaling(layer):
    layer.attention.scaling = 1.0


def dropout_left_on(layer):
    layer.feed_forward.output_dropout.p = 1.0
    layer.feed_forward.output_dropout.train()


def hooked_backwards(layer):
    layer.register_full_backward_hook(lambda *arguments: None)


CHANGES = {
    replaced: "encoder.layers.1.attention.q_proj is LoudLinear",
    hooked: "encoder.layers.1.attention.v_proj has a hook",
    hooked_before: "encoder.layers.1 has a hook",
    forwarded: "forward of encoder.layers.1.feed_forward is replaced",
    parametrized: "encoder.layers.1.attention.q_proj is Linear bias [48], but",
    compiled: "encoder.layers.1.attention.q_proj is OptimizedModule",
    compiled_in_place: "_compiled_call_impl of encoder.layers.1.attention.out_proj is replaced",
    quantised: "encoder.layers.1.attention.k_proj has weights of type quantised.<locals>.Quantised",
    another_activation: "encoder.layers.1.feed_forward.intermediate_act_fn is ReLU",
    namesake: "encoder.layers.1.feed_forward is HubertFeedForward, but the configuration defines HubertFeedForward",
    another_scaling: "scaling of encoder.layers.1.attention is 1.0, but should be 0.28",
    dropout_left_on: "encoder.layers.1.feed_forward.output_dropout is in training mode",
    hooked_backwards: "encoder.layers.1 has a hook",
}


@pytest.mark.parametrize("change, reason", CHANGES.items(), ids=[change.__name__ for change in CHANGES])
@pytest.mark.parametrize("when", ["before", "after"])
def test_it_steps_aside_for_a_changed_layer(change, reason, when, batch):
    model = theirs()
    untouched = answers(model, *batch).logits
    if when == "after":
        accelerate(model)
        answers(model, *batch)
        assert forward_of(model).reason is None
    change(model.hubert.encoder.layers[1])
    accelerate(model)
    found = answers(model, *batch).logits
    assert forward_of(model).reason.startswith(reason)
    assert torch.equal(found, answers(restore(model), *batch).logits)
    if change not in (hooked_before, hooked_backwards, compiled, compiled_in_place, quantised):
        assert not torch.allclose(found, untouched)


def test_a_patched_class_is_noticed(batch, monkeypatch):
    """Also when it is patched long after the graph was built."""
    model = accelerate(theirs())
    answers(model, *batch)
    kind = type(model.hubert.encoder.layers[0].feed_forward)
    monkeypatch.setattr(kind, "forward", lambda self, x: x)
    found = answers(model, *batch).logits
    assert forward_of(model).reason == "the forward of HubertFeedForward is patched"
    assert torch.equal(found, answers(restore(model), *batch).logits)


def test_a_method_replaced_on_the_model_itself(batch):
    model = accelerate(theirs())
    model.hubert._get_feature_vector_attention_mask = lambda frames, mask: torch.ones(len(mask), frames, dtype=torch.bool)
    answers(model, *batch)
    assert forward_of(model).reason == "_get_feature_vector_attention_mask of the model is replaced"


def test_an_attention_of_somebody_elses(batch, monkeypatch):
    modeling = pytest.importorskip("transformers.masking_utils") and transformers.modeling_utils
    model = accelerate(theirs())
    sdpa = modeling.ALL_ATTENTION_FUNCTIONS["sdpa"]
    model.config._attn_implementation = "sdpa"

    def mine(*args, **kwargs):
        output, weights = sdpa(*args, **kwargs)
        return output + 1, weights

    monkeypatch.setitem(modeling.ALL_ATTENTION_FUNCTIONS._global_mapping, "sdpa", mine)
    answers(model, *batch)
    assert forward_of(model).reason == "the attention 'sdpa' is not one of transformers' own"


def test_states_by_index(batch):
    model = accelerate(theirs())
    if not hasattr(type(model.hubert), "_can_record_outputs"):
        pytest.skip(f"transformers {transformers.__version__} knows only all hidden states")
    answers(model, *batch, output_hidden_states=[-1])
    assert forward_of(model).reason == "individual hidden states are requested"


def test_a_mask_of_another_shape_is_theirs_to_judge(batch):
    model = accelerate(theirs())
    with torch.no_grad():
        model(batch[0][:2], attention_mask=batch[1][:2, :6000])  # only its sum counts
    assert forward_of(model).reason == "attention_mask does not have the shape of input_values"


def test_the_configuration_of_construction_counts(batch):
    model = theirs()
    expected = true_frames(answers(model, *batch).logits, batch[1])
    accelerate(model)
    model.config.hidden_act, model.config.do_stable_layer_norm = "relu", False
    assert_close(true_frames(answers(model, *batch).logits, batch[1]), expected, "same graph")
    assert_close(true_frames(answers(copy.deepcopy(model), *batch).logits, batch[1]), expected, "same graph")
    assert forward_of(model).reason is None


def test_a_configuration_that_is_not_ours_to_serve(batch, monkeypatch):
    monkeypatch.setitem(transformers.activations.ACT2FN, "their_own", nn.Softplus)
    model = accelerate(theirs(hidden_act="their_own"))
    expected = answers(model, *batch).logits
    assert forward_of(model).reason.startswith("the configuration is not supported: activation must be one of")
    assert torch.equal(answers(restore(model), *batch).logits, expected)


def test_the_random_state_is_left_alone():
    model = theirs()
    state = torch.get_rng_state()
    accelerate(model)
    with torch.no_grad():
        model(torch.zeros(1, 4000))
    assert forward_of(model).reason is None and torch.equal(torch.get_rng_state(), state)


def test_threads_may_make_the_first_call_together(batch):
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            model = accelerate(theirs("HubertModel"))
            found = list(pool.map(lambda _: answers(model, *batch)[0], range(4)))  # noqa: B023
            assert all(torch.equal(one, found[0]) for one in found)


def test_a_deleted_model_frees_its_memory():
    import gc
    import weakref

    model = accelerate(theirs())
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


def test_mixed_precision_of_accelerate_and_back(batch):
    state = pytest.importorskip("accelerate.state").AcceleratorState
    state._reset_state(reset_partial_state=True)  # which a Trainer of another test may have made
    tool = pytest.importorskip("accelerate").Accelerator(mixed_precision="bf16", cpu=True)
    model = accelerate(theirs("HubertModel"))
    fast = model.forward
    prepared = tool.prepare_model(model, evaluation_mode=True)
    assert answers(prepared, *batch)[0].dtype == torch.float32 and fast.reason is None
    unwrapped = tool.unwrap_model(prepared, keep_fp32_wrapper=False)
    expected = answers(unwrapped, *batch)[0]  # its forward is now a method made of ours
    assert fast.reason is None
    restored = answers(restore(unwrapped), *batch)[0]
    assert_close(true_frames(restored, batch[1]), true_frames(expected, batch[1]), "same graph")
    assert "forward" not in vars(unwrapped)
    plain = tool.unwrap_model(tool.prepare_model(theirs("HubertModel"), evaluation_mode=True), keep_fp32_wrapper=False)
    accelerate(plain)  # whose forward is its class's again, as an attribute
    answers(plain, *batch)
    assert plain.forward.reason is None
    state._reset_state(reset_partial_state=True)


def test_hooks_come_and_go(batch):
    model = accelerate(theirs())
    handle = model.hubert.encoder.register_forward_hook(lambda *arguments: None)
    answers(model, *batch)
    assert forward_of(model).reason == "encoder has a hook"
    handle.remove()
    answers(model, *batch)
    assert forward_of(model).reason is None
    seen = []
    model.hubert.register_forward_hook(lambda module, inputs, output: seen.append(output))
    answers(model, *batch)  # around ours
    assert len(seen) == 1 and forward_of(model).reason is None
    handle = nn.modules.module.register_module_forward_hook(lambda *arguments: None)
    answers(model, *batch)
    handle.remove()
    assert forward_of(model).reason == "PyTorch has hooks that run on all modules"


def test_each_reason_is_told_once(batch, caplog):
    model = accelerate(theirs())
    with caplog.at_level(logging.INFO, logger="hubert_fast"):
        for _ in range(2):
            model(batch[0])
            training(model, batch)
    told = [(record.levelname, record.message) for record in caplog.records]
    assert [level for level, _ in told] == ["WARNING", "INFO"]
    assert "torch.no_grad()" in told[0][1] and "training" in told[1][1]
