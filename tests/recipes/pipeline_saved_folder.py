"""Save model and processor into one folder, and make a pipeline of the folder."""

import soundfile as sf
from transformers import HubertForCTC, Wav2Vec2Processor, pipeline

name = "facebook/hubert-large-ls960-ft"
HubertForCTC.from_pretrained(name).save_pretrained("my-model")
Wav2Vec2Processor.from_pretrained(name).save_pretrained("my-model")
asr = pipeline("automatic-speech-recognition", model="my-model")
speech, _ = sf.read("audio/stop.wav", dtype="float32")
result = asr(speech)["text"]
