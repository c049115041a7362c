"""One adapter a file: what it trains at one place of a model; `apply` puts them on and takes them off."""
