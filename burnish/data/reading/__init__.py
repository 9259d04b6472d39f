"""From a part of a dataset (a file, or a file in an archive) to its rows."""
