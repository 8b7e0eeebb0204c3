"""How often the drift rules cry wolf, and how soon they see a shift: measured, beside other libraries' defaults."""
