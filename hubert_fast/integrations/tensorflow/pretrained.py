"""Define the base class of the TensorFlow models: loading, saving, serving, and training with the model's own loss."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import tensorflow as tf

from ...config import HubertConfig, as_hubert_config
from ...loading_options import check_saving_options, sort_loading_options
from .checkpoints import load_weights, write_checkpoint
from .masks import frame_counts
from .outputs import TFModelOutput

if TYPE_CHECKING:
    from typing_extensions import Self


INPUT_SHAPE = (None, None)  # of waveforms, [B, S]


class TFHubertPreTrainedModel(keras.Model):
    """Base class of the TensorFlow models, with the methods that transformers' TensorFlow models have.

    An own head is a subclass. Its constructor creates `self.hubert = TFHubertMainLayer(self.config, name="hubert")`, then its
    own layers. It may build their weights, or leave that to the first call, which `from_pretrained` makes with `dummy_inputs`.
    """

    config_class = HubertConfig
    base_model_prefix = "hubert"
    main_input_name = "input_values"

    def __init__(self, config: HubertConfig, name: str | None = None, dtype: Any = None, trainable: bool = True):
        super().__init__(name=name, dtype=dtype, trainable=trainable)
        self.config = as_hubert_config(config)

    def build(self, input_shape: Any = None) -> None:
        """Create the weights of the encoder, and of the output layer of `TFHubertForCTC`."""
        if not self.hubert.built:
            self.hubert.build()

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Call the model. The first argument may be any mapping, as processors return; Keras itself takes dictionaries."""
        if arguments and isinstance(arguments[0], Mapping):
            arguments = (dict(arguments[0]), *arguments[1:])
        return super().__call__(*arguments, **options)

    @property
    def framework(self) -> str:
        """The name of TensorFlow in transformers, `"tf"`."""
        return "tf"

    @property
    def base_model(self) -> keras.layers.Layer:
        """The encoder without the head."""
        return self.hubert

    @property
    def dummy_inputs(self) -> dict[str, tf.Tensor]:
        """Inputs for one call: two short waveforms."""
        return {"input_values": tf.random.stateless_normal((2, 4 * self.config.receptive_field), seed=(0, 0))}

    def num_parameters(self, only_trainable: bool = False) -> int:
        """Return the number of parameters, or of those that are trained."""
        return sum(math.prod(weight.shape) for weight in (self.trainable_weights if only_trainable else self.weights))

    def frame_counts(self, sample_counts: Any) -> tf.Tensor:
        """Return the frame count for each sample count, int32 of any shape; 0 below the receptive field (400 samples)."""
        return frame_counts(tf.convert_to_tensor(sample_counts), self.config)

    def freeze_feature_encoder(self) -> None:
        """Exclude the convolutional feature encoder from training. Call it before `compile`."""
        self.hubert.feature_extractor.trainable = False

    def freeze_feature_extractor(self) -> None:
        """Call `freeze_feature_encoder`. This older name is deprecated in transformers 4."""
        self.freeze_feature_encoder()

    # Keras

    def get_config(self) -> dict[str, Any]:
        """Return what Keras stores of the model in a `.keras` file, besides its weights."""
        options = {
            "name": self.name,
            "trainable": self.trainable,
            "dtype": keras.saving.serialize_keras_object(self.dtype_policy),
        }
        return {"config": self.config.to_dict(), **options}

    @classmethod
    def from_config(cls, config: dict[str, Any] | HubertConfig, custom_objects: Any = None) -> Self:
        """Build a model from what `get_config` returns, or from a `HubertConfig`."""
        if not isinstance(config, Mapping):
            return cls(config)
        options = dict(config)
        values = options.pop("config")
        policy = options.pop("dtype", None)
        if isinstance(policy, Mapping):
            policy = keras.saving.deserialize_keras_object(policy)
        return cls(HubertConfig.from_dict(values), dtype=policy, **options)

    def train_step(self, data: Any) -> dict[str, Any]:
        """Run one step of `fit`. Without a compiled loss, targets are the labels of the model's own loss."""
        return super().train_step(self._with_labels(data))

    def test_step(self, data: Any) -> dict[str, Any]:
        """Run one step of `evaluate`. Without a compiled loss, targets are the labels of the model's own loss."""
        return super().test_step(self._with_labels(data))

    def _with_labels(self, data: Any) -> tuple:
        """Return a batch of `fit` with its targets among the inputs, as `labels`, if the model's own loss needs them there."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        if self.loss or y is None:
            return x, y, sample_weight
        inputs = dict(x) if isinstance(x, Mapping) else {"input_values": x}
        if "labels" in inputs:
            raise ValueError("labels are given twice: among the inputs and as targets")
        return inputs | {"labels": y}, None, sample_weight

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> tf.Tensor:
        """Return the loss of a batch: the compiled one of the main output, or else the mean of the model's own."""
        if self.loss:
            return super().compute_loss(x=x, y=y, y_pred=_main_output(y_pred), sample_weight=sample_weight, training=training)
        loss = y_pred.get("loss") if isinstance(y_pred, TFModelOutput) else None
        if loss is None:
            raise ValueError(
                f"fit and evaluate need labels for the loss of {type(self).__name__}: pass them among the inputs, as 'labels', "
                f"or as targets; a model without a loss of its own needs compile(loss=...)"
            )
        if sample_weight is not None:
            raise ValueError("sample_weight must be None with the model's own loss: compile(loss=...) takes weights")
        return tf.add_n([tf.reduce_mean(loss), *(tf.cast(own, loss.dtype) for own in self.losses)])

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> dict[str, Any]:
        """Update the compiled metrics with the main output, and return their values."""
        return super().compute_metrics(x, y, _main_output(y_pred), sample_weight=sample_weight)

    # Serving

    @property
    def input_signature(self) -> dict[str, tf.TensorSpec]:
        """The inputs of `serving`: any number of waveforms of any length, and their mask."""
        return {
            "input_values": tf.TensorSpec((None, None), tf.float32, name="input_values"),
            "attention_mask": tf.TensorSpec((None, None), tf.int32, name="attention_mask"),
        }

    @property
    def serving(self) -> Any:
        """A `tf.function` for `tf.saved_model.save(model, folder, signatures=model.serving)`.

        It takes a dictionary with `input_values`, float32 `[B, S]`, and `attention_mask`, int32 `[B, S]`, both of any size, and
        returns one with the tensors of the output; `hidden_states` and `attentions`, if the configuration asks for them, as one
        tensor `[L, ...]` each.
        """
        if "_serving" not in vars(self):
            object.__setattr__(self, "_serving", tf.function(self._serve, input_signature=[self.input_signature]))
        return vars(self)["_serving"]

    def _serve(self, inputs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        return self.serving_output(self(inputs, return_dict=True, training=False))

    def serving_output(self, output: TFModelOutput) -> dict[str, tf.Tensor]:
        """Return an output with a tensor in place of each tuple of tensors."""
        return {name: tf.stack(value) if isinstance(value, tuple) else value for name, value in output.items()}

    def _trackable_children(self, save_type: str = "checkpoint", **options: Any) -> dict[str, Any]:
        """Return what a SavedModel holds: plain variables, since TensorFlow Lite cannot convert those of Keras to constants."""
        children = super()._trackable_children(save_type, **options)
        if save_type != "savedmodel":
            return children
        functions = {name: child for name, child in children.items() if name in ("_default_save_signature", "serving")}
        return functions | {variable.path.replace("/", "."): variable.value for variable in self.variables}

    def _get_save_spec(self, dynamic_batch: bool = True) -> tf.TensorSpec:
        """Return the input that `tf.lite.TFLiteConverter.from_keras_model` converts the model for: waveforms of any size."""
        return tf.TensorSpec(INPUT_SHAPE, tf.float32, name="input_values")

    # Checkpoints

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *model_args: Any,
        config: HubertConfig | str | Path | None = None,
        cache_dir: str | Path | None = None,
        ignore_mismatched_sizes: bool = False,
        force_download: bool = False,
        local_files_only: bool = False,
        token: str | bool | None = None,
        revision: str | None = None,
        subfolder: str | None = None,
        from_pt: bool = False,
        use_safetensors: bool | None = None,
        variant: str | None = None,
        output_loading_info: bool = False,
        **options: Any,
    ) -> Self:
        """Load a model from a folder or a Hugging Face hub repository.

        Weights come from safetensors, of PyTorch or of TensorFlow, else from `tf_model.h5`, else from `pytorch_model.bin`.
        Those that the checkpoint lacks are initialised, and a warning names them.

        Args:
            pretrained_model_name_or_path: A folder, or a repository name such as `facebook/hubert-base-ls960`.
            model_args: Arguments of the constructor after the configuration, for own heads.
            config: A configuration to use instead of the checkpoint's `config.json`, or a folder or repository to read it from.
            ignore_mismatched_sizes: Initialise weights whose shapes differ from the configuration's, instead of raising.
            cache_dir, force_download, local_files_only, token, revision: As in `huggingface_hub`.
            subfolder: A folder within the folder or repository that holds the files.
            from_pt: Pass over `tf_model.h5`.
            use_safetensors: `True` reads safetensors only, `False` reads none.
            variant: Read `model.VARIANT.safetensors` and so on.
            output_loading_info: Return `(model, info)`. `info` is a dictionary with `missing_keys`, `unexpected_keys` and
                `mismatched_keys` (key, shape in the file, shape in the model), with PyTorch's names of weights, and
                `error_msgs` (always empty: errors raise).
            options: Fields of `HubertConfig` that replace those of `config`, and keywords of the constructor: `name`, `dtype`
                (a Keras dtype policy, such as `"mixed_bfloat16"`) and `trainable`. Options of transformers are treated as in
                `hubert_fast.HubertModel.from_pretrained`.

        Raises:
            CheckpointError: A file is missing or unreadable.
            ValueError: Shapes differ and `ignore_mismatched_sizes` is not set, or an option has a value that is not supported.
            TypeError: A keyword is neither an option nor a field of `HubertConfig`.
        """
        if "use_auth_token" in options:
            token = options.pop("use_auth_token") if token is None else token
        hub_options: dict[str, Any] = {
            "revision": revision,
            "cache_dir": cache_dir,
            "token": token,
            "local_files_only": local_files_only,
            "force_download": force_download,
            "subfolder": subfolder,
        }
        if config is None or isinstance(config, (str, Path)):
            named = pretrained_model_name_or_path if config is None else config
            config = HubertConfig.from_pretrained(named, **hub_options)
        config = as_hubert_config(config)
        overrides, keywords = sort_loading_options(cls.__init__, config, options)
        model = cls(config.with_overrides(overrides) if overrides else config, *model_args, **keywords)
        if not all(layer.built for layer in model.layers):
            model(model.dummy_inputs)
        info = load_weights(
            model, pretrained_model_name_or_path, hub_options, from_pt, use_safetensors, variant, ignore_mismatched_sizes
        )
        if output_loading_info:
            return model, asdict(info) | {"error_msgs": []}  # type: ignore[return-value]
        return model

    def save_pretrained(
        self,
        save_directory: str | Path,
        saved_model: bool = False,
        version: int = 1,
        push_to_hub: bool = False,
        signatures: Any = None,
        max_shard_size: int | str = "5GB",
        create_pr: bool = False,
        safe_serialization: bool = True,
        token: str | bool | None = None,
        **options: Any,
    ) -> None:
        """Write `config.json` and the weights: safetensors for PyTorch and TensorFlow, or `tf_model.h5`.

        Args:
            save_directory: The folder to write into, which is created if it does not exist.
            saved_model: Whether to write a SavedModel too, into `saved_model/VERSION`, for TensorFlow Serving.
            version: The version of the SavedModel.
            push_to_hub: Must be `False`: `huggingface_hub.upload_folder` uploads the folder.
            signatures: The signatures of the SavedModel; `serving` by default.
            max_shard_size: The largest size of a safetensors file, in bytes or as in `"5GB"`. Larger models are split into
                several files.
            create_pr, token: Must be `False` and `None`: they serve `push_to_hub`.
            safe_serialization: Whether to write safetensors, which PyTorch and TensorFlow classes read, or `tf_model.h5`, which
                only the latter read. transformers 4.34.1 writes `tf_model.h5` by default.
            options: As in `hubert_fast.HubertModel.save_pretrained`.

        Raises:
            ValueError: `push_to_hub` is set, or another option is not supported.
            TypeError: A keyword is not an option.
            NotADirectoryError: `save_directory` is a file.
        """
        check_saving_options(options | {"push_to_hub": push_to_hub or create_pr, "token": token})
        folder = Path(save_directory)
        write_checkpoint(self, folder, safe_serialization, max_shard_size)
        if saved_model:
            tf.saved_model.save(self, str(folder / "saved_model" / str(version)), signatures=signatures or self.serving)


def _main_output(y_pred: Any) -> Any:
    """Return the logits, or the last hidden state, of an output; anything else unchanged."""
    if not isinstance(y_pred, TFModelOutput):
        return y_pred
    return y_pred["logits"] if "logits" in y_pred else y_pred["last_hidden_state"]
