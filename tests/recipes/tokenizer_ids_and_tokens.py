"""Convert between ids, tokens and strings."""

from transformers import Wav2Vec2CTCTokenizer

tokenizer = Wav2Vec2CTCTokenizer.from_pretrained("facebook/hubert-large-ls960-ft")
ids = tokenizer("HELLO WORLD").input_ids
result = {
    "ids": ids,
    "tokens": tokenizer.convert_ids_to_tokens(ids),
    "back": tokenizer.convert_tokens_to_ids(["H", "|", "Q"]),
    "one": [tokenizer.convert_tokens_to_ids("Z"), tokenizer.convert_ids_to_tokens(5)],
    "string": tokenizer.convert_tokens_to_string(["H", "H", "<pad>", "I"])["text"],
    "special": [tokenizer.pad_token, tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.word_delimiter_token_id],
    "size": [len(tokenizer), tokenizer.vocab_size],
    "vocabulary": sorted(tokenizer.get_vocab().items()),
}
