"""Rows from files: readers, formats and messages, for training and for whatever else reads files of rows."""
