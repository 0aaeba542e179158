"""What the project promises about time, measured: `python -m benchmarks.<name>`."""
