"""Evaluate the word error rate over a list of recordings."""

import jiwer
import soundfile as sf
import torch
from transformers import HubertForCTC, Wav2Vec2Processor

processor = Wav2Vec2Processor.from_pretrained("facebook/hubert-large-ls960-ft")
model = HubertForCTC.from_pretrained("facebook/hubert-large-ls960-ft").to("cpu")


def map_to_pred(batch):
    speech, _ = sf.read(batch["file"])
    input_values = processor(speech, sampling_rate=16000, return_tensors="pt", padding="longest").input_values
    with torch.no_grad():
        logits = model(input_values.to("cpu")).logits
    batch["transcription"] = processor.batch_decode(torch.argmax(logits, dim=-1))[0]
    return batch


dataset = [
    {"file": "audio/stop.wav", "text": "STOP"},
    {"file": "audio/fan.wav", "text": "SWITCH ON THE OFFICE FAN"},
    {"file": "audio/steps.wav", "text": "MOVE FORWARD ELEVEN STEPS"},
]
predictions = [map_to_pred(row) for row in dataset]
result = jiwer.wer([row["text"] for row in predictions], [row["transcription"] for row in predictions])
