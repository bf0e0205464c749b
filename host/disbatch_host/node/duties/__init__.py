"""What a node does again and again, besides claiming and running."""
