"""Benchmarks: one question per file, answered by a line for people and, last, one line of JSON for programs."""
