"""What telephony systems really send, turned into requests to the pipeline; one module a kind of sender."""
