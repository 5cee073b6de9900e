"""What runs? Ask, run, tell; engines; kept values."""
