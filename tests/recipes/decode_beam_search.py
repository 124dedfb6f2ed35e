"""Decode a padded batch by prefix beam search, through the padding."""

import math
from collections import defaultdict

import soundfile as sf
import torch
from transformers import HubertForCTC, Wav2Vec2Processor


def add(*values):
    high = max(values)
    return high if high == -math.inf else high + math.log(sum(math.exp(value - high) for value in values))


def beam_search(log_probs, blank, width=4, candidates=4):
    beams = {(): (0.0, -math.inf)}
    for frame in log_probs:
        scores, tokens = frame.topk(candidates)
        grown = defaultdict(lambda: (-math.inf, -math.inf))
        for prefix, (ends_blank, ends_token) in beams.items():
            for score, token in zip(scores.tolist(), tokens.tolist()):
                if token == blank:
                    old = grown[prefix]
                    grown[prefix] = (add(old[0], ends_blank + score, ends_token + score), old[1])
                    continue
                if prefix and prefix[-1] == token:
                    old = grown[prefix]
                    grown[prefix] = (old[0], add(old[1], ends_token + score))
                    arrived = ends_blank + score
                else:
                    arrived = add(ends_blank, ends_token) + score
                old = grown[(*prefix, token)]
                grown[(*prefix, token)] = (old[0], add(old[1], arrived))
        beams = dict(sorted(grown.items(), key=lambda item: add(*item[1]), reverse=True)[:width])
    return next(iter(beams))


processor = Wav2Vec2Processor.from_pretrained("facebook/hubert-large-ls960-ft")
model = HubertForCTC.from_pretrained("facebook/hubert-large-ls960-ft").eval()
speech = [sf.read(f"audio/{name}.wav")[0] for name in ("stop", "window")]
inputs = processor(speech, sampling_rate=16000, return_tensors="pt", padding=True)
with torch.no_grad():
    log_probs = model(**inputs).logits.float().log_softmax(-1)
ids = [beam_search(row, processor.tokenizer.pad_token_id) for row in log_probs]
result = ["".join(processor.tokenizer.convert_ids_to_tokens(list(row))).replace("|", " ").strip() for row in ids]
