"""What `import nullspace_cli` offers: the engine in memory, for models and images at hand. See docs/library.md."""
