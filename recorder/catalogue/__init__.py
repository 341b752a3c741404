"""The catalogue: tables, sessions, migrations, subject keys."""
