"""Measurements: this application and the designs it is compared with, side by side in one run."""
