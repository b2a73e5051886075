"""Related documents and the entities that link them, found without a model, in corpora of any size."""
