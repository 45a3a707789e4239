"""One file for each contrast: what its second stream sees, and how the two are weighed."""
