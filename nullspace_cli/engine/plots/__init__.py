"""Figures. The only place that knows matplotlib; it draws on figures of its own, without pyplot's global state."""
