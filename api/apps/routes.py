"""Every blueprint of the web process. A new file of routes is added here, and nowhere else."""

from quart import Blueprint

BLUEPRINTS: tuple[Blueprint, ...] = ()
