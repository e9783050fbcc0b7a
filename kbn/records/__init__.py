"""Records: the catalogue of measures, rows of numbers, and how they are stored."""
