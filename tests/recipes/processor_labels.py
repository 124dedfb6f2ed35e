"""Prepare labels by text=, and pad inputs and labels together."""

import soundfile as sf
from transformers import Wav2Vec2Processor

processor = Wav2Vec2Processor.from_pretrained("facebook/hubert-large-ls960-ft")
speech = [sf.read(f"audio/{name}.wav", dtype="float32")[0][:4000] for name in ("stop", "fan")]
batch = processor(speech, sampling_rate=16000, padding=True, return_tensors="pt")
labels = processor(text=["STOP", "SWITCH ON THE FAN"]).input_ids
padded = processor.pad(labels=[{"input_ids": row} for row in labels], padding=True, return_tensors="pt")
both = processor.pad(
    [{"input_values": row} for row in speech],
    labels=[{"input_ids": row} for row in labels],
    padding=True,
    return_tensors="pt",
)
result = {
    "labels": labels,
    "padded": dict(padded),
    "both": [both["input_values"], both["labels"]],
    "mask": batch["attention_mask"],
}
