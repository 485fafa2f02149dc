"""The layers networks are built from: functions of tensors, weights given when built."""
