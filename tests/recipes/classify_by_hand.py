"""Classify keywords by hand, as the model card of hubert-base-superb-ks does."""

import soundfile as sf
import torch
from transformers import HubertForSequenceClassification, Wav2Vec2FeatureExtractor

model = HubertForSequenceClassification.from_pretrained("superb/hubert-base-superb-ks")
feature_extractor = Wav2Vec2FeatureExtractor.from_pretrained("superb/hubert-base-superb-ks")

speech = [sf.read(f"audio/{name}.wav")[0] for name in ("stop", "fan", "window")]
inputs = feature_extractor(speech, sampling_rate=16000, padding=True, return_tensors="pt")
with torch.no_grad():
    logits = model(**inputs).logits
predicted_ids = torch.argmax(logits, dim=-1)
result = {"logits": logits, "labels": [model.config.id2label[_id] for _id in predicted_ids.tolist()]}
