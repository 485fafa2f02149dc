"""How weights are stored: one module per family, all behind `weight_format.Weight`."""
