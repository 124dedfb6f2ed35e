"""Recognise speech with a pipeline of our model and transformers' processor."""

import soundfile as sf
from transformers import AutoFeatureExtractor, AutoTokenizer, HubertForCTC, pipeline

name = "facebook/hubert-large-ls960-ft"
model = HubertForCTC.from_pretrained(name)
tokenizer = AutoTokenizer.from_pretrained(name)
feature_extractor = AutoFeatureExtractor.from_pretrained(name)
asr = pipeline("automatic-speech-recognition", model=model, tokenizer=tokenizer, feature_extractor=feature_extractor)
speech, _ = sf.read("audio/steps.wav", dtype="float32")
result = asr(speech)["text"]
