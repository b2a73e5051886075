"""One finetuning run, and lists of runs on one worker group."""
