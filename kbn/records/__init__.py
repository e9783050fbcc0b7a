"""What is recorded: the catalogue of measures, the rows, and how they are stored."""
