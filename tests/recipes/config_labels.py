"""Set the labels of a classifier by num_labels, id2label and label2id."""

from transformers import HubertConfig, HubertForSequenceClassification

small = dict(num_hidden_layers=1, hidden_size=24, num_attention_heads=2, intermediate_size=32, num_conv_pos_embedding_groups=4)
by_number = HubertConfig(num_labels=4, **small)
by_names = HubertConfig(id2label={0: "cat", 1: "dog", 2: "owl"}, label2id={"cat": 0, "dog": 1, "owl": 2}, **small)
result = {
    "by number": by_number.id2label,
    "by names": [by_names.num_labels, by_names.label2id],
    "sizes": [list(HubertForSequenceClassification(c).classifier.weight.shape) for c in (by_number, by_names)],
}
