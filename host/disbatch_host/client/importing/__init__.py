"""Tasks from files: rows, their mapping to parameters, and imports that survive being killed."""
