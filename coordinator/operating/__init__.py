"""What operators see and do: looks that change nothing, and words that are recorded with who said them and why."""
