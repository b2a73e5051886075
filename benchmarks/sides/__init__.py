"""What is measured: each module is one side, run in a process of its own by `benchmarks.side`."""
