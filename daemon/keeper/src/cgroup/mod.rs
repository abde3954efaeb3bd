//! Cgroup leaves: limits, usage and membership of runs.
