"""The exact nullspace of a patch embedding: found, checked, sampled, saved; and tokens back to pixels."""
