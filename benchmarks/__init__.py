"""What the estimators cost and reach (`python -m benchmarks`), and how they fare on models that are hard (`hard`)."""
