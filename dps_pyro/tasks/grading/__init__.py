"""Grading of mathematical answers, in processes that can be killed."""
