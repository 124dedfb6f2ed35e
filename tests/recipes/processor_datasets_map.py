"""Prepare rows as Dataset.map(batched=True) does, and sort them by length."""

import soundfile as sf
from transformers import Wav2Vec2Processor


class Dataset:
    def __init__(self, columns):
        self.columns = columns

    def map(self, function, batch_size):
        length = len(next(iter(self.columns.values())))
        mapped = {}
        for begin in range(0, length, batch_size):
            batch = {name: values[begin : begin + batch_size] for name, values in self.columns.items()}
            for name, values in {**batch, **function(batch)}.items():
                assert len(values) == len(batch["name"])
                mapped.setdefault(name, []).extend(values)
        return Dataset(mapped)


processor = Wav2Vec2Processor.from_pretrained("facebook/hubert-large-ls960-ft")


def prepare(batch):
    arrays = [sf.read(f"audio/{name}.wav", dtype="float32")[0] for name in batch["name"]]
    batch["input_values"] = processor(arrays, sampling_rate=16000).input_values
    batch["input_length"] = [len(row) for row in batch["input_values"]]
    batch["labels"] = processor(text=batch["text"]).input_ids
    return batch


texts = ["STOP", "SWITCH ON THE OFFICE FAN", "OPEN THE KITCHEN WINDOW"]
dataset = Dataset({"name": ["stop", "fan", "window"], "text": texts}).map(prepare, batch_size=2)
result = {
    "lengths": dataset.columns["input_length"],
    "labels": dataset.columns["labels"],
    "means": [float(row.mean()) + 1 for row in dataset.columns["input_values"]],
}
