"""The nine commands, one file each: a stage that is a pure function of records, and the command that connects it."""
