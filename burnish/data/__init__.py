"""Read rows from files: readers, formats and messages."""
