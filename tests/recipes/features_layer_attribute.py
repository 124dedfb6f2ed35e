"""Use the encoder inside a CTC model for features."""

import soundfile as sf
import torch
from transformers import HubertForCTC, Wav2Vec2Processor

processor = Wav2Vec2Processor.from_pretrained("facebook/hubert-large-ls960-ft")
model = HubertForCTC.from_pretrained("facebook/hubert-large-ls960-ft").eval()
speech, _ = sf.read("audio/fan.wav")
inputs = processor(speech, sampling_rate=16000, return_tensors="pt")
with torch.no_grad():
    encoded = model.hubert(**inputs)
    logits = model.lm_head(encoded.last_hidden_state)
    direct = model(**inputs, output_hidden_states=True)
result = {"logits": logits, "direct": direct.logits, "first": direct.hidden_states[0]}
