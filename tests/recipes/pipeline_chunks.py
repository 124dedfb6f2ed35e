"""Recognise a long recording in chunks with strides."""

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
speech, _ = sf.read("audio/long.wav", dtype="float32")
result = asr(speech[: 8 * 16000], chunk_length_s=4, stride_length_s=(1, 0.5))
