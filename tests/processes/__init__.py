"""Real workers, killed, frozen and cut off in mid-run, with an account of every occurrence that the store has no part in."""
