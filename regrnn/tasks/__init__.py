"""The systems: one folder each. A folder here is a task; nothing else has to be edited for a new one."""
