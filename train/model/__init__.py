"""What is computed: attention over packed texts, objectives, adapters."""
