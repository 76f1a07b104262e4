"""Values and decisions: what happens to an occurrence, without a clock, a driver or an await."""
