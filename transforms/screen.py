"""The former name of `transforms.logs.privacy`: `without_texts` is `redact_texts`. It goes after one release."""

from transforms.logs.privacy import redact_texts as without_texts

__all__ = ["without_texts"]
