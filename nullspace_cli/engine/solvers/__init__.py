"""Exact convex solvers on plain tensors, one method a file. Each returns a `Solution` with its certificate."""
