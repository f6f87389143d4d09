"""Many simulated experiments over several processes, their results as tables, files and plots."""
