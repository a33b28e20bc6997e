"""The tables and pictures of the documentation, made from committed results."""
