"""Accelerate the objects of other libraries, and serve TensorFlow. Nothing here is imported before it is used."""
