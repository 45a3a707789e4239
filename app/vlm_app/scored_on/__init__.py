"""What heads are scored on: pictures with what they show, and examples made of them."""
