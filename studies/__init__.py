"""What is asked next, and what do the answers mean? Spaces, samplers, fronts, export."""
