"""Are the numbers worth betting on? Drivers that measure the measuring; see README.md."""
