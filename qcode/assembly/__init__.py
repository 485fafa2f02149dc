"""The composition root: settings in, agent out. Nothing else names concrete classes, and each is
imported only when it is chosen, so that a remote endpoint never loads torch."""

from qcode.assembly.agent import create_agent, create_tools, create_workspace
from qcode.assembly.backend import create_backend, default_model
from qcode.assembly.opening import load_settings, open_agent, open_session

__all__ = [
    "create_agent",
    "create_backend",
    "create_tools",
    "create_workspace",
    "default_model",
    "load_settings",
    "open_agent",
    "open_session",
]
