"""Records: what is to be forgotten, kept, or merely used to keep the model talking."""

from relearn.data.record import Form, Record, Split, content_id

__all__ = ["Form", "Record", "Split", "content_id"]
