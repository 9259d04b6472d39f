"""Compare the content of rows: digests, repeats, near duplicates."""
