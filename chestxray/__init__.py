"""Training and scoring of chest X-ray classifiers whose scores stand up in statistics."""

__version__ = "0.1.0"
