"""The engine behind somebody else's HTTP port: requests with patience, answers read with mistrust."""
