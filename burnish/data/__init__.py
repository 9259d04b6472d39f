"""Read rows from data files: readers, formats and messages."""
