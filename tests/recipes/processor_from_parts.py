"""Build the processor from a vocab.json, as the fine-tuning post does, save it and load it."""

import json

from transformers import Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor, Wav2Vec2Processor

texts = ["hello world", "good day"]
vocab_list = sorted(set(" ".join(texts)))
vocab_dict = {v: k for k, v in enumerate(vocab_list)}
vocab_dict["|"] = vocab_dict[" "]
del vocab_dict[" "]
vocab_dict["[UNK]"] = len(vocab_dict)
vocab_dict["[PAD]"] = len(vocab_dict)
with open("letters.json", "w") as vocab_file:
    json.dump(vocab_dict, vocab_file)

tokenizer = Wav2Vec2CTCTokenizer("./letters.json", unk_token="[UNK]", pad_token="[PAD]", word_delimiter_token="|")
feature_extractor = Wav2Vec2FeatureExtractor(
    feature_size=1, sampling_rate=16000, padding_value=0.0, do_normalize=True, return_attention_mask=True
)
processor = Wav2Vec2Processor(feature_extractor=feature_extractor, tokenizer=tokenizer)
processor.save_pretrained("processor")
loaded = Wav2Vec2Processor.from_pretrained("processor")
ids = loaded.tokenizer("hello day").input_ids
result = {
    "size": tokenizer.vocab_size,
    "blank": loaded.tokenizer.pad_token_id,
    "ids": ids,
    "unknown": loaded.tokenizer("xyz").input_ids,
    "text": loaded.decode(ids, group_tokens=False),
    "normalize": loaded.feature_extractor.do_normalize,
}
