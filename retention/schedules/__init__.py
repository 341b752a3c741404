"""The default schedules that are shipped, one per country."""
