"""The seam between kbn and the array library."""
