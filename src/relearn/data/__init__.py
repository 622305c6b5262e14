"""Read data files into records: file -> rows -> columns -> `Record` -> validation."""

from relearn.data.record import Form, Record, Split, content_id

__all__ = ["Form", "Record", "Split", "content_id"]
