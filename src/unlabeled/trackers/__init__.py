"""Experiment trackers: a run's curves, pictures and settings in the tool where a team compares its runs.

`TRACKERS` lists them. The package of a tracker is imported only when a run is tracked. One that is missing is reported
before the training begins, and one that fails later is dropped while the training goes on.
"""

from unlabeled.trackers.names import TRACKERS, parse
from unlabeled.trackers.several import COLUMNS, Trackers, require, scalars
from unlabeled.trackers.tracker import About, Tracker

__all__ = ["COLUMNS", "TRACKERS", "About", "Tracker", "Trackers", "parse", "require", "scalars"]
