"""Files in and out: input formats, splits, locks, and the layout of every file that is written."""
