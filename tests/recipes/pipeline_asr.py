"""Recognise speech with the pipeline, by the name of the model and by objects."""

import soundfile as sf
from transformers import HubertForCTC, Wav2Vec2Processor, pipeline

speech, rate = sf.read("audio/stop.wav", dtype="float32")
processor = Wav2Vec2Processor.from_pretrained("facebook/hubert-large-ls960-ft")
model = HubertForCTC.from_pretrained("facebook/hubert-large-ls960-ft")
asr = pipeline(
    "automatic-speech-recognition",
    model=model,
    tokenizer=processor.tokenizer,
    feature_extractor=processor.feature_extractor,
)
result = [asr(speech), asr({"raw": speech, "sampling_rate": rate})]
