"""Torch modules: what turns features into trajectories, and trajectories into predicted sub-scores."""
