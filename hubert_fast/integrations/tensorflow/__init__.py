"""HuBERT in TensorFlow. `hubert_fast.tensorflow` has the public names."""
