"""Box counts -> partition sums -> mass exponent, spectrum, alpha0 and width -> degree of emergence."""
