"""What is done with scores of yes-or-no answers beside counting them."""
