"""The agent: masks frames on the device and keeps its engine up to date."""
