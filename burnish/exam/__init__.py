"""The exam: its questions, its figures with intervals, and the gate with its thresholds."""
