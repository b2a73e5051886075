"""`entail serve`: a service that outlives the command that started it."""
