"""Nothing here is imported by pytest: `--doctest-modules` would run calls meant to fail."""

collect_ignore_glob = ["*.py"]
