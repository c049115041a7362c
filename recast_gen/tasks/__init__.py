"""Tasks on a frozen bank: their images, and the training of coefficients and heads."""
