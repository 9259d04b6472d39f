"""What rows contain, compared: digests, repeats, near duplicates."""
