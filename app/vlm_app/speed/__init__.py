"""What things cost: timings, and the card that predicts them."""
