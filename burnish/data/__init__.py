"""Rows from files: readers, formats and messages, shared by training and by answering files in batches."""
