"""Very many tasks in one go: made from the rows of a file or from documents, and written out again."""
