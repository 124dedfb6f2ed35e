"""Other libraries' objects, made fast: nothing here is imported before it is used."""
