"""The exception for files that yield no usable audio."""


class AudioError(ValueError):
    """A file yields no usable audio. The message names the file and the reason."""
