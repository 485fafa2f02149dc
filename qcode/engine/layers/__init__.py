"""Building blocks shared by the models: linear, norm, rotary, attention, experts."""
