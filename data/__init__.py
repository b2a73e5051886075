"""Records and where they are stored: Arrow folders, corpora, generated sets, sentences, prompt books."""
