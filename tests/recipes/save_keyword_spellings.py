"""Spell out the keywords pretrained_model_name_or_path and save_directory."""

import os

from transformers import HubertConfig, HubertForCTC, Wav2Vec2Processor

name = "facebook/hubert-large-ls960-ft"
config = HubertConfig.from_pretrained(pretrained_model_name_or_path=name)
model = HubertForCTC.from_pretrained(pretrained_model_name_or_path=name, config=config)
processor = Wav2Vec2Processor.from_pretrained(pretrained_model_name_or_path=name)
model.save_pretrained(save_directory="all")
processor.save_pretrained(save_directory="all")
config.save_pretrained(save_directory="configuration")
result = {
    "blank": HubertForCTC.from_pretrained("all").config.pad_token_id,
    "files": [os.path.exists(f"all/{file}") for file in ("config.json", "vocab.json")],
    "hidden": HubertConfig.from_pretrained("configuration").hidden_size,
    "text": Wav2Vec2Processor.from_pretrained("all").decode([11, 11, 5, 0, 15, 15, 0, 15, 8]),
}
