"""What the rest of the engine runs on: errors, command line, files, signals, random numbers, devices, shortcuts."""
