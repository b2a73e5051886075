"""The story: the command line, recipes and the ordered stages of a study."""
