"""What a recipe may say: one YAML file, a section a stage."""
