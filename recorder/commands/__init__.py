"""The commands of ``recorder``, one module for each family. Heavy imports wait until a command runs."""
