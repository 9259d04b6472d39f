"""From a part of a data set (a file, or a file in an archive) to its rows."""
