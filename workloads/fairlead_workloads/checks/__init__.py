"""How good each workload must be, one module each, named by its manifest: ``fairlead workloads check NAME``."""
