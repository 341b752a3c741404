"""The rights of the person (GDPR art. 12 to 22): register, decisions, replies, notices, copies."""
