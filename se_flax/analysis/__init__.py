"""Looking inside networks: excitations by class, class activation maps, confusion."""
