"""What leaves the service by itself: webhooks to the operator's systems, fetches from senders' stores."""
