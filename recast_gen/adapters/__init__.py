"""One adapter a file: what it trains at one place of a model; `recast_gen.adapter` puts them on and takes them off."""
