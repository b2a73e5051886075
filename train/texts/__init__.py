"""What is learned, in which step, in which row."""
