"""Where images come from: one reader a kind of source, `Data` -> (part -> Raw, names of the classes)."""
