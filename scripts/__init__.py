"""One thin file a command: parse, call catdog, print."""
