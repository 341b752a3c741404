"""The accountability registers: recipients and transfers, disclosures, breaches, staff as data subjects."""
