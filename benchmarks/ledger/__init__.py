"""The ledger's SQL alone: what the database would carry for a perfect server. `driver.py` drives it, `sweep.py` by batch size."""
