"""Settings -> what one turn may use, and what that costs."""

from __future__ import annotations

from qcode.agent.limits import Prices, TurnLimits
from qcode.config.settings import Settings
from qcode.protocol.backends import ModelInfo
from qcode.protocol.errors import SettingsError


def turn_limits(settings: Settings, model: ModelInfo) -> TurnLimits:
    """Raises `SettingsError` for a limit on cost without prices: the bundled engine costs nothing,
    but what an endpoint costs must be said."""
    prices = _prices(settings)
    if settings.max_cost is not None and prices is None and not model.local:
        raise SettingsError(
            "max_cost needs the model's prices, and they are not known.",
            "Set cost_input and cost_output, each for a million tokens: as QCODE_COST_INPUT=0.3, "
            "or in the model's table of the settings file.",
        )
    return TurnLimits(
        max_turns=settings.max_turns,
        max_wall_time_s=settings.max_wall_time,
        max_tool_calls=settings.max_tool_calls,
        max_tokens=settings.max_tokens,
        max_cost=settings.max_cost,
        prices=prices or Prices(),
    )


def _prices(settings: Settings) -> Prices | None:
    """Those of the settings; where they are silent, those of the named model."""
    cost_input, cost_output = settings.cost_input, settings.cost_output
    if (named := settings.named_model) is not None:
        cost_input = named.cost_input if cost_input is None else cost_input
        cost_output = named.cost_output if cost_output is None else cost_output
    if cost_input is None or cost_output is None:
        return None
    return Prices(input=cost_input, output=cost_output)
