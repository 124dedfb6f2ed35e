"""Make the pipeline from a model's name alone, as AutoModelForCTC loads it."""

import soundfile as sf
from transformers import pipeline

asr = pipeline("automatic-speech-recognition", model="facebook/hubert-large-ls960-ft")
speech, _ = sf.read("audio/fan.wav", dtype="float32")
result = asr(speech)
