"""Accelerate the objects of other libraries. Nothing here is imported before it is used."""
