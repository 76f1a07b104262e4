"""A service that reminds people of their habits by mail, each at a time of their own, in their own time zone."""
