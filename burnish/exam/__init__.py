"""The exam: questions, figures with confidence intervals, and the gate with its thresholds."""
