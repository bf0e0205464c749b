"""Tasks from files: rows, their mapping to parameters, and an import that survives being killed."""
