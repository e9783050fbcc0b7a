"""What a record measures."""
