"""Stage one: data and settings in, adapter, exam and train.json out."""
