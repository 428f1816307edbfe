"""The parts of the report's page: numbers in words, the verdict, plots and tables."""
