"""What is said between the parts: typed messages and their bytes."""
