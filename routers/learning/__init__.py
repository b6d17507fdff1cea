"""What routers learn from outcomes."""
