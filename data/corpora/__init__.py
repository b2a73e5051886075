"""Your own corpora: files of many kinds become documents; what cannot be read is rejected with its line."""
