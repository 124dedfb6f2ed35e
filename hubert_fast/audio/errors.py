"""The one error that a file without usable audio raises."""


class AudioError(ValueError):
    """A file gives no usable audio; the message says which and why."""
