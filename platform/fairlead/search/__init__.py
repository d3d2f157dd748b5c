"""Sweeps: what is tried next, when a trial is not worth going on with, and which trial is the best."""
