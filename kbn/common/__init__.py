"""What every room may use: argument checks, types, loading on first use."""
