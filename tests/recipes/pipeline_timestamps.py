"""Ask the pipeline for times of words and of characters."""

import soundfile as sf
from transformers import AutoFeatureExtractor, AutoTokenizer, HubertForCTC, pipeline

name = "facebook/hubert-large-ls960-ft"
model = HubertForCTC.from_pretrained(name)
asr = pipeline(
    "automatic-speech-recognition",
    model=model,
    tokenizer=AutoTokenizer.from_pretrained(name),
    feature_extractor=AutoFeatureExtractor.from_pretrained(name),
)
speech, _ = sf.read("audio/window.wav", dtype="float32")
result = [
    asr(speech, return_timestamps="word"),
    asr(speech, return_timestamps="char"),
    asr(speech, return_timestamps="word", chunk_length_s=1.5, stride_length_s=0.4),
]
