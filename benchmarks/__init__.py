"""What twinloop costs beside what one would take instead: `make bench`, see README.md."""
