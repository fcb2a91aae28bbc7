"""What does the user type and see? The command line, the run, its tables."""
