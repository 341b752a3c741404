"""Speed and memory of the service beside the raw store and rclone, measured in one run."""
