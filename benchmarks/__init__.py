"""Speed and memory, each figure beside a limit or a naive version measured in the same run: `make bench`."""
