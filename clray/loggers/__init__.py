"""Who else may be told of a job's trials and results: one file for each."""
