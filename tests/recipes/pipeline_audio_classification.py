"""Classify audio with the pipeline."""

import soundfile as sf
from transformers import AutoFeatureExtractor, HubertForSequenceClassification, pipeline

name = "superb/hubert-base-superb-ks"
model = HubertForSequenceClassification.from_pretrained(name)
classifier = pipeline("audio-classification", model=model, feature_extractor=AutoFeatureExtractor.from_pretrained(name))
speech, _ = sf.read("audio/stop.wav", dtype="float32")
result = [classifier(speech, top_k=3), [output["label"] for output in classifier(speech, top_k=6)]]
