"""The exam: its rows, its figures with their intervals, and the gate's thresholds."""
