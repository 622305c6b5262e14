"""Read data files and convert their rows to validated records (`Record`): file -> rows -> columns -> record."""

from relearn.data.record import Form, Record, Split, content_id

__all__ = ["Form", "Record", "Split", "content_id"]
