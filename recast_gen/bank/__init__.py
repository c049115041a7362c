"""Templates and coefficients with numpy alone: all that a device needs, generation included."""
