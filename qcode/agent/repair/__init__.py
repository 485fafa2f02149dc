"""Repairing what a test or a command says is broken, led by the harness."""

from qcode.agent.repair.choice import repair_strategy

__all__ = ["repair_strategy"]
