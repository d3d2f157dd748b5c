"""The process inside a cluster: takes attempts from the control plane, runs them on Ray, and reports what it sees."""
