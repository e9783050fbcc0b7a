"""Pictures of what the callbacks recorded."""
