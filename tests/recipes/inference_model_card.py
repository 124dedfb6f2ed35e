"""Transcribe one recording as the model card of hubert-large-ls960-ft does."""

import soundfile as sf
import torch
from transformers import HubertForCTC, Wav2Vec2Processor

processor = Wav2Vec2Processor.from_pretrained("facebook/hubert-large-ls960-ft")
model = HubertForCTC.from_pretrained("facebook/hubert-large-ls960-ft")

speech, _ = sf.read("audio/steps.wav")
input_values = processor(speech, sampling_rate=16000, return_tensors="pt").input_values
logits = model(input_values).logits
predicted_ids = torch.argmax(logits, dim=-1)
transcription = processor.decode(predicted_ids[0])

result = {"transcription": transcription, "logits": logits}
