"""Turn a file's rows into proven training rows on disk: in chunks, in one process per core."""
