"""What a topology costs, how far it has explored, and whether it is healthy."""
