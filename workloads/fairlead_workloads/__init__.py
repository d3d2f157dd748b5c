"""Workloads that come with Fairlead: one page each, with its manifest and a ready spec."""
