"""What policies learn, by selector and task."""
