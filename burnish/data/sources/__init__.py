"""Find a dataset's parts: files, directories, patterns, archives, and copies from the Hub and the web."""
