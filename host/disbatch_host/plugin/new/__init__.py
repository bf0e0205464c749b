"""New plugins: the bundled ones and the templates that `disbatch-host new` writes."""
