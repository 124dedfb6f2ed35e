"""Define what a configuration has in common with others: reading, writing and changing it, as in transformers."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .hub import CONFIG_NAME, HUB_OPTIONS, json_text, read_json, resolve_file, write_json

if TYPE_CHECKING:
    from typing_extensions import Self

# Attributes of every configuration of transformers that `from_pretrained` may set, although no HuBERT reads them.
COMMON_ATTRIBUTES = {
    "architectures",
    "finetuning_task",
    "gradient_checkpointing",
    "prefix",
    "sep_token_id",
    "task_specific_params",
    "tie_word_embeddings",
    "tokenizer_class",
}
WITHOUT_EFFECT = ("trust_remote_code", "resume_download")
DROPPED_DEFAULTS = ("id2label", "label2id", "output_attentions", "output_hidden_states", "problem_type", "return_dict")


class ConfigFiles:
    """The methods of `HubertConfig` that convert it to and from dictionaries and files."""

    model_type: str
    id2label: dict[int, str]
    label2id: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        """Return the contents of `config.json`: JSON types only, unknown keys included."""
        values = dict(vars(self))
        values |= {name: list(values[name]) for name in ("conv_dim", "conv_stride", "conv_kernel")}
        values |= {"id2label": {str(index): label for index, label in self.id2label.items()}, "label2id": self.label2id}
        values["model_type"] = self.model_type
        return dict(sorted(values.items()))

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], return_unused_kwargs: bool = False, **overrides: Any) -> Any:
        """Build a configuration from the contents of a `config.json`.

        Args:
            config_dict: The contents.
            return_unused_kwargs: Return `(config, unused)`, where `unused` has the overrides that are no attributes.
            overrides: Attributes, which take precedence over `config_dict`.

        Raises:
            ValueError: As in the constructor, or the configuration belongs to another type of model.
        """
        model_type = config_dict.get("model_type", cls.model_type)
        if model_type != cls.model_type:
            raise ValueError(
                f"model_type must be 'hubert', but this configuration belongs to a {model_type!r} model: name a HuBERT"
            )
        if return_unused_kwargs:
            config = cls.from_dict(config_dict)
            unused = {name: overrides.pop(name) for name in list(overrides) if not config.has_option(name)}
            return config.with_overrides(overrides), unused
        if "num_labels" in overrides:
            config_dict = {name: value for name, value in config_dict.items() if name not in ("id2label", "label2id")}
        return cls(**{**config_dict, **overrides})

    @classmethod
    def from_json_file(cls, json_file: str | Path) -> Self:
        """Read a `config.json`.

        Args:
            json_file: The file.

        Raises:
            CheckpointError: The file cannot be read, or is not a JSON object.
            ValueError: As in `from_dict`; the message names the file.
        """
        values = read_json(json_file)
        try:
            return cls.from_dict(values)
        except ValueError as error:
            raise ValueError(f"{json_file}: {error}") from None

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path | None = None,
        return_unused_kwargs: bool = False,
        name_or_path: str | Path | None = None,
        **options: Any,
    ) -> Any:
        """Read `config.json` from a folder or a repository of the Hugging Face hub.

        Args:
            pretrained_model_name_or_path: The folder, the repository, or the file itself.
            return_unused_kwargs: Return `(config, unused)`, where `unused` has the unknown options, instead of raising.
            name_or_path: Another name of `pretrained_model_name_or_path`.
            options: `revision`, `cache_dir`, `token`, `local_files_only`, `force_download` and `subfolder` of
                `huggingface_hub`, and attributes of the configuration, which take precedence over those of the file.
                `trust_remote_code` and `resume_download` have no effect.

        Raises:
            CheckpointError: The file is missing or cannot be read.
            TypeError: An option is unknown, or there is no name.
            ValueError: As in `from_dict`.
        """
        named = name_or_path if pretrained_model_name_or_path is None else pretrained_model_name_or_path
        if named is None:
            raise TypeError("from_pretrained needs pretrained_model_name_or_path, a folder or a repository")
        hub_options = {name: options.pop(name) for name in list(options) if name in HUB_OPTIONS}
        for name in WITHOUT_EFFECT:
            options.pop(name, None)
        path = Path(named)
        is_file = path.suffix == ".json" and path.is_file()
        config = cls.from_json_file(path if is_file else resolve_file(named, CONFIG_NAME, **hub_options))
        overrides = {name: options.pop(name) for name in list(options) if config.has_option(name)}
        config = config.with_overrides(overrides) if overrides else config
        if return_unused_kwargs:
            return config, options
        refuse_unknown(set(options))
        return config

    @classmethod
    def get_config_dict(
        cls, pretrained_model_name_or_path: str | Path, **options: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the contents of `config.json`, and the options that are not those of `huggingface_hub`."""
        hub_options = {name: options.pop(name) for name in list(options) if name in HUB_OPTIONS}
        return read_json(resolve_file(pretrained_model_name_or_path, CONFIG_NAME, **hub_options)), options

    @classmethod
    def field_names(cls) -> set[str]:
        """Return the names of all fields, including those that describe labels."""
        return {field.name for field in fields(cls)} | {"num_labels", "id2label", "label2id"}  # type: ignore[arg-type]

    def has_option(self, name: str) -> bool:
        """Return whether `from_pretrained` may override an attribute: a field, one in the file, or a common one."""
        return name in self.field_names() or name in COMMON_ATTRIBUTES or name in vars(self)

    def with_overrides(self, values: dict[str, Any]) -> Self:
        """Return a copy in which `values` replace the fields of the same name, checked like a new configuration."""
        return self.from_dict(self.to_dict(), **values)

    def update(self, config_dict: dict[str, Any]) -> None:
        """Change several fields at once, and check the result as the constructor does."""
        vars(self).update(vars(self.with_overrides(config_dict)))

    def update_from_string(self, update_str: str) -> None:
        """Change fields as in `"layerdrop=0.0,hidden_act=relu"`.

        Raises:
            ValueError: A field does not exist or is neither a number, a boolean nor text, or a value does not fit.
        """
        values = {}
        for assignment in update_str.split(","):
            name, equals, text = assignment.partition("=")
            if not equals or not hasattr(self, name):
                raise ValueError(f"update_from_string expects FIELD=VALUE with an existing field, but got {assignment!r}")
            kind = type(getattr(self, name))
            if kind is bool and text.lower() in ("true", "1", "y", "yes", "on", "false", "0", "n", "no", "off"):
                values[name] = text.lower() in ("true", "1", "y", "yes", "on")
            elif kind in (int, float, str):
                values[name] = kind(text)
            else:
                raise ValueError(f"update_from_string can set numbers, booleans and text, but got {assignment!r}")
        self.update(values)

    def to_diff_dict(self) -> dict[str, Any]:
        """Return `to_dict()` without the attributes of all configurations that have their default."""
        values, default = self.to_dict(), type(self)().to_dict()
        return {name: value for name, value in values.items() if name not in DROPPED_DEFAULTS or value != default.get(name)}

    def to_json_string(self, use_diff: bool = True) -> str:
        """Return the JSON text of `to_diff_dict()` or, without `use_diff`, of `to_dict()`."""
        return json_text(self.to_diff_dict() if use_diff else self.to_dict())

    def to_json_file(self, json_file_path: str | Path, use_diff: bool = True) -> None:
        """Write `to_json_string(use_diff)` to a file."""
        Path(json_file_path).write_text(self.to_json_string(use_diff), encoding="utf-8")

    def save_pretrained(self, save_directory: str | Path, push_to_hub: bool = False) -> None:
        """Write `config.json`, with all fields, into a folder, which is created if it does not exist.

        Raises:
            ValueError: `push_to_hub` is set: `huggingface_hub.upload_folder` uploads the folder.
            NotADirectoryError: `save_directory` is a file.
        """
        if push_to_hub:
            raise ValueError("push_to_hub must be False: call huggingface_hub.upload_folder with the folder")
        folder = Path(save_directory)
        if folder.is_file():
            raise NotADirectoryError(f"save_pretrained needs a folder, but {folder} is a file")
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / CONFIG_NAME, self.to_dict())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ConfigFiles) and self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]  # configurations are mutable

    def __repr__(self) -> str:
        return f"HubertConfig {self.to_json_string(use_diff=False).rstrip()}"


def refuse_unknown(names: set[str]) -> None:
    """Raise `TypeError` if `names`, the unknown keywords of a `from_pretrained`, is not empty."""
    if names:
        unknown = ", ".join(sorted(names))
        raise TypeError(f"from_pretrained got {unknown}, which is neither an option nor a field of HubertConfig")
