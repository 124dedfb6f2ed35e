"""Pool the frames of each recording by a mask from _get_feature_vector_attention_mask."""

import soundfile as sf
import torch
from transformers import HubertModel, Wav2Vec2FeatureExtractor

feature_extractor = Wav2Vec2FeatureExtractor.from_pretrained("facebook/hubert-large-ls960-ft")
model = HubertModel.from_pretrained("facebook/hubert-large-ls960-ft").eval()
speech = [sf.read(f"audio/{name}.wav")[0] for name in ("stop", "fan", "steps")]
inputs = feature_extractor(speech, sampling_rate=16000, padding=True, return_tensors="pt")
with torch.no_grad():
    hidden = model(**inputs).last_hidden_state
mask = model._get_feature_vector_attention_mask(hidden.shape[1], inputs["attention_mask"])
hidden[~mask] = 0.0
result = hidden.sum(dim=1) / mask.sum(dim=1).view(-1, 1)
