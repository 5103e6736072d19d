"""Models and benchmarks; peers are measured in the same process."""
