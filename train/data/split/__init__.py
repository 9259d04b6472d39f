"""Choose which rows are trained and which are held out."""
