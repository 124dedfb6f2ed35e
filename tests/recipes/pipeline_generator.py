"""Run the pipeline over a generator in batches."""

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


def recordings():
    for name in ("stop", "stop", "steps"):
        yield sf.read(f"audio/{name}.wav", dtype="float32")[0]


result = [output["text"] for output in asr(recordings(), batch_size=1)]
