"""Runs the trials of a sweep: slots that hold resources, a process for every trial, and who decides what comes next."""
