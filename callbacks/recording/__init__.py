"""When a record is taken, and the life of one `fit`."""
