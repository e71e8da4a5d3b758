"""Checkpoints: what a state holds (state.py), its file (file.py), and the folder of a run (run_folder.py)."""

from .file import is_intact, load, save
from .run_folder import states_in

__all__ = ["is_intact", "load", "save", "states_in"]
