"""Analyses of trained networks: excitations by class, class activation maps, confusion matrix."""
