"""What people ask of a cluster, whatever face shows it: no terminal, no HTTP, no printing."""
