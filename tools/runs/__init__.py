"""List, compare and prune runs: make runs, make compare, make prune."""
