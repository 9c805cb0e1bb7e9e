"""Faults of every kind against several engine processes on a real Kafka. After each, the published alerts must be those of an
undisturbed run over the same records: none lost, none invented, each in the same final state.

A short form is in the ordinary test run; `make chaos` is the long one. A new fault is a function and a row in `faults.FAULTS`.
"""
